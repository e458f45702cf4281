"""The one thread on which a process talks to its gate: what is asked meanwhile shares one transaction."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, ParamSpec, TypeVar

from claude_jobs.errors import StoreUnavailable
from claude_jobs.stores.gate import GateStore

P = ParamSpec("P")
T = TypeVar("T")

GROUP = 128
"""Operations that share one commit at most: who asked first does not wait for ever."""


class _Call:
    """One operation, who waits for it, and how it ended."""

    __slots__ = ("error", "future", "loop", "operation", "result")

    def __init__(
        self, operation: Callable[[], object], future: asyncio.Future[Any], loop: asyncio.AbstractEventLoop
    ) -> None:
        self.operation = operation
        self.future = future
        self.loop = loop
        self.result: object = None
        self.error: Exception | None = None


class GateThread:
    """Runs synchronous operations of one GateStore, in the order they were asked for. One that was begun is completed."""

    def __init__(self, store: GateStore) -> None:
        self.store = store
        self._queue: SimpleQueue[_Call | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._is_closed = False

    async def __call__(self, operation: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Await `operation(*args)` of the store. Cancelling the wait does not cancel the operation.

        Raises:
            StoreUnavailable: The thread was closed; the store failed, or the commit of those who shared it.
        """
        if self._is_closed:
            raise StoreUnavailable("The gate is closed. Start claude-jobs again.", path="")
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="gate", daemon=True)
            self._thread.start()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._queue.put(_Call(partial(operation, *args, **kwargs), future, loop))
        return await future

    def _run(self) -> None:
        while (first := self._queue.get()) is not None:
            calls = [first]
            is_last = self._take(calls)
            self._perform(calls)
            _answer(calls)
            if is_last:
                return

    def _take(self, calls: list[_Call]) -> bool:
        """Add what is queued. Whether the end was among it."""
        try:
            while len(calls) < GROUP:
                call = self._queue.get_nowait()
                if call is None:
                    return True
                calls.append(call)
        except Empty:
            pass
        return False

    def _perform(self, calls: Sequence[_Call]) -> None:
        if len(calls) == 1:
            return _run(calls[0])
        try:
            with self.store.group():
                for call in calls:
                    _run(call)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is everybody's
            for call in calls:
                call.error = error
        return None

    def close(self) -> None:
        """Finish what is queued and end the thread."""
        self._is_closed = True
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None


def _run(call: _Call) -> None:
    try:
        call.result = call.operation()
    except Exception as error:  # noqa: BLE001 - it belongs to who asked
        call.error = error


def _answer(calls: Sequence[_Call]) -> None:
    for loop in {call.loop for call in calls}:
        mine = [call for call in calls if call.loop is loop]
        try:
            loop.call_soon_threadsafe(_resolve, mine)
        except RuntimeError:  # the loop was closed: nobody waits any more
            continue


def _resolve(calls: Sequence[_Call]) -> None:
    for call in calls:
        if call.future.done():
            continue
        if call.error is not None:
            call.future.set_exception(call.error)
        else:
            call.future.set_result(call.result)

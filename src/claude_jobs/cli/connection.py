"""The command's line to the worker: connects when first used, starts one if it may, and connects again when it was lost."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

from claude_jobs.errors import WorkerLost
from claude_jobs.rpc.client import Client, connect

ANSWER_S = 60.0
"""Longest silence of a worker that is well."""
_TRIES = 3

Answer = Any
"""What JSON says. Each command knows the shape of what it asked for."""
OnEvent = Callable[[dict[str, Any]], None]


class Connection:
    """`with Connection() as worker: worker.call("tokens")`.

    Args:
        environ: The environment to speak for; None is this process's.
        start: Whether a worker may be started.
    """

    def __init__(self, environ: Mapping[str, str] | None = None, *, start: bool = True) -> None:
        self._environ = os.environ if environ is None else environ
        self._start = start
        self._client: Client | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Hang up. Jobs go on."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def call(
        self,
        method: str,
        params: Mapping[str, object] | None = None,
        *,
        on_event: OnEvent | None = None,
        again: bool = True,
        timeout_s: float | None = ANSWER_S,
    ) -> Answer:
        """The result of a method.

        Args:
            again: Ask once more if the worker goes away; only for what may be asked twice.
            timeout_s: Longest silence to bear, None for any.

        Raises:
            WorkerLost: It went away each time, or once if not `again`.
            ClaudeJobsError: What the method raised; WorkerUnavailable if there is no worker.
        """
        for left in range(_TRIES if again else 1, 0, -1):
            try:
                return self._ask(method, params or {}, on_event, timeout_s)
            except WorkerLost:
                self.close()
                if left == 1:
                    raise
        raise AssertionError("the last try returns or raises")

    def _ask(
        self, method: str, params: Mapping[str, object], on_event: OnEvent | None, timeout_s: float | None
    ) -> Answer:
        if self._client is None:
            self._client = connect(start=self._start, environ=self._environ)
        running = self._client.stream(method, params, timeout_s)
        while True:
            try:
                event = next(running)
            except StopIteration as stop:
                return stop.value
            if on_event is not None:
                on_event(event)

"""The worker for asyncio programs, typed. Errors are those of `claude_jobs.errors`, with their fields."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from types import TracebackType
from typing import Any, Self, Unpack, cast

from claude_jobs.client.connection import Connection, Ended
from claude_jobs.client.options import BatchOptions, GenerateOptions, JobOptions
from claude_jobs.client.values import (
    BatchAnswer,
    GenerateAnswer,
    Job,
    JobResult,
    Model,
    Models,
    Piece,
    TokenCount,
    answer_of,
    item_of,
    piece_of,
    read,
)
from claude_jobs.runner.paths import Home

MAX_CONNECTIONS = 64
MAX_IDLE = 8


class AsyncClient:
    """Asks the worker over its private socket; starts one if there is none. Use it on one event loop, from many tasks.

        async with AsyncClient() as claude:
            answer = await claude.generate("Say hello.", provider="openai", fallbacks=["qwen"])
            job = await claude.spawn("Fix the failing test.", cwd="/src/app")
            done = await claude.result(job.job_id, wait_s=600)

    Cancelling a call (`asyncio.timeout`) ends the generation it waits for; a job it waits for goes on.

    Args:
        home: Default: the one that `environ` names.
        start: Start a worker if none runs, unless CLAUDE_JOBS_WORKER says otherwise.
        environ: Whose credentials and keys are used.
        connections: Requests at once; more wait.
    """

    def __init__(
        self,
        home: Home | None = None,
        *,
        start: bool = True,
        environ: Mapping[str, str] = os.environ,
        connections: int = MAX_CONNECTIONS,
    ) -> None:
        self._home = home or Home.resolve(environ)
        self._start = start
        self._environ = environ
        self._places = asyncio.Semaphore(connections)
        self._idle: list[Connection] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Hang up. Calls that run end with WorkerLost or are cancelled by their tasks; jobs go on."""
        idle, self._idle = self._idle, []
        for connection in idle:
            await connection.close()

    async def generate(self, prompt: str | None = None, **options: Unpack[GenerateOptions]) -> GenerateAnswer:
        """One answer.

        Raises:
            InvalidRequest: A field is not usable as it stands.
            AdmissionError: No quota, rate or route lets it in.
            ProviderError: No provider answered as it should.
            WorkerError: The worker cannot be reached, or went away.
        """
        return answer_of(await self._result("generate", _question(prompt, options)))

    async def stream_generate(
        self, prompt: str | None = None, **options: Unpack[GenerateOptions]
    ) -> AsyncGenerator[Piece | GenerateAnswer]:
        """The answer piece by piece, then whole. Closing the iterator ends the call. Raises as `generate`."""
        async with aclosing(self._asked("stream_generate", _question(prompt, options))) as events:
            async for event in events:
                yield answer_of(event.result) if isinstance(event, Ended) else piece_of(event)

    async def batch_generate(
        self, items: Sequence[Mapping[str, Any] | str], **options: Unpack[BatchOptions]
    ) -> AsyncGenerator[BatchAnswer]:
        """Each answer as it comes. An item is a prompt, or an object with `prompt` or `messages`, `key` and its own options.

        With a `batch_key`, answers that were given before are not made again, whatever happened in between.
        """
        given = [{"prompt": item} if isinstance(item, str) else item for item in items]
        async with aclosing(self._asked("batch_generate", {**options, "items": given})) as events:
            async for event in events:
                if not isinstance(event, Ended):
                    yield item_of(event)

    async def count_tokens(self, prompt: str | None = None, **options: Unpack[GenerateOptions]) -> TokenCount:
        """Input tokens of a request. Raises as `generate`."""
        return read(TokenCount, await self._result("count_tokens", _question(prompt, options)))

    async def list_models(self, provider: str = "") -> Models:
        """The models of all providers, or of one."""
        said = await self._result("list_models", {"provider": provider})
        return Models(models=tuple(read(Model, one) for one in said["models"]), notes=said["notes"])

    async def spawn(self, prompt: str, **options: Unpack[JobOptions]) -> Job:
        """Hand in one job; it outlives this program. With a `key` the same request gives the same job.

        Raises:
            AdmissionError: It was not accepted; nothing was stored.
        """
        said = await self._result("submit", {"items": [{**options, "prompt": prompt}]})
        return read(Job, said["jobs"][0])

    async def result(self, job_id: str, *, wait_s: float = 0.0, offset: int = 0) -> JobResult:
        """A job as it is when it has ended, or `wait_s` seconds are over. Raises JobNotFound."""
        return read(JobResult, await self._result("result", {"job_id": job_id, "wait_s": wait_s, "offset": offset}))

    async def status(
        self, job_ids: Sequence[str] = (), *, states: Sequence[str] = (), batch_id: str = "", limit: int = 20
    ) -> tuple[Job, ...]:
        """Jobs, those with unread results first; all of them, or those named."""
        params = {"ids": list(job_ids), "states": list(states), "batch_id": batch_id, "limit": limit, "keys": True}
        return tuple(read(Job, one) for one in (await self._result("jobs", params))["jobs"])

    async def cancel(self, job_ids: Sequence[str] | str, why: str = "") -> tuple[Job, ...]:
        """Cancel jobs and what they spawned; each as it is then, `note` is the proof."""
        ids = [job_ids] if isinstance(job_ids, str) else list(job_ids)
        said = await self._result("cancel", {"job_ids": ids, "why": why})
        return tuple(read(Job, one) for one in said["jobs"])

    async def _result(self, method: str, params: Mapping[str, object]) -> Mapping[str, Any]:
        """The result of a method; its events are let go."""
        async with aclosing(self._asked(method, params)) as events:
            async for event in events:
                if isinstance(event, Ended):
                    return event.result
        raise AssertionError("a request ends with its result")

    async def _asked(self, method: str, params: Mapping[str, object]) -> AsyncGenerator[Mapping[str, Any] | Ended]:
        async with self._lent() as connection, aclosing(connection.ask(method, params)) as events:
            async for event in events:
                yield event

    @asynccontextmanager
    async def _lent(self) -> AsyncGenerator[Connection]:
        """A connection of our own for one request. One that still waits for something is closed: that ends its request."""
        async with self._places:
            connection = await self._open()
            try:
                yield connection
            finally:
                if connection.is_usable and len(self._idle) < MAX_IDLE:
                    self._idle.append(connection)
                else:
                    await connection.close()

    async def _open(self) -> Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_usable:
                return connection
            await connection.close()
        return await Connection.open(self._home, self._environ, start=self._start)


def _question(prompt: str | None, options: GenerateOptions) -> dict[str, object]:
    given = cast("dict[str, object]", options)
    return given if prompt is None else {"prompt": prompt, **given}

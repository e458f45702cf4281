"""Generation over the private socket, with the words of its HTTP endpoints. Logic is in the services.

generate(fields of POST /tools/generate)      -> an answer
stream_generate(the same)                     emits deltas  -> the answer
batch_generate(fields of /tools/batch_generate) emits items -> the summary
count_tokens(fields of /tools/generate)       -> a count
list_models(provider)                         -> the models
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING, TypeVar

from claude_jobs.errors import InvalidRequest
from claude_jobs.rpc.hello import Hello
from claude_jobs.rpc.methods import Emit, Method
from claude_jobs.rpc.table import caller_of
from claude_jobs.services.generation_batch import BatchBook, BatchSummary, run_batch

if TYPE_CHECKING:  # a worker that nobody asks for generation does not load it
    from claude_jobs.services.caller import Caller
    from claude_jobs.services.generation_api import Ask, Generation

Params = Mapping[str, object]
T = TypeVar("T")
_SLOW = frozenset({"output_schema", "messages", "items", "tools"})
"""What of a request may take long to check: schemas, images."""


def generation_methods(*, generation: Generation, book: BatchBook, submitter: str) -> dict[str, Method]:
    """The methods of this file by name."""
    methods = _Methods(generation, book, submitter)
    return {
        "generate": methods.generate,
        "stream_generate": methods.stream_generate,
        "batch_generate": methods.batch_generate,
        "count_tokens": methods.count_tokens,
        "list_models": methods.list_models,
    }


class _Methods:
    def __init__(self, generation: Generation, book: BatchBook, submitter: str) -> None:
        self._generation = generation
        self._book = book
        self._submitter = submitter

    def _caller(self, hello: Hello) -> Caller:
        return caller_of(hello, self._submitter)

    async def _ask(self, params: Params, hello: Hello) -> Ask:
        from claude_jobs.services.generation_request import GenerateRequest

        caller = self._caller(hello)
        return await _checked(params, lambda: GenerateRequest.parse(params).ask(caller))

    async def generate(self, params: Params, hello: Hello, emit: Emit) -> object:
        from claude_jobs.services.generation_view import answer_view

        return answer_view(await self._generation.generate(await self._ask(params, hello)))

    async def stream_generate(self, params: Params, hello: Hello, emit: Emit) -> object:
        from claude_jobs.domain.generation import Answer
        from claude_jobs.services.generation_view import answer_view, delta_view

        ask = await self._ask(params, hello)
        async with aclosing(self._generation.stream(ask)) as events:
            async for event in events:
                if isinstance(event, Answer):
                    return answer_view(event)
                await emit(delta_view(event))
        raise AssertionError("a stream ends with its answer")

    async def batch_generate(self, params: Params, hello: Hello, emit: Emit) -> object:
        from claude_jobs.services.generation_request import parse_batch

        caller = self._caller(hello)
        batch = await _checked(params, lambda: parse_batch(params, caller))
        summary = BatchSummary(items=len(batch.entries))
        async with aclosing(run_batch(self._generation, batch, self._book)) as views:
            async for view in views:
                summary.count(view)
                await emit(view)
        return summary.view()

    async def count_tokens(self, params: Params, hello: Hello, emit: Emit) -> object:
        from claude_jobs.services.generation_view import count_view

        return count_view(await self._generation.count_tokens(await self._ask(params, hello)))

    async def list_models(self, params: Params, hello: Hello, emit: Emit) -> object:
        from claude_jobs.services.generation_request import provider_named
        from claude_jobs.services.generation_view import models_view

        name = params.get("provider", "")
        if not isinstance(name, str):
            raise InvalidRequest("`provider` must be text.", field="provider")
        provider = provider_named(name, "provider")
        return models_view(await self._generation.models(self._caller(hello), provider))


async def _checked(params: Params, make: Callable[[], T]) -> T:
    return await asyncio.to_thread(make) if _SLOW & params.keys() else make()

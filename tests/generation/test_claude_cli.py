"""The provider claude-cli: the same question, answered by a job; the caller's Claude account pays."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from support_app import caller, environment, running_app, stand_in
from support_generation import addresses, keys

from claude_jobs.domain.generation import Answer
from claude_jobs.errors import InvalidRequest, ProviderTimeout, ProviderUnavailable
from claude_jobs.rehearsal.server import Rehearsal
from claude_jobs.services.generation_request import GenerateRequest
from claude_jobs.stores.gate import LedgerQuery


async def test_a_question_without_provider_is_answered_by_a_job(tmp_path: Path) -> None:
    env = environment(tmp_path, CLAUDE_JOBS_CLI=str(stand_in(tmp_path, text="hello")))
    async with running_app(env) as app:
        ask = GenerateRequest.parse({"prompt": "Say hello."}).ask(caller(tmp_path, env))
        answer = await app.generation.generate(ask)
        again = await app.generation.generate(ask)
        pieces = [event async for event in app.generation.stream(ask)]

    assert answer.route.provider == "claude-cli"
    assert answer.completion.text == "hello"
    assert answer.paid.nusd == 10_000_000
    assert answer.job_id.startswith("j-")
    assert again.job_id != answer.job_id
    assert len(pieces) == 2


async def test_a_job_that_takes_longer_is_named(tmp_path: Path) -> None:
    env = environment(tmp_path, CLAUDE_JOBS_CLI=str(stand_in(tmp_path, seconds=30)))
    async with running_app(env) as app:
        ask = GenerateRequest.parse({"prompt": "Say hello.", "timeout_s": 0.5}).ask(caller(tmp_path, env))
        with pytest.raises(ProviderTimeout, match="j-"):
            await app.generation.generate(ask)


async def test_a_failed_job_is_a_provider_that_failed(tmp_path: Path) -> None:
    env = environment(tmp_path, CLAUDE_JOBS_CLI=str(stand_in(tmp_path, body="exit 3")), CLAUDE_RETRY_ATTEMPTS="1")
    async with running_app(env) as app:
        ask = GenerateRequest.parse({"prompt": "Say hello."}).ask(caller(tmp_path, env))
        with pytest.raises(ProviderUnavailable, match="failed"):
            await app.generation.generate(ask)


async def test_what_a_job_cannot_do_is_said(tmp_path: Path) -> None:
    env = environment(tmp_path, CLAUDE_JOBS_CLI=str(stand_in(tmp_path)))
    async with running_app(env) as app:
        tool = {"name": "look", "parameters": {"type": "object"}}
        ask = GenerateRequest.parse({"prompt": "Look.", "tools": [tool]}).ask(caller(tmp_path, env))
        with pytest.raises(InvalidRequest, match="tools"):
            await app.generation.generate(ask)


async def test_what_a_job_cannot_do_is_passed_on_to_who_can(tmp_path: Path) -> None:
    async with Rehearsal() as api:
        env = environment(tmp_path, CLAUDE_JOBS_CLI=str(stand_in(tmp_path)), MAX_RETRIES="0", **addresses(api.url))
        who = replace(caller(tmp_path, env), keys=keys(1))
        tools = [{"name": "look", "parameters": {"type": "object"}}]
        async with running_app(env) as app:

            async def asked(prompt: str, *targets: str) -> Answer:
                given = {"prompt": prompt, "provider": targets[0], "fallbacks": list(targets[1:]), "tools": tools}
                return await app.generation.generate(GenerateRequest.parse(given).ask(who))

            first = await asked("Look.", "claude-cli", "openai")
            last = await asked('Look there. rehearse: {"fault": "500", "times": 1}', "openai", "claude-cli", "gemini")

    assert first.route.provider == "openai"
    assert [step.why for step in first.steps if step.what == "skip"] != []
    assert last.route.provider == "gemini"


async def test_what_a_job_cannot_be_told_is_a_warning(tmp_path: Path) -> None:
    env = environment(tmp_path, CLAUDE_JOBS_CLI=str(stand_in(tmp_path, text="hello")))
    fields = {"temperature": 0.1, "top_p": 0.5, "stop": ["x"], "seed": 1, "max_tokens": 9, "effort": "none"}
    async with running_app(env) as app:
        ask = GenerateRequest.parse({"prompt": "Say hello.", **fields}).ask(caller(tmp_path, env))
        answer = await app.generation.generate(ask)
        plain = await app.generation.generate(GenerateRequest.parse({"prompt": "Hello."}).ask(caller(tmp_path, env)))

    assert [warning.split(" is")[0] for warning in answer.completion.warnings] == [
        "temperature",
        "top_p",
        "stop",
        "seed",
        "max_output_tokens",
        "effort none",
    ]
    assert plain.completion.warnings == ()


@pytest.mark.parametrize("is_stream", [False, True])
async def test_a_job_answers_where_the_providers_before_it_fail(tmp_path: Path, is_stream: bool) -> None:
    async with Rehearsal() as api:
        env = environment(
            tmp_path,
            CLAUDE_JOBS_CLI=str(stand_in(tmp_path, text="hello")),
            MAX_RETRIES="0",
            **addresses(api.url),
        )
        who = replace(caller(tmp_path, env), keys=keys(1))
        async with running_app(env) as app:
            prompt = 'Say hello. rehearse: {"fault": "500"}'
            given = {"prompt": prompt, "provider": "openai", "fallbacks": ["claude-cli"], "cache_stream": True}
            ask = GenerateRequest.parse(given).ask(who)
            if is_stream:
                *_, answer = [event async for event in app.generation.stream(ask)]
            else:
                answer = await app.generation.generate(ask)
            kept = await app.generation.generate(ask)

    assert isinstance(answer, Answer)
    assert (answer.route.provider, answer.completion.text) == ("claude-cli", "hello")
    assert [(s.what, s.outcome) for s in answer.steps if s.what == "attempt"] == [
        ("attempt", "provider_unavailable"),
        ("attempt", "ok"),
    ]
    assert kept.cached == ""  # a fallback's answer is not the first one's


async def test_a_provider_answers_where_the_job_fails(tmp_path: Path) -> None:
    async with Rehearsal() as api:
        claude = stand_in(tmp_path, body="exit 3")
        env = environment(tmp_path, CLAUDE_JOBS_CLI=str(claude), CLAUDE_RETRY_ATTEMPTS="1", **addresses(api.url))
        who = replace(caller(tmp_path, env), keys=keys(1))
        async with running_app(env) as app:
            ask = GenerateRequest.parse({"prompt": "Say hello.", "fallbacks": ["openai"]}).ask(who)
            answer = await app.generation.generate(ask)

    assert answer.route.provider == "openai"


async def test_what_an_answering_job_cost_is_in_the_ledger_once(tmp_path: Path) -> None:
    env = environment(tmp_path, CLAUDE_JOBS_CLI=str(stand_in(tmp_path, text="hello")))
    async with running_app(env) as app:
        ask = GenerateRequest.parse({"prompt": "Say hello."}).ask(caller(tmp_path, env))
        answer = await app.generation.generate(ask)
        opened = await app.generation.opened()
        await opened.cache.flush()
        (row,) = await opened.gate(opened.store.ledger, LedgerQuery(by=("org",)))

    assert answer.paid.nusd == 10_000_000
    assert row.nusd == 10_000_000

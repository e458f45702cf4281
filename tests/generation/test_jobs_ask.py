"""Questions from inside a job: its organization pays, it gets no keys of the user's, and sees nobody else's calls."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
from support_app import caller, environment, running_app, stand_in
from support_generation import addresses, generating

from claude_jobs.domain.job import JobState
from claude_jobs.errors import NoRoute, NotPermitted
from claude_jobs.factory import App
from claude_jobs.rehearsal.server import Rehearsal
from claude_jobs.rpc.hello import Hello
from claude_jobs.rpc.oversight import oversight_methods
from claude_jobs.services.caller import Caller
from claude_jobs.services.generation_batch import run_batch
from claude_jobs.services.generation_request import GenerateRequest, parse_batch
from claude_jobs.services.request import JobRequest


async def inside(app: App, who: Caller, org: str) -> Caller:
    """A caller in a running job of that organization."""
    submitted = await app.jobs.submit([JobRequest.parse({"prompt": "Work.", "org": org})], who)
    job_id = submitted.receipts[0].job.id
    async for situation in app.jobs.wait(job_id, 60):
        if situation.job.state is JobState.RUNNING:
            break
    return replace(who, inside_job=job_id, credentials=())


async def test_a_job_asks_in_its_organizations_name_and_only_if_it_may(tmp_path: Path) -> None:
    async with Rehearsal() as api:
        env = environment(
            tmp_path, CLAUDE_JOBS_CLI=str(stand_in(tmp_path, seconds=60)), **addresses(api.url), TOKEN_QUOTA="100000"
        )
        (tmp_path / "jobs" / ".env").write_text("OPENAI_API_KEY=sk-rehearsal-1\n")
        ask = GenerateRequest.parse({"prompt": "Say hello.", "provider": "openai", "org": "rich"})
        async with running_app(env) as app:
            job = await inside(app, caller(tmp_path, env), "poor")
            with pytest.raises(NoRoute, match="CLAUDE_JOBS_PROVIDERS_IN_JOBS"):
                await app.generation.generate(ask.ask(job))
        async with running_app({**env, "CLAUDE_JOBS_PROVIDERS_IN_JOBS": "true"}) as app:
            job = await inside(app, caller(tmp_path, env), "poor")
            answer = await app.generation.generate(ask.ask(job))

    assert answer.org == "poor"


@pytest.mark.parametrize("is_economy", [False, True])
async def test_a_jobs_batches_are_its_organizations_too(tmp_path: Path, is_economy: bool) -> None:
    async with Rehearsal() as api:
        claude = stand_in(tmp_path, seconds=60)
        settings = {"CLAUDE_JOBS_PROVIDERS_IN_JOBS": "true", "TOKEN_QUOTA": "100000", **addresses(api.url)}
        env = environment(tmp_path, CLAUDE_JOBS_CLI=str(claude), **settings)
        (tmp_path / "jobs" / ".env").write_text("OPENAI_API_KEY=sk-rehearsal-1\n")
        async with running_app(env) as app:
            job = await inside(app, caller(tmp_path, env), "poor")
            items = [{"prompt": "One."}, {"prompt": "Two."}]
            given = {"items": items, "provider": "openai", "org": "rich", "economy": is_economy}
            async with aclosing(run_batch(app.generation, parse_batch(given, job), app.batches)) as views:
                answers = [view["answer"] async for view in views]
            (rich,) = await app.oversight.quotas("rich")
            (poor,) = await app.oversight.quotas("poor")

    assert len(answers) == 2
    assert rich["used"] == 0
    assert cast("int", poor["used"]) > 0


async def test_a_job_sees_no_calls(tmp_path: Path) -> None:
    hello = Hello(kind="rpc", version="1", pid=1, cwd="/", inside_job="j-1")

    async def emit(event: object) -> None: ...

    async with generating(tmp_path) as place:
        call = await place.generate()
        methods = oversight_methods(place.app.oversight)
        for name in ("explain", "calls", "usage", "routes"):
            with pytest.raises(NotPermitted):
                await methods[name]({"id": call.id}, hello, emit)


async def test_a_dollar_quota_passes_by_what_has_no_price(tmp_path: Path) -> None:
    async with generating(tmp_path, COST_QUOTA_USD="1") as place:
        answer = await place.generate(provider="openai", model="nobody-knows-this", fallbacks=["claude"])

    assert answer.route.provider == "claude"

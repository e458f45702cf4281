"""`demo`: real claude processes do a batch of jobs over three fake tokens, one of which meets its limit on the way.

Then one question goes to a provider that is down, and another one answers.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import click

from claude_jobs.cli import demo_question, exits, output
from claude_jobs.cli.connection import Connection
from claude_jobs.cli.following import display, snapshots
from claude_jobs.cli.rehearse import Stage, rehearsed
from claude_jobs.cli.story import Story
from claude_jobs.cli.waiting import counted

_SETTINGS = {
    "CLAUDE_RETRY_DELAY": "0.5",
    "CLAUDE_JOBS_TOKEN_CONCURRENCY": "3",
    "CLAUDE_JOBS_IDLE_SECONDS": "30",
    "CLAUDE_JOBS_MODEL": "sonnet",
    "MAX_RETRIES": "1",
}
_COLUMNS = {"name": "JOB", "state": "STATE", "token": "TOKEN", "elapsed": "TIME", "note": "NOTE"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """What the batch and the question came to, as the worker tells it."""

    jobs: list[dict[str, Any]]
    tokens: list[dict[str, Any]]
    story: Story
    wall_s: float
    answer: dict[str, Any]


@click.command()
@click.option("--keep", is_flag=True, help="Leave the temporary directory behind.")
@output.json_option
def demo(keep: bool, as_json: bool) -> int:
    """Watch it work, with no account and at no cost."""
    from claude_jobs.rehearsal.demo import DEMO_PROMPTS

    output.note(
        f"{len(DEMO_PROMPTS)} jobs for real `claude` processes, on a make-believe API on this machine: no account, no cost."
    )
    output.note(
        "Three fake tokens share the work. One of them reaches its usage limit on the way; its jobs go on with another."
    )
    output.note("At the end one question goes to a provider that is down, and the next one answers.")
    output.note("Home, configuration, worker, tokens and keys are the demo's own, and are gone when it ends.\n")
    with rehearsed(demo=True, keep=keep, settings=_SETTINGS) as stage:
        played = _play(stage, list(DEMO_PROMPTS))
        files = sorted(path.name for path in stage.work.iterdir())
    wrong = [*_shortfalls(played, len(DEMO_PROMPTS)), *stage.leftovers]
    if as_json:
        output.emit({**_figures(played), "answer": played.answer, "files": files, "wrong": wrong})
    else:
        _tell(played, files, wrong)
    return exits.FAILED if wrong else exits.OK


def _play(stage: Stage, prompts: list[str]) -> Played:
    items = [
        {
            "prompt": prompt,
            "label": prompt,
            "cwd": str(stage.work),
            "tools": ["Bash"] if prompt.startswith("Check") else ["Write"],
        }
        for prompt in prompts
    ]
    with Connection(stage.environ) as worker:
        worker.call("models")  # the worker starts here, before the clock does
        began = time.monotonic()
        ids = [job["job_id"] for job in worker.call("submit", {"items": items, "batch": True}, again=False)["jobs"]]
        story = Story(worker, ids)
        with display(len(ids), columns=_COLUMNS) as shown:
            for jobs in snapshots(worker, ids):
                for line in story.news(jobs):
                    shown.say(line)
                shown.show([{**job, "token": story.token_of(job["job_id"])} for job in jobs])
        wall_s = time.monotonic() - began
        results = [worker.call("result", {"job_id": job_id}) for job_id in ids]
        tokens = worker.call("tokens")["tokens"]
        return Played(jobs=results, tokens=tokens, story=story, wall_s=wall_s, answer=demo_question.asked(worker))


def _shortfalls(played: Played, asked: int) -> list[str]:
    """What did not go as it must."""
    wrong = [f"job {job['job_id']} {job['state']}: {job['note']}" for job in played.jobs if job["state"] != "succeeded"]
    if len({job["job_id"] for job in played.jobs}) != asked:
        wrong.append(f"{asked} jobs were asked for, {len(played.jobs)} are known")
    if not sum(token["limits_hit"] for token in played.tokens):
        wrong.append("no token met its limit")
    return [*wrong, *demo_question.shortfalls(played.answer)]


def _figures(played: Played) -> dict[str, Any]:
    jobs = played.jobs
    worked_s = sum(job["elapsed_s"] for job in jobs)
    return {
        "jobs": len(jobs),
        "succeeded": sum(job["state"] == "succeeded" for job in jobs),
        "lost": sum(job["state"] not in ("succeeded", "failed", "cancelled", "expired") for job in jobs),
        "wall_s": round(played.wall_s, 1),
        "worked_s": round(worked_s, 1),
        "at_once": round(worked_s / played.wall_s, 1),
        "limits_hit": sum(token["limits_hit"] for token in played.tokens),
        "moves": played.story.moves,
        "retries": played.story.retries,
        "rehearsal_cost_usd": round(sum(job["cost_usd"] for job in jobs), 4),
        "tokens": [
            {
                "name": token["name"],
                "jobs": played.story.finished_on(token["fingerprint"]),
                "limits_hit": token["limits_hit"],
            }
            for token in sorted(played.tokens, key=lambda one: one["name"])
        ],
    }


def _tell(played: Played, files: list[str], wrong: list[str]) -> None:
    figures = _figures(played)
    output.text(f"\n{counted(played.jobs)} of {figures['jobs']} jobs, {figures['lost']} lost.")
    worked, wall = output.duration(figures["worked_s"]), output.duration(figures["wall_s"])
    output.text(f"They ran for {worked} in all, in {wall}: {figures['at_once']} at once on average.")
    for token in figures["tokens"]:
        limit = ", then its usage limit" if token["limits_hit"] else ""
        output.text(f"  {token['name']}: {token['jobs']} job{'' if token['jobs'] == 1 else 's'}{limit}")
    output.text(
        f"{figures['moves']} changed their token, {figures['retries']} were tried again. Files written: {', '.join(files)}"
    )
    output.text(f"Had it been real it would have cost ${figures['rehearsal_cost_usd']:.2f} (figures of the rehearsal).")
    demo_question.tell(played.answer)
    for line in wrong:
        output.note(f"claude-jobs: demo: {line}")
    if not wrong:
        output.text("\nNo process is left. With your own login: claude-jobs install")

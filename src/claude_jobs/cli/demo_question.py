"""The part of `demo` after the jobs: one question whose first provider is down, its answer, and the explanation of it."""

from __future__ import annotations

from typing import Any

from claude_jobs.cli import explain, generate, output
from claude_jobs.cli.connection import Connection
from claude_jobs.rehearsal.demo import DEMO_PROVIDERS, DEMO_QUESTION

Answer = dict[str, Any]


def asked(worker: Connection) -> Answer:
    """The answer, with its record as `explain` tells it under "record"."""
    first, *others = DEMO_PROVIDERS
    worker.call("list_models", {"provider": first})  # its SDK is loaded here, not in the explanation
    question = {"prompt": DEMO_QUESTION, "provider": first, "fallbacks": others}
    answer = worker.call("generate", question, again=False)
    return {**answer, "record": worker.call("explain", {"id": answer["id"]})}


def shortfalls(answer: Answer) -> list[str]:
    """What did not go as it must."""
    outcomes = [
        (step["route"]["provider"], step["outcome"] == "ok")
        for step in answer["record"]["explain"]
        if step["what"] == "attempt"
    ]
    if (DEMO_PROVIDERS[0], False) not in outcomes:
        return [f"{DEMO_PROVIDERS[0]} did not fail"]
    if outcomes[-1] != (DEMO_PROVIDERS[1], True):
        return [f"{DEMO_PROVIDERS[1]} did not answer"]
    return []


def tell(answer: Answer) -> None:
    """The question, its answer and the explanation, for people."""
    first, second = DEMO_PROVIDERS
    output.text(f"\nOne question for {first}, with {second} to fall back on; {first} is down.")
    output.text(f"$ claude-jobs generate --provider {first} --fallback {second} {DEMO_QUESTION!r}")
    output.text(answer["text"])
    output.text(output.safe(generate.footer(answer)))
    output.text(f"\n$ claude-jobs explain {answer['id']}")
    output.text("\n".join(explain.lines(answer["record"])))

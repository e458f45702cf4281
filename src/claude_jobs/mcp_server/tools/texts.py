"""The words of the tools' text answers. Values in, text out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from claude_jobs.domain.job import Job
from claude_jobs.policy.recursion import RecursionLimits
from claude_jobs.services.views import ResultView, one_line

PAGE_CHARS = 20_000
"""A page of an answer: clients put tool output beyond about 25 kB or 25,000 tokens into a file."""
MOST_STEPS = 100
STEP_CHARS = 300
FINISHED = frozenset({"succeeded", "failed", "cancelled", "expired"})


def job_line(job: Mapping[str, object]) -> str:
    """A job in one line, from its view."""
    label = f" [{job['label']}]" if job.get("label") else ""
    unread = " (unread)" if job.get("unread") else ""
    return f"{job['job_id']}{label} {job['state']}{unread}, {job['model']}, {job['elapsed_s']} s: {job['note']}"


def tree_note(job: Job, limits: RecursionLimits) -> str:
    """What is left of its tree's limits, for a job that another one spawned; "" for a root."""
    if not job.depth:
        return ""
    return f"Depth {job.depth} of {limits.depth}, {job.ordinal} of {limits.total} jobs in this tree. "


def answer(view: ResultView) -> str:
    """The answer, or what to do while there is none."""
    if view.state not in FINISHED:
        return (
            f"Job {view.job_id} is {view.state} ({view.note}). It goes on by itself, also without you. "
            f'Next: result(job_id="{view.job_id}", wait_s=110).'
        )
    if view.structured is not None and view.state == "succeeded":
        return json.dumps(view.structured, ensure_ascii=False)
    if not view.text:
        return f"Job {view.job_id} {view.state} without text: {view.note}"
    failed = (
        ""
        if view.state == "succeeded"
        else f"Job {view.job_id} {view.state} ({view.error}): {view.note}. Partial text:\n\n"
    )
    return failed + view.text + rest(view)


def rest(view: ResultView) -> str:
    """How to read on, if this was not all."""
    if view.next_offset is None:
        return ""
    call = f'result(job_id="{view.job_id}", offset={view.next_offset}, detail="full")'
    return f"\n\n[{view.next_offset} of {view.total_chars} characters shown. The rest: {call}]"


def facts(view: ResultView) -> str:
    """What else there is to know of an end: what was denied, whether it was accepted, where its changes are."""
    parts = [f"denied: {', '.join(view.denied)}"] if view.denied else []
    if view.accepted is not None:
        parts.append("its check passed" if view.accepted else "its check failed")
    if view.corrections:
        parts.append(f"sent back {'once' if view.corrections == 1 else f'{view.corrections} times'}")
    if view.worktree:
        parts.append(f'changes kept in {view.worktree}, the diff is in detail="full"')
    return "".join(f", {part}" for part in parts)


def footer(view: ResultView, *, is_new: bool, key: str, payer: str) -> str:
    """Which job this was, what it cost and who paid."""
    effect = "" if is_new else f", the existing job of key {key!r}"
    return f"[job {view.job_id}{effect}, {view.state}, {view.model}, {view.elapsed_s} s{cost(view)}; paid by {payer}]"


def cost(view: ResultView) -> str:
    """Tokens and dollars, once there are any."""
    if not view.output_tokens and not view.cost_usd:
        return ""
    return f", {view.input_tokens}+{view.output_tokens} tokens, ${view.cost_usd:.4f}"


def explanation(call: Mapping[str, Any]) -> str:
    """A call, then a line for each step on its way, as `Oversight.explain` tells them."""
    usage = call["usage"]
    how = f" ({call['cached']})" if call["cached"] else ""
    head = (
        f"{call['id']} {call['outcome']}{how}, {_route(call['route'])}, org {call['org']}, "
        f"{usage['total_tokens']} tokens, {_price(call)}, {call['took_ms'] / 1000:.1f} s"
    )
    return "\n".join([head, *(one_line(_step(step), STEP_CHARS) for step in call["explain"][:MOST_STEPS])])


def _step(step: Mapping[str, Any]) -> str:
    took = f" in {step['took_ms'] / 1000:.3f} s" if step.get("took_ms") else ""
    route = f" {_route(step['route'])}" if "route" in step else ""
    cost = f", {_price(step)}" if "cost_usd" in step else ""
    why = f": {step['why']}" if step.get("why") else ""
    return f"{step['at_ms'] / 1000:.3f} s {step['what']} {step['outcome']}{route}{took}{cost}{why}"


def _route(route: Mapping[str, str]) -> str:
    key = f" (key {route['key']})" if route["key"] else ""
    return f"{route['provider']}/{route['model']}{key}"


def _price(view: Mapping[str, Any]) -> str:
    return "price unknown" if view["cost_usd"] is None else f"${view['cost_usd']:.6f}"

"""What callers see of a job: flat values that become JSON. One view for MCP, socket, HTTP and shell, and the words in them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from claude_jobs.domain.event import Event
from claude_jobs.domain.job import DependencyMode, Failure, Job, JobState, Outcome, Reason
from claude_jobs.domain.token import TokenState
from claude_jobs.domain.usage import usd
from claude_jobs.policy.tokens import cooling_until
from claude_jobs.policy.transitions import public
from claude_jobs.services.batches import spoken
from claude_jobs.services.jobs import Cancelled, Situation

PAGE_CHARS = 40_000
"""About 10,000 tokens: what Claude Code takes without a warning (fastmcp.md §7)."""
CONCISE_CHARS = 4_000
DIFF_CHARS = 20_000
NAMED = 5
"""Jobs that a note names; the others are counted."""
LISTED = 50
"""Jobs that a view lists as waited for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobView:
    """A job in one line.

    Attributes:
        state: queued, running, blocked, succeeded, failed, cancelled or expired.
        reason: Why a queued job waits: dependency, limit, rate_limit, needs_credential, backoff, capacity.
        elapsed_s: Since it was first started, or queued if it was not.
        note: What it is doing, why it waits, or how it ended; one line.
        cost_usd: Over all attempts so far.
        unread: Whether it ended and nobody has fetched its result.
        depth: 0 unless a job spawned it: `parent_id`.
        ahead: Jobs before it in the queue.
        eta_s: Seconds until it will probably start, None if unknown.
        waiting_for: Jobs that must come first, or that it waits for while it is blocked.
        worktree: Directory of its git worktree, which was kept because it holds changes.
    """

    job_id: str
    state: str
    model: str
    elapsed_s: float
    note: str
    reason: str = ""
    label: str = ""
    batch_id: str = ""
    attempts: int = 0
    cost_usd: float = 0.0
    unread: bool = False
    depth: int = 0
    parent_id: str = ""
    ahead: int = 0
    eta_s: float | None = None
    waiting_for: tuple[str, ...] = ()
    worktree: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultView(JobView):
    """A job with what came out.

    Attributes:
        text: The answer from `offset` on, bounded; partial text if the job failed.
        next_offset: Where the rest begins, None if this was all.
        total_chars: Length of the whole answer.
        error: Name of the failure, "" if none.
        session_id: `claude --resume <session_id>` in `cwd` opens the job's session by hand.
        token: Fingerprint of the credential used last.
        denied: Tools that were denied.
        structured: The answer as JSON, if a schema was asked for; None if it is longer than a page.
        accepted: What its acceptance check said; None if there is none, or it was not reached.
        corrections: Times it was sent back, because of its schema or its check.
        diff: What it changed in its worktree, as a bounded patch.
    """

    text: str = ""
    next_offset: int | None = None
    total_chars: int = 0
    error: str = ""
    session_id: str = ""
    cwd: str = ""
    token: str = ""
    turns: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    denied: tuple[str, ...] = ()
    structured: Any = None
    accepted: bool | None = None
    corrections: int = 0
    diff: str = ""


def job_view(situation: Situation, now_ms: int) -> JobView:
    """The view of one job."""
    return JobView(**_common(situation, now_ms))


def result_view(situation: Situation, now_ms: int, *, offset: int = 0, max_chars: int = PAGE_CHARS) -> ResultView:
    """The view of one job with a page of its answer."""
    job = situation.job
    outcome = job.outcome or Outcome()
    text = outcome.text
    page = text[offset : offset + max_chars]
    end = offset + len(page)
    return ResultView(
        **_common(situation, now_ms),
        text=page,
        next_offset=end if end < len(text) else None,
        total_chars=len(text),
        error=outcome.failure.value,
        session_id=job.session_id,
        cwd=job.spec.cwd,
        token=job.token,
        turns=job.outcome.turns if job.outcome else job.progress.turns,
        input_tokens=job.usage.input_tokens,
        output_tokens=job.usage.output_tokens,
        denied=outcome.denied,
        structured=json.loads(outcome.structured) if 0 < len(outcome.structured) <= max_chars else None,
        accepted=_accepted(job),
        corrections=outcome.corrections,
        diff=bounded(outcome.diff, DIFF_CHARS),
    )


def _accepted(job: Job) -> bool | None:
    if not job.spec.accept or job.outcome is None:
        return None
    return {Failure.NONE: True, Failure.NOT_ACCEPTED: False}.get(job.outcome.failure)


def bounded(text: str, limit: int) -> str:
    """The beginning of a long text, and how much is missing."""
    return text if len(text) <= limit else f"{text[:limit]}\n[{len(text) - limit} characters more]"


def _common(situation: Situation, now_ms: int) -> dict[str, Any]:
    job = situation.job
    since_ms = job.started_ms or job.created_ms
    running_cost = 0 if job.is_terminal else job.progress.cost_nusd
    return {
        "job_id": job.id,
        "state": public(job.state).value,
        "model": job.spec.model,
        "elapsed_s": round(max(0, (job.finished_ms or now_ms) - since_ms) / 1000, 1),
        "note": note(situation, now_ms),
        "reason": situation.reason.value if public(job.state).value == "queued" else "",
        "label": job.label,
        "batch_id": job.batch_id,
        "attempts": job.attempts,
        "cost_usd": round(usd(job.usage.cost_nusd + running_cost), 6),
        "unread": job.is_terminal and job.read_ms is None,
        "depth": job.depth,
        "parent_id": job.parent_id or "",
        "ahead": situation.ahead,
        "eta_s": situation.eta_s,
        "waiting_for": waiting_for(situation)[:LISTED],
        "worktree": job.outcome.worktree if job.outcome else "",
    }


def waiting_for(situation: Situation) -> tuple[str, ...]:
    """Ids of the jobs that it waits for, by its dependencies or because it asked for their results."""
    job = situation.job
    return tuple(one.job_id for one in job.depends_on) if job.state is JobState.WAITING else situation.waits_for


def note(situation: Situation, now_ms: int) -> str:
    """One line: what the job is doing, why it waits, or how it ended."""
    job = situation.job
    match job.state:
        case JobState.RUNNING:
            return _doing(job)
        case JobState.BLOCKED:
            return f"waits for {_names(situation.waits_for) or 'other jobs'}"
        case JobState.SUCCEEDED:
            denied = f" (denied: {', '.join(job.outcome.denied)})" if job.outcome and job.outcome.denied else ""
            return f"done{denied}"
        case JobState.FAILED | JobState.EXPIRED | JobState.CANCELLED:
            return one_line(job.outcome.message, 300) if job.outcome and job.outcome.message else job.state.value
        case JobState.ADMITTED:
            return "starting"
        case _:
            return _waiting(situation, now_ms)


def _doing(job: Job) -> str:
    progress = job.progress
    parts = [progress.doing or "starting"]
    if progress.turns:
        parts.append(f"turn {progress.turns}")
    if progress.output_tokens:
        parts.append(f"{progress.output_tokens} tokens")
    if progress.cost_nusd:
        parts.append(f"${usd(progress.cost_nusd):.4f}")
    return one_line(" · ".join(parts), 180)


def _waiting(situation: Situation, now_ms: int) -> str:
    until = _until(situation.wait_until_ms, now_ms)
    match situation.reason:
        case Reason.NEEDS_CREDENTIAL if situation.why:
            return one_line(f"out of use, see `claude-jobs tokens`: {situation.why}", 300)
        case Reason.NEEDS_CREDENTIAL:
            return "no worker holds its credential: start a session that has it, or put it into CLAUDE_JOBS_HOME/.env"
        case Reason.RATE_LIMIT:
            return f"every token is at its limit, continues by itself{until}"
        case Reason.BACKOFF:
            return f"{_TROUBLES.get(situation.job.trouble, 'waits to try again')}{until}"
        case Reason.DEPENDENCY:
            any_of = "any of " if situation.job.needs is DependencyMode.ANY and len(waiting_for(situation)) > 1 else ""
            return f"waits for {any_of}{_names(waiting_for(situation)) or 'other jobs'}"
        case Reason.LIMIT if until:
            return f"a limit of its tree or a quota of its organization is used up, looks again{until}"
        case Reason.LIMIT:
            return "waits for a place under its limit"
        case Reason.CAPACITY:
            place = f"{situation.ahead} ahead" if situation.ahead else "next"
            eta = f", starts in about {spoken(situation.eta_s)}" if situation.eta_s else ""
            return f"queued, {place}{eta}"
        case Reason.NONE:
            return "queued"


_TROUBLES = {
    Failure.NETWORK: "the API cannot be reached, tries again by itself",
    Failure.OVERLOADED: "the API is overloaded, tries again by itself",
    Failure.SERVER_ERROR: "the API fails, tries again by itself",
    Failure.RATE_LIMITED: "the API limits requests, tries again by itself",
    Failure.CLI_MISSING: "there is no claude to run: install Claude Code, or set CLAUDE_JOBS_CLI; looks again by itself",
    Failure.SPAWN_FAILED: "claude cannot be started (see `claude-jobs doctor`), tries again by itself",
}


def _names(ids: tuple[str, ...]) -> str:
    rest = f" and {len(ids) - NAMED} more" if len(ids) > NAMED else ""
    return ", ".join(ids[:NAMED]) + rest


def _until(at_ms: int | None, now_ms: int) -> str:
    if at_ms is None:
        return ""
    moment = datetime.fromtimestamp(at_ms / 1000, UTC)
    left_s = max(0, (at_ms - now_ms) // 1000)
    left = f"{left_s} s" if left_s < 120 else f"{left_s // 60} min" if left_s < 7_200 else f"{left_s // 3600} h"
    return f" at {moment:%H:%M} UTC (in {left})" if left_s < 86_400 else f" on {moment:%b %d, %H:%M} UTC (in {left})"


def one_line(text: str, limit: int) -> str:
    """Without line breaks and not longer than `limit`."""
    flat = " ".join(text.split())
    return flat if len(flat) <= limit else flat[: limit - 1] + "…"


def cancel_view(cancelled: Cancelled, now_ms: int) -> dict[str, object]:
    """A cancelled job with its proof."""
    was = cancelled.ack.was.value
    done = cancelled.is_done and not cancelled.survivors
    if was in {"succeeded", "failed", "cancelled", "expired"}:
        proof = f"had already {was}" if was != "cancelled" else "was already cancelled"
    elif done:
        count = len(cancelled.signalled)
        proof = (
            f"ended; {count} processes signalled, none alive"
            if count
            else "ended before it ran; no process was started"
        )
    else:
        proof = f"still stopping; ask again with status. Alive: {list(cancelled.survivors)}"
    view = asdict(job_view(Situation(job=cancelled.job), now_ms))
    return {**view, "note": proof, "survivors": list(cancelled.survivors)}


def event_view(event: Event) -> dict[str, object]:
    """An event as JSON."""
    return {
        "seq": event.seq,
        "job_id": event.job_id,
        "epoch": event.epoch,
        "at": datetime.fromtimestamp(event.at_ms / 1000, UTC).isoformat(timespec="milliseconds"),
        "kind": event.kind.value,
        **event.data,
    }


def token_view(state: TokenState, *, is_held: bool, now_ms: int) -> dict[str, object]:
    """A token without its secret: fingerprint, kind, use, resets."""
    until = cooling_until(state, "", now_ms)
    status = "quarantined" if state.quarantined else "cooling" if until else "ready" if is_held else "not held"
    return {
        "fingerprint": state.fingerprint,
        "name": state.name,
        "kind": state.kind.value,
        "status": status,
        "running": state.running,
        "jobs": state.jobs,
        "limits_hit": state.limits_hit,
        "cost_usd": round(usd(state.cost_nusd), 6),
        "resets_at": datetime.fromtimestamp(until / 1000, UTC).isoformat(timespec="seconds") if until else "",
        "cooldowns": {
            window or "all": datetime.fromtimestamp(end / 1000, UTC).isoformat(timespec="seconds")
            for window, end in state.cooldowns.items()
            if end > now_ms
        },
        "utilization": {name: window.utilization for name, window in state.windows.items()},
        "why": state.quarantined,
    }

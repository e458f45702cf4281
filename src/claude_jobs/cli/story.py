"""What happened to the jobs of a batch, told from their events: limits, moves, retries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from claude_jobs.cli.connection import Connection

_WINDOWS = {"five_hour": "five-hour", "seven_day": "weekly", "seven_day_opus": "weekly Opus"}

Event = dict[str, Any]


class Story:
    """Reads the events of some jobs as they come."""

    def __init__(self, worker: Connection, ids: Sequence[str]) -> None:
        self._worker = worker
        self._ids = list(ids)
        self._after = 0
        self._tokens: dict[str, str] = {}
        self._names: dict[str, str] = {"": ""}
        self._finished: dict[str, str] = {}
        self._told: set[tuple[str, str]] = set()
        self._labels: dict[str, str] = {}
        self._limited: set[str] = set()
        self.moves = 0
        self.retries = 0

    def token_of(self, job_id: str) -> str:
        """Name of the token it has or had last, "" before the first."""
        return self._name(self._tokens.get(job_id, ""))

    def finished_on(self, fingerprint: str) -> int:
        """Jobs that ended on that token."""
        return sum(token == fingerprint for token in self._finished.values())

    def news(self, jobs: Sequence[dict[str, Any]]) -> list[str]:
        """What happened since the last call, as lines worth telling."""
        self._labels |= {job["job_id"]: job["label"] or job["job_id"] for job in jobs}
        events: list[Event] = []
        query = {"job_ids": self._ids, "after": self._after}
        self._after = self._worker.call("events", query, on_event=events.append, again=False)["after"]
        return [line for event in events if (line := self._read(event))]

    def _read(self, event: Event) -> str:
        readers: dict[str, Callable[[Event], str]] = {
            "admitted": self._admitted,
            "limited": self._limit,
            "moved": self._moved,
            "retry": self._retry,
            "finished": self._ended,
        }
        reader = readers.get(event["kind"])
        return reader(event) if reader else ""

    def _admitted(self, event: Event) -> str:
        job_id, token = event["job_id"], event["token"]
        before = self._tokens.get(job_id)
        self._tokens[job_id] = token
        if before in self._limited and before != token:
            self.moves += 1
            return f"   {self._label(event)!r} goes on with {self._name(token)}"
        return ""

    def _limit(self, event: Event) -> str:
        token, window = event["token"], event["window"]
        self._limited.add(token)
        if (token, window) in self._told:
            return ""
        self._told.add((token, window))
        resets = datetime.fromtimestamp(event["resets_at_ms"] / 1000).astimezone()
        return f"!! {self._name(token)} has reached its {_WINDOWS.get(window, window)} limit, until {resets:%H:%M}"

    def _moved(self, event: Event) -> str:
        self._tokens[event["job_id"]] = event["token"]
        self.moves += 1
        return f"   {self._label(event)!r} goes on with {self._name(event['token'])} in the middle of it"

    def _retry(self, event: Event) -> str:
        if event["token"] in self._limited and event["failure"] in ("usage_limit", "rate_limited", "limit_text"):
            return ""
        self.retries += 1
        return f".. {self._label(event)!r} is tried again: {event['failure'].replace('_', ' ')}"

    def _ended(self, event: Event) -> str:
        self._finished[event["job_id"]] = event["token"]
        if event["state"] == "succeeded":
            return ""
        return f"xx {self._label(event)!r} {event['state']}: {event['message']}"

    def _label(self, event: Event) -> str:
        job_id: str = event["job_id"]
        return self._labels.get(job_id, job_id)

    def _name(self, fingerprint: str) -> str:
        if fingerprint not in self._names:
            known: list[dict[str, str]] = self._worker.call("tokens")["tokens"]
            self._names |= {one["fingerprint"]: one["name"] for one in known}
        return self._names.get(fingerprint, fingerprint)

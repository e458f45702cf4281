"""Ends of attempts on disk before they are in the store: what survives a worker that dies between the two."""

from __future__ import annotations

import os
from pathlib import Path

import structlog

from claude_jobs.domain.job import Outcome
from claude_jobs.stores import codec

log = structlog.get_logger()


class ResultFiles:
    """One small file per attempt that ended and is not recorded yet. Written whole or not at all (rename)."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def save(self, job_id: str, epoch: int, outcome: Outcome) -> None:
        """Keep `outcome`. A disk that refuses is logged only: the outcome is still in memory, and recording it is tried on."""
        target = self._path(job_id)
        draft = target.with_suffix(f".{epoch}.tmp")
        try:
            fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "w", encoding="utf-8") as file:
                file.write(codec.to_json(outcome))
            draft.replace(target)
        except OSError as error:
            log.warning("result_file.not_written", job_id=job_id, error=error.strerror)
            draft.unlink(missing_ok=True)

    def load(self, job_id: str) -> Outcome | None:
        """The outcome an earlier owner of this job left unrecorded. Only a success is worth taking over."""
        try:
            outcome = codec.from_json(Outcome, self._path(job_id).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return outcome if outcome.succeeded else None

    def drop(self, job_id: str) -> None:
        """The outcome is recorded, or nobody will ask for it."""
        for path in self._directory.glob(f"{job_id}.*"):
            path.unlink(missing_ok=True)

    def kept(self) -> frozenset[str]:
        """Jobs of which there is a file, half-written ones included."""
        return frozenset(path.name.partition(".")[0] for path in self._directory.iterdir())

    def _path(self, job_id: str) -> Path:
        return self._directory / f"{job_id}.json"

"""Structured logging to stderr: one JSON object a line for files, readable lines for a terminal. Never to stdout."""

from __future__ import annotations

import io
import logging
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from typing_extensions import Buffer


class _Lossy(io.FileIO):
    """Drops what cannot be written: a full disk or a closed terminal costs a line, not the worker and its jobs."""

    def write(self, data: Buffer, /) -> int:
        with suppress(OSError):
            super().write(data)
        return memoryview(data).nbytes


def bear_loss() -> None:
    """Have this process's stderr raise nothing, whoever writes to it, and hold nothing back that would fail at the exit."""
    raw = _Lossy(2, "w", closefd=False)
    sys.stderr = io.TextIOWrapper(raw, "utf-8", "backslashreplace", write_through=True)


def configure(level: str = "info") -> None:
    """Set up structlog for this process. stdout belongs to the protocol, so everything goes to stderr."""
    renderer = (
        structlog.dev.ConsoleRenderer(colors=False)
        if sys.stderr.isatty()
        else structlog.processors.JSONRenderer(sort_keys=True)
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )

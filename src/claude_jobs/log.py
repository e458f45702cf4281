"""Structured logging to stderr: one JSON object a line for files, readable lines for a terminal. Never to stdout."""

from __future__ import annotations

import logging
import sys
from contextlib import suppress

import structlog


class LossyLogger(structlog.WriteLogger):
    """Drops what cannot be written: a full disk or a closed terminal costs a line, not the worker and its jobs."""

    def msg(self, message: str) -> None:
        """Write a line, if that is possible."""
        with suppress(OSError, ValueError):
            super().msg(message)

    log = debug = info = warn = warning = error = critical = fatal = failure = err = exception = msg


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
        logger_factory=_logger,
        cache_logger_on_first_use=True,
    )


def say(message: str) -> None:
    """One plain line for people, before there is a log or beside it."""
    LossyLogger(sys.stderr).msg(f"claude-jobs: {message}")


def _logger(*_: object) -> LossyLogger:
    return LossyLogger(sys.stderr)

"""Whether the claude CLI is logged in where a caller's jobs would run. Presence only: validity shows with the first answer."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import structlog

from claude_jobs.errors import ClaudeNotFound, LoginUnknown

log = structlog.get_logger()

TIMEOUT_S = 15.0
REMEMBER_S = 60.0
"""A yes is believed for a minute, anything else for five seconds: people log in and try again at once."""
FORGET_S = 5.0
_NEXT = "No API key is billed instead. Try again, look with `claude auth status`, or name what shall pay as CLAUDE_CODE_TOKEN."


class LoginProbe:
    """Asks `claude auth status` (no request goes out, 0.4 s) and remembers the answer for a while.

    Args:
        find: PATH -> where the executable is; may raise ClaudeNotFound.
        timeout_s: How long it may take to answer.
    """

    def __init__(self, find: Callable[[str], Path], *, timeout_s: float = TIMEOUT_S) -> None:
        self._find = find
        self._timeout_s = timeout_s
        self._known: dict[tuple[str, str], tuple[float, bool | LoginUnknown]] = {}
        self._lock = asyncio.Lock()

    async def __call__(self, environ: Mapping[str, str]) -> bool:
        """Whether a process with this environment would find a login.

        Raises:
            LoginUnknown: It could not be asked, or did not say, and it never said yes before.
        """
        where = (environ.get("HOME", ""), environ.get("CLAUDE_CONFIG_DIR", ""))
        async with self._lock:
            until, answer = self._known.get(where, (0.0, False))
            if time.monotonic() >= until:
                answer, lasts_s = await self._find_out(environ, was_yes=answer is True)
                self._known[where] = (time.monotonic() + lasts_s, answer)
        if isinstance(answer, LoginUnknown):
            raise LoginUnknown(answer.message)
        return answer

    async def _find_out(self, environ: Mapping[str, str], *, was_yes: bool) -> tuple[bool | LoginUnknown, float]:
        """The answer, and how long it is believed. What was a yes stays one until it is a no."""
        try:
            answer = await self._ask(environ)
        except LoginUnknown as error:
            log.warning("login.unknown", reason=error.message, taken_as_yes=was_yes)
            return was_yes or error, FORGET_S
        return answer, REMEMBER_S if answer else FORGET_S

    async def _ask(self, environ: Mapping[str, str]) -> bool:
        try:
            process = await asyncio.create_subprocess_exec(
                self._find(environ.get("PATH", "")),
                "auth",
                "status",
                "--json",
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                env={**environ, "DISABLE_AUTOUPDATER": "1", "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1"},
                cwd="/",
                start_new_session=True,
            )
        except ClaudeNotFound as error:
            raise _unknown(error.message) from error
        except OSError as error:
            raise _unknown(f"claude cannot be started ({error.strerror}).") from error
        try:
            async with asyncio.timeout(self._timeout_s):
                out, _ = await process.communicate()
        except TimeoutError as error:
            raise _unknown(f"claude did not answer within {self._timeout_s:g} s.") from error
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        return _said(out, process.returncode)


def _said(out: bytes, code: int | None) -> bool:
    try:
        return bool(json.loads(out)["loggedIn"])
    except (ValueError, KeyError, TypeError) as error:
        raise _unknown(f"claude gave no clear answer (exit code {code}).") from error


def _unknown(why: str) -> LoginUnknown:
    return LoginUnknown(f"Whether claude is logged in could not be found out: {why} {_NEXT}")

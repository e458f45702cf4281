"""What a worker that steps aside still does for its successor: it gives it the credentials that jobs in the queue wait for.

They are pushed to whoever listens at the home's socket, as fronts do with theirs; nobody can ask for them.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from contextlib import suppress

import structlog

from claude_jobs.domain.token import Credential
from claude_jobs.errors import ClaudeJobsError
from claude_jobs.rpc import offer
from claude_jobs.rpc.client import Client
from claude_jobs.rpc.launch import START_TIMEOUT_S
from claude_jobs.rpc.link import connect
from claude_jobs.rpc.packing import packed
from claude_jobs.runner.paths import Home

log = structlog.get_logger()

ANSWER_S = 10.0
_POLL_S = 0.1


async def hand_over(home: Home, credentials: Sequence[Credential]) -> None:
    """Wait for the successor, for as long as its start may take, and give it `credentials`. Best effort."""
    loop = asyncio.get_running_loop()
    give_up_at = loop.time() + START_TIMEOUT_S
    while credentials and loop.time() < give_up_at:
        if await asyncio.to_thread(_give, home, credentials):
            log.info("credentials.handed_over", count=len(credentials))
            return
        await asyncio.sleep(_POLL_S)


def _give(home: Home, credentials: Sequence[Credential]) -> bool:
    with suppress(ClaudeJobsError):  # it is starting, or it is a version that takes none: its fronts bring theirs
        found = connect(home, offer.build(os.environ, "rpc"))
        if found is not None:
            with Client(*found) as successor:
                if successor.welcome.pid != os.getpid():
                    successor.call("hold", {"credentials": packed(credentials)}, ANSWER_S)
                    return True
    return False

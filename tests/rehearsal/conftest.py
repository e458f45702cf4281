"""A running rehearsal and a plain client on it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx2
import pytest

from claude_jobs.rehearsal.server import Rehearsal


@pytest.fixture
async def rehearsal() -> AsyncIterator[Rehearsal]:
    async with Rehearsal() as running:
        yield running


@pytest.fixture
async def http(rehearsal: Rehearsal) -> AsyncIterator[httpx2.AsyncClient]:
    """Without a key: each dialect brings its own."""
    async with httpx2.AsyncClient(base_url=rehearsal.url, timeout=30, trust_env=False) as running:
        yield running

"""What the worker gives its keeper comes back to the next worker."""

from __future__ import annotations

import asyncio
import json
import socket

import pytest

from claude_jobs.domain.token import Credential, TokenKind
from claude_jobs.errors import InvalidRequest
from claude_jobs.rpc.keeper_link import KeeperLink
from claude_jobs.rpc.packing import unpacked
from claude_jobs.runner import keeper

PRIVATE = (("BIG", "x" * 200_000),)
HELD = [
    *(Credential(name=f"T{n}", kind=TokenKind.OAUTH, secret=f"s{n}", profile=PRIVATE) for n in range(200)),
    Credential(name="K", kind=TokenKind.API_KEY, secret="k"),
    Credential(name="claude login", kind=TokenKind.LOGIN, profile=(("HOME", "/ü\udcff"),)),
]


async def link_of(first: dict[str, object]) -> tuple[KeeperLink, socket.socket]:
    ours, theirs = socket.socketpair()
    sending = asyncio.get_running_loop().run_in_executor(None, ours.sendall, json.dumps(first).encode() + b"\n")
    link = await KeeperLink.open(theirs.detach())
    await sending
    return link, ours


async def test_credentials_come_back_whole_and_what_they_share_is_told_once() -> None:
    link, ours = await link_of({"op": "held", "credentials": []})
    reading = asyncio.to_thread(ours.makefile("rb").readline)
    link.hold(HELD)
    line = await reading
    await link.done()
    ours.close()
    again, other = await link_of({"op": "held", "credentials": json.loads(line)["credentials"]})
    await again.done()
    other.close()

    assert len(line) < 300_000 < keeper.LINE_BYTES
    assert [one.fingerprint for one in again.held] == [one.fingerprint for one in HELD]
    assert again.held == tuple(HELD)


@pytest.mark.parametrize(
    "groups", [None, 7, "text", [1], [{}], [{"profile": 1, "keys": []}, {"keys": [["n", "oauth"]], "profile": []}]]
)
def test_what_is_no_packed_credential_is_refused_without_being_shown(groups: object) -> None:
    with pytest.raises(InvalidRequest, match=r"Not credentials: \w+\.$"):
        unpacked(groups)

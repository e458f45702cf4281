"""What is made of `claude auth status`: a yes, a no, and everything that is neither."""

from __future__ import annotations

from pathlib import Path

import pytest
from support_processes import wait_until

from claude_jobs.errors import ClaudeNotFound, LoginUnknown
from claude_jobs.runner import proctree
from claude_jobs.services import login
from claude_jobs.services.login import LoginProbe

YES = """echo '{"loggedIn": true}'"""
NO = """echo '{"loggedIn": false}'; exit 1"""


class Claude:
    """A stand-in that answers as it was told last, and counts."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
        self._root = root
        self._script = root / "claude"
        self.answers(answer)
        self.environ = {"PATH": "/usr/bin:/bin", "HOME": str(root)}
        self.probe = LoginProbe(lambda _: self._script, timeout_s=60.0)
        monkeypatch.setattr(login, "FORGET_S", 0.0)
        monkeypatch.setattr(login, "REMEMBER_S", 0.0)

    def answers(self, body: str) -> None:
        draft = self._root / "draft"
        draft.write_text(f"#!/bin/sh\necho x >> {self._root}/asked\n{body}\n")
        draft.chmod(0o755)
        draft.rename(self._script)

    async def says(self) -> bool:
        return await self.probe(self.environ)


async def test_a_yes_is_a_yes_and_a_no_is_a_no(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    claude = Claude(tmp_path, monkeypatch, YES)

    first = await claude.says()
    claude.answers(NO)

    assert (first, await claude.says()) == (True, False)


@pytest.mark.parametrize("body", ["exit 1", "kill -9 $$", "echo not json", "echo '{}'", "echo '[]'", "echo null"])
async def test_what_is_no_answer_is_not_taken_for_a_no(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str
) -> None:
    claude = Claude(tmp_path, monkeypatch, body)

    with pytest.raises(LoginUnknown, match="claude auth status") as refused:
        await claude.says()

    assert refused.value.retryable
    assert "CLAUDE_CODE_TOKEN" in refused.value.message


@pytest.mark.parametrize("body", ["exit 1", "echo not json"])
async def test_the_last_yes_holds_until_there_is_a_no(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str
) -> None:
    claude = Claude(tmp_path, monkeypatch, YES)
    await claude.says()
    claude.answers(body)
    meanwhile = [await claude.says(), await claude.says()]
    claude.answers(NO)
    after = await claude.says()
    claude.answers(body)

    assert (meanwhile, after) == ([True, True], False)
    with pytest.raises(LoginUnknown):
        await claude.says()


async def test_silence_is_not_a_no_and_leaves_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    claude = Claude(tmp_path, monkeypatch, f"sleep 60 & echo $! > {tmp_path}/pid; wait")
    claude.probe = LoginProbe(lambda _: tmp_path / "claude", timeout_s=2.5)

    with pytest.raises(LoginUnknown, match=r"within 2\.5 s"):
        await claude.says()

    pid = int((tmp_path / "pid").read_text())
    wait_until(lambda: (proc := proctree.look(pid)) is None or proc.is_dead)


async def test_a_claude_that_cannot_be_run_is_not_a_no(tmp_path: Path) -> None:
    def nowhere(path: str) -> Path:
        raise ClaudeNotFound

    with pytest.raises(LoginUnknown, match="Install Claude Code"):
        await LoginProbe(nowhere)({})
    with pytest.raises(LoginUnknown, match="cannot be started"):
        await LoginProbe(lambda _: tmp_path)({})


async def test_an_answer_is_remembered_whatever_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    claude = Claude(tmp_path, monkeypatch, "exit 1")
    monkeypatch.undo()
    for _ in range(3):
        with pytest.raises(LoginUnknown):
            await claude.says()

    assert (tmp_path / "asked").read_text() == "x\n"

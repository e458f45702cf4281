"""One claude process with all that belongs to it: family, output, secrets. It holds one conversation at a time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path

from claude_jobs.errors import SpawnFailed
from claude_jobs.runner import mcp_config, proctree
from claude_jobs.runner.command import Command
from claude_jobs.runner.family import Family, Waits
from claude_jobs.runner.listeners import Answers, Clearing, Listener, Quiet, nobody
from claude_jobs.runner.process import Child, death_wish
from claude_jobs.runner.proctree import MARK
from claude_jobs.runner.prompt import clear_line, control_line, token_line
from claude_jobs.runner.stream import Init, LineFramer
from claude_jobs.runner.transcript import config_dir, is_resumable


class Host:
    """A started claude.

    Attributes:
        claude: The executable.
        secrets: Every secret it was ever given: none may come out of it.
        conversations: How many it has begun.
    """

    def __init__(self, command: Command) -> None:
        """Start it now.

        Raises:
            SpawnFailed: The operating system refused.
        """
        self.claude = command.argv[0]
        self.secrets = command.secrets
        self._private = command.private
        self.conversations = 0
        self._config = config_dir(command.env)
        self._temporary = command.env.get("TMPDIR") or "/tmp"  # noqa: S108 - where the CLI puts its socket
        self._born: Init | None = None
        self._clearing: Clearing | None = None
        self._is_introduced = False
        self._framer = LineFramer()
        self._listener: Listener = nobody
        self.child = self._start(command)
        self.family = Family(self.child.proc, command.env[MARK])

    def _start(self, command: Command) -> Child:
        if self._private is not None:
            mcp_config.write(self._private)
        try:
            return Child(
                command,
                prefix=death_wish(command.env.get("PATH", "")),
                on_output=self._hear,
                on_zombie=self._claim,
            )
        except SpawnFailed:
            self._tidy()
            raise

    @property
    def has_ended(self) -> bool:
        """Whether nothing more can be had from it."""
        return self.child.exited.done() or self.child.stdout_closed

    def introduce(self, command: Command) -> None:
        """Tell it what it must know before its first prompt, once."""
        if not self._is_introduced and command.system:
            self.child.write(command.system)
        self._is_introduced = True

    def converse(self, listener: Listener, command: Command) -> None:
        """Begin a conversation with the command's prompt; `listener` hears all that is said from now on."""
        self.conversations += 1
        self._listener = listener
        self._clearing = None
        self.child.forget_stderr()
        self.introduce(command)
        self.child.write(command.prompt)

    def meet(self, init: Init) -> None:
        """Remember what it said of itself first: it must say the same before each further conversation."""
        self._born = self._born or init

    def give_token(self, secret: str) -> None:
        """Another subscription token for what it asks from now on."""
        self.secrets = (*self.secrets, secret)
        self.child.write(token_line(secret))

    def wait(self, on_noise: Callable[[], None]) -> None:
        """It waits for its first prompt. `on_noise` if it begins a turn before that."""
        self._listener = Quiet(on_noise).hear

    def rest(self, on_noise: Callable[[], None]) -> None:
        """It forgets the conversation that was held and waits for the next one; `on_noise` as for `wait`."""
        self._clearing = Clearing(on_noise)
        self._listener = self._clearing.hear
        self.child.write(clear_line())

    async def clear(self, within_s: float) -> str | None:
        """Wait until the conversation that was held is forgotten; `rest` begins it.

        Returns:
            The session id of the next one; "" if this claude does not begin another, None if it does not answer or is
            not what it was.
        """
        if self.has_ended:
            return None
        if self._clearing is None:
            self.rest(lambda: None)
        clearing = self._clearing
        assert clearing is not None
        await asyncio.wait([clearing.session_id], timeout=within_s)
        self._listener = nobody
        if not clearing.session_id.done() or not self._is_unchanged(clearing.init):
            return None
        # It may have been killed since it began anew, and the loop has not heard of it yet.
        return clearing.session_id.result() if proctree.is_alive(self.child.proc) else None

    async def ask(self, requests: Mapping[str, Mapping[str, object]], within_s: float) -> bool | None:
        """Whether it does all that control requests (by their ids) ask, before it begins a turn; None: not in time."""
        if self.has_ended:
            return None
        answers = Answers(requests)
        self._listener = answers.hear
        for request_id, request in requests.items():
            self.child.write(control_line(request_id, request))
        await asyncio.wait([answers.are_good], timeout=within_s)
        self._listener = nobody
        return answers.are_good.result() if answers.are_good.done() else None

    def _is_unchanged(self, now: Init | None) -> bool:
        before = self._born
        return before is None or now is None or _nature(before) == _nature(now)

    async def bury(self, waits: Waits, *, gently: bool = True) -> None:
        """End it, with everything it started, in whatever state it is."""
        if not self.child.exited.done():
            await self.family.stop(self.child, waits, gently=gently)
        await self.family.kill()
        self._remove_socket()
        self._tidy()

    def forget_session(self) -> None:
        """Clear away the transcript of a conversation that was never begun: it holds the `/clear` alone."""
        done = self._clearing.session_id if self._clearing else None
        if done is not None and done.done() and (session_id := done.result()):
            is_resumable(self._config, session_id)

    def _remove_socket(self) -> None:
        """A killed CLI leaves its messaging socket behind; it is named after the pid."""
        pid = self.child.proc.pid
        told = self._born.socket_path if self._born else ""
        socket = Path(told) if told else Path(self._temporary, "cc-socks", f"{pid}.sock")
        if socket.name == f"{pid}.sock" and socket.parent.name == "cc-socks":
            with contextlib.suppress(OSError):
                socket.unlink()

    def _tidy(self) -> None:
        if self._private is not None:
            mcp_config.remove(self._private)

    def _hear(self, data: bytes) -> None:
        self._listener(self._framer.push(data) if data else self._framer.close(), not data)

    def _claim(self) -> None:
        self.family.claim_orphans()


def _nature(init: Init) -> tuple[object, ...]:
    return init.model, init.tools, init.cwd, init.permission_mode

"""The bare claude CLI as a child, with a home of its own and nothing inherited."""

from __future__ import annotations

import asyncio
import json
import os
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import claude_agent_sdk
from support_processes import PATIENCE_S

CLAUDE = Path(claude_agent_sdk.__file__).parent / "_bundled" / "claude"


@dataclass(frozen=True, slots=True, kw_only=True)
class CliRun:
    """What one `claude -p` did."""

    returncode: int
    events: list[dict[str, Any]]
    stderr: str
    session_id: str

    @property
    def result(self) -> dict[str, Any]:
        return self.of("result")[-1]

    def of(self, kind: str, subtype: str | None = None) -> list[dict[str, Any]]:
        return [one for one in self.events if one["type"] == kind and subtype in (None, one.get("subtype"))]


def cli_env(
    home: Path, url: str, *, token: str | None = "sk-ant-oat01-rehearsal-1", api_key: str | None = None
) -> dict[str, str]:
    """A clean environment for a CLI that talks to `url`."""
    env = {
        "HOME": str(home),
        "PATH": os.environ["PATH"],
        "TMPDIR": str(home),
        "CLAUDE_CONFIG_DIR": str(home / ".claude"),
        "ANTHROPIC_BASE_URL": url,
        "CLAUDE_CODE_MAX_RETRIES": "0",
        "DISABLE_AUTOUPDATER": "1",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    }
    if api_key is not None:
        return {**env, "ANTHROPIC_API_KEY": api_key}
    return {**env, "CLAUDE_CODE_OAUTH_TOKEN": token} if token is not None else env


async def run_cli(
    prompt: str,
    *,
    env: Mapping[str, str],
    cwd: Path,
    args: Sequence[str] = (),
    model: str = "sonnet",
    resume: str | None = None,
    timeout_s: float = 2 * PATIENCE_S,
) -> CliRun:
    """Runs one prompt to its end."""
    session_id = resume or str(uuid.uuid4())
    cwd.mkdir(parents=True, exist_ok=True)
    Path(env["HOME"]).mkdir(parents=True, exist_ok=True)
    process = await asyncio.create_subprocess_exec(
        *(str(CLAUDE), "-p", "--output-format", "stream-json", "--verbose", "--input-format", "stream-json"),
        *("--resume" if resume else "--session-id", session_id, "--model", model),
        *("--strict-mcp-config", "--setting-sources", "", *args),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=dict(env),
        cwd=cwd,
    )
    line = json.dumps({"type": "user", "message": {"role": "user", "content": prompt}}) + "\n"
    try:
        async with asyncio.timeout(timeout_s):
            out, err = await process.communicate(line.encode())
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    events: list[dict[str, Any]] = [json.loads(one) for one in out.decode().splitlines()]
    return CliRun(returncode=process.returncode, events=events, stderr=err.decode(), session_id=session_id)

"""A stage for a rehearsal: a home, a config directory, a worker, fake tokens and keys of its own, on a loopback API that costs nothing.

Nothing real is within its reach: no credential, no key, no login, no address of a provider, no settings of the user's Claude Code.
All of it is removed at the end.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from claude_jobs.cli import output
from claude_jobs.cli.stopping import stop_worker
from claude_jobs.errors import ClaudeJobsError
from claude_jobs.policy.providers import KEY_NAMES
from claude_jobs.rehearsal.demo import DEMO_SCRIPT
from claude_jobs.rehearsal.script import Script, load_script
from claude_jobs.runner import proctree
from claude_jobs.runner.executable import find_claude
from claude_jobs.runner.paths import Home
from claude_jobs.settings import names

_START_S = 20.0
_STOP_S = 5.0
_KEPT = ("LANG", "LC_ALL", "LC_CTYPE", "TZ", "TERM", "USER", "LOGNAME", "SHELL", "IS_SANDBOX", "COLUMNS", "LINES")
_ADDRESSES = {
    "ANTHROPIC_BASE_URL": "",  # the CLI's, too
    "OPENAI_BASE_URL": "/openai/v1",
    "GOOGLE_BASE_URL": "/gemini",
    "XAI_BASE_URL": "/xai/v1",
    "DASHSCOPE_BASE_URL": "/dashscope/compatible-mode/v1",
    "OLLAMA_ENDPOINT": "/ollama",
}
"""Where on the rehearsal API each provider is played."""
_OF_THE_STAGE = frozenset({"CLAUDE_JOBS_HOME", "CLAUDE_JOBS_WORKER", "CLAUDE_JOBS_CLI", *_ADDRESSES})


@dataclass(slots=True)
class Stage:
    """A rehearsal that is on.

    Attributes:
        environ: The whole environment of everything on the stage.
        secrets: The fake tokens of Claude Code, in order.
        leftovers: What was wrong when it was cleared; empty if all went well.
    """

    root: Path
    environ: dict[str, str]
    secrets: list[str]
    leftovers: list[str] = field(default_factory=list[str])

    @property
    def work(self) -> Path:
        """A directory for the jobs."""
        return self.root / "work"


@contextmanager
def rehearsed(
    script: Path | None = None, *, demo: bool = False, keep: bool = False, settings: Mapping[str, str] | None = None
) -> Generator[Stage]:
    """A stage with its API running; the worker starts with the first call.

    Args:
        script: What the API plays; None echoes.
        demo: Play the demo's script.
        keep: Leave the directory behind.
        settings: Settings of the worker; None takes the user's own.

    Raises:
        ClaudeNotFound: There is no claude to rehearse with.
        InvalidRequest: The script is not one.
    """
    played = DEMO_SCRIPT if demo else load_script(script) if script else Script()
    claude = find_claude(os.environ.get("CLAUDE_JOBS_CLI"), os.environ.get("PATH", os.defpath))
    root = Path(os.path.realpath(tempfile.mkdtemp(prefix="claude-jobs-rehearsal-")))
    with _terminable():
        api, url = _start_api(script, demo=demo)
        stage = _stage(root, url, played, claude, _own_settings() if settings is None else settings)
        try:
            yield stage
        finally:
            # A second Ctrl-C must not leave half of it behind.
            before = signal.signal(signal.SIGINT, signal.SIG_IGN)
            stage.leftovers += _clear(stage, api, keep=keep)
            signal.signal(signal.SIGINT, before)


@contextmanager
def _terminable() -> Generator[None]:
    """SIGTERM ends it as Ctrl-C does, so that nothing stays behind."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _start_api(script: Path | None, *, demo: bool) -> tuple[subprocess.Popen[str], str]:
    command = [sys.executable, "-P", "-m", "claude_jobs.rehearsal", "--port", "0"]
    command += ["--demo"] if demo else ["--script", str(script.absolute())] if script else []
    api = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,  # its end is our end, however we end
        stdout=subprocess.PIPE,
        text=True,
        cwd="/",
        env={"PATH": os.environ.get("PATH", os.defpath)},
        process_group=0,
    )
    assert api.stdout is not None, "a pipe was asked for"
    url = api.stdout.readline().strip()
    if not url:
        raise ClaudeJobsError(f"The rehearsal API did not start (status {api.wait(_START_S)}); its message is above.")
    return api, url


def _own_settings() -> dict[str, str]:
    """The user's limits count in a rehearsal too; where things are does not."""
    return {name: os.environ[name] for name in names() - _OF_THE_STAGE if name in os.environ}


def _stage(root: Path, url: str, played: Script, claude: Path, settings: Mapping[str, str]) -> Stage:
    for name in ("home", "config", "state", "tmp", "work"):
        (root / name).mkdir(mode=0o700)
    secrets = [token.secret for token in played.tokens]
    tokens = {f"CLAUDE_CODE_TOKEN{number}": secret for number, secret in enumerate(secrets, start=1)}
    # Numbered: a bare ANTHROPIC_API_KEY would be one that jobs may use, too.
    keys = {
        f"{name}{number}": key.secret for name in KEY_NAMES.values() for number, key in enumerate(played.keys, start=1)
    }
    environ = {
        **{name: os.environ[name] for name in _KEPT if name in os.environ},
        **settings,
        **tokens,
        **keys,
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(root / "home"),
        "TMPDIR": str(root / "tmp"),
        "CLAUDE_CONFIG_DIR": str(root / "config"),
        "CLAUDE_JOBS_HOME": str(root / "state"),
        "CLAUDE_JOBS_CLI": str(claude),
        **{name: url + path for name, path in _ADDRESSES.items()},
    }
    return Stage(root, environ, secrets)


def _clear(stage: Stage, api: subprocess.Popen[str], *, keep: bool) -> list[str]:
    """End everything on the stage; what could not be ended, in words."""
    wrong: list[str] = []
    if left := stop_worker(stage.environ, 0.0):
        wrong.append(f"worker processes {left} are still alive")
    home = Home.resolve(stage.environ)
    orphans = proctree.marked(f"{home.home_id}:")
    if orphans:
        wrong.append(f"processes of jobs were left: {[proc.pid for proc in orphans]}")
        proctree.kill_tree(orphans)
    _end(api)
    if keep:
        output.note(f"Kept: {stage.root}")
    else:
        shutil.rmtree(stage.root, ignore_errors=True)
        if stage.root.exists():
            wrong.append(f"{str(stage.root)!r} could not be removed")
    return wrong


def _end(api: subprocess.Popen[str]) -> None:
    assert api.stdin is not None, "pipes were asked for"
    assert api.stdout is not None, "pipes were asked for"
    api.stdin.close()
    try:
        api.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        api.kill()
        api.wait()
    api.stdout.close()

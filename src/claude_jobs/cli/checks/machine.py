"""The patient, and checks of what is under us: Python, the system, the settings."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from claude_jobs import __version__
from claude_jobs.cli.checks.check import Check, noted, ok, problem
from claude_jobs.errors import InvalidRequest
from claude_jobs.rpc.hello import is_inside_job
from claude_jobs.runner.paths import Home
from claude_jobs.settings import Settings, load

_OLDEST = (3, 11)


@dataclass(frozen=True, slots=True)
class Patient:
    """What all checks look at.

    Attributes:
        settings: The defaults if the given ones are wrong; those of `environ` if the file cannot be read.
        settings_error: What is wrong with them, "" if nothing.
    """

    environ: Mapping[str, str]
    home: Home
    settings: Settings
    settings_error: str = ""

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Patient:
        """The patient in this environment. Reads settings, creates nothing."""
        home = Home.resolve(environ)
        try:
            return cls(environ, home, load(environ, home.env_file))
        except InvalidRequest as error:
            return cls(environ, home, load(environ if error.field == ".env" else {}), error.message)


Look = Callable[[Patient], list[Check]]


def env_file(path: Path) -> dict[str, str]:
    """What a .env file says; nothing if it cannot be read."""
    from dotenv import dotenv_values

    try:
        values = dotenv_values(path, interpolate=False) if path.is_file() else {}
    except (OSError, UnicodeDecodeError):
        return {}
    return {name: value for name, value in values.items() if value}


def _python(patient: Patient) -> list[Check]:
    version = platform.python_version()
    system = f"claude-jobs {__version__}, Python {version}, {platform.system()} {platform.release()}"
    if sys.version_info < _OLDEST:
        return [problem("system", system, f"Install Python {_OLDEST[0]}.{_OLDEST[1]} or newer.")]
    if platform.system() not in ("Linux", "Darwin"):
        return [problem("system", system, "Use Linux, macOS, or WSL on Windows.")]
    return [ok("system", system)]


def _settings(patient: Patient) -> list[Check]:
    if patient.settings_error:
        remedy = f"Correct it in the environment or in {patient.home.env_file}."
        return [problem("settings", patient.settings_error, remedy)]
    given = sorted(patient.settings.model_fields_set)
    return [ok("settings", f"set: {', '.join(given)}" if given else "all defaults")]


def _inside(patient: Patient) -> list[Check]:
    if is_inside_job(patient.environ):
        return [noted("place", "This shell runs inside a job.", "Look from your own shell for the whole picture.")]
    return []


def _lingering(patient: Patient) -> list[Check]:
    """Only where there is a systemd that could end our worker at logout."""
    loginctl = shutil.which("loginctl")
    if loginctl is None:
        return []
    try:
        command = [loginctl, "show-user", "--property=Linger", "--value"]
        said = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return []
    answer = said.stdout.strip()
    if said.returncode or answer not in ("yes", "no"):
        return []
    if answer == "yes":
        return [ok("lingering", "on: the worker may outlive your login session")]
    remedy = "loginctl enable-linger $USER keeps it; claude-jobs worker --install starts it with the machine."
    return [noted("lingering", "off: where logind ends user processes, logging out ends the worker.", remedy)]


CHECKS: tuple[Look, ...] = (_python, _settings, _inside, _lingering)

"""Checks of the state directory and of the store in it. Read-only, so that they work while the worker is down."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import time
from contextlib import closing
from pathlib import Path

from claude_jobs.cli.checks.check import Check, noted, ok, problem
from claude_jobs.cli.checks.machine import Look, Patient
from claude_jobs.cli.holders import is_suspended, lock_holder
from claude_jobs.stores.sqlite.schema import SCHEMA

_TIGHT_BYTES = 500 << 20
_LOW_BYTES = 50 << 20
_LOCKED_S = 1.0
_LOOK_S = 0.02
_MOVE_ASIDE = "Stop the worker (claude-jobs worker --stop), move the file aside, start afresh: mv {path} {path}.damaged"


def _directory(patient: Patient) -> list[Check]:
    root = patient.home.root
    notes = (
        [noted("state", patient.home.notice, "Set CLAUDE_JOBS_HOME to a local directory.")]
        if patient.home.notice
        else []
    )
    if not root.exists():
        return [*notes, _unborn(root)]
    found = root.stat()
    if not root.is_dir():
        return [*notes, problem("state", f"{root} is not a directory.", "Set CLAUDE_JOBS_HOME to another place.")]
    if found.st_uid != os.getuid():
        message = f"{root} belongs to user {found.st_uid}, not to you ({os.getuid()})."
        return [*notes, problem("state", message, "Set CLAUDE_JOBS_HOME to a directory of your own.")]
    if not _is_writable(root):
        return [
            *notes,
            problem("state", f"{root} cannot be written to.", f"chmod u+rwx {root}, or set CLAUDE_JOBS_HOME."),
        ]
    if stat.S_IMODE(found.st_mode) & 0o077:
        return [*notes, problem("state", f"{root} is open to other users.", f"chmod 700 {root}")]
    return [*notes, ok("state", str(root)), *_env_permissions(patient.home.env_file)]


def _unborn(root: Path) -> Check:
    above = next(parent for parent in root.parents if parent.exists())
    if not _is_writable(above):
        return problem("state", f"{root} cannot be made: {above} cannot be written to.", "Set CLAUDE_JOBS_HOME.")
    return ok("state", f"{root} (made with the first job)")


def _is_writable(directory: Path) -> bool:
    """By the bits of its mode too: root may write anywhere, but a directory that denies its owner was meant to."""
    mode = directory.stat().st_mode
    return os.access(directory, os.W_OK | os.X_OK) and bool(mode & 0o222)


def _env_permissions(env_file: Path) -> list[Check]:
    if env_file.is_file() and stat.S_IMODE(env_file.stat().st_mode) & 0o077:
        return [problem("state", f"{env_file} can be read by other users.", f"chmod 600 {env_file}")]
    return []


def _disk(patient: Patient) -> list[Check]:
    place = next(path for path in (patient.home.root, *patient.home.root.parents) if path.exists())
    free = shutil.disk_usage(place).free
    text = f"{free >> 20} MB free at {place}"
    if free < _LOW_BYTES:
        return [problem("disk", text, "Make room: jobs cannot be stored on a full disk.")]
    return [noted("disk", text, "Make room soon.") if free < _TIGHT_BYTES else ok("disk", text)]


def _store(patient: Patient) -> list[Check]:
    path = patient.home.db_dir / "jobs.db"
    try:
        if not path.exists():
            return [ok("store", "no jobs yet")]
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=5)) as database:
            return [_health(database, path)]
    except sqlite3.OperationalError as error:
        remedy = f"Check the permissions of {path.parent} and the space on its disk."
        return [problem("store", f"{path} cannot be opened: {error}.", remedy)]
    except sqlite3.DatabaseError as error:
        return [problem("store", f"{path} is damaged: {error}.", _MOVE_ASIDE.format(path=path))]
    except OSError as error:
        return [
            problem("store", f"{path} cannot be reached: {error.strerror}.", f"Check the permissions of {path.parent}.")
        ]


def _lock(patient: Patient) -> list[Check]:
    """Whoever writes holds the lock for milliseconds; who holds it for a second keeps all others from working."""
    path = patient.home.db_dir / "jobs.lock"
    end = time.monotonic() + _LOCKED_S
    while (pid := lock_holder(path)) is not None:
        if time.monotonic() > end:
            return [_locked(path, pid)]
        time.sleep(_LOOK_S)
    return []


def _locked(path: Path, pid: int) -> Check:
    if not pid:
        return problem("lock", f"Another process has held {path} for a second.", f"lsof {path} lists who has it open.")
    if is_suspended(pid):
        return problem("lock", f"Process {pid} holds {path} and was stopped by a signal.", f"kill -CONT {pid}")
    remedy = f"Look again in a minute; if it stays so: kill {pid}"
    return problem("lock", f"Process {pid} has held {path} for a second.", remedy)


def _health(database: sqlite3.Connection, path: Path) -> Check:
    version = int(database.execute("PRAGMA user_version").fetchone()[0])
    if version > SCHEMA:
        message = f"{path} has schema {version}; this claude-jobs reads up to {SCHEMA}."
        return problem("store", message, "Upgrade claude-jobs, or set CLAUDE_JOBS_HOME to another directory.")
    said = str(database.execute("PRAGMA quick_check(1)").fetchone()[0])
    if said != "ok":
        return problem("store", f"{path} is damaged: {said}.", _MOVE_ASIDE.format(path=path))
    counts: list[tuple[str, int]] = database.execute(
        "SELECT state, count(*) FROM jobs GROUP BY state ORDER BY 1"
    ).fetchall()
    jobs = ", ".join(f"{count} {state}" for state, count in counts) or "no jobs"
    return ok("store", f"{path}: schema {version}, {path.stat().st_size >> 10} kB, {jobs}")


CHECKS: tuple[Look, ...] = (_directory, _disk, _store, _lock)

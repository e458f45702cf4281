"""The command `claude-jobs`, kept light: `mcp` must answer in milliseconds, so each way loads only what it needs."""

from __future__ import annotations

import gc
import os
import sys


def main() -> int:
    """Go where the first argument points."""
    if os.name == "nt":
        print("claude-jobs needs WSL on Windows: run `wsl --install`, then install it there.", file=sys.stderr)  # noqa: T201
        return 2
    command = sys.argv[1] if len(sys.argv) > 1 else ""
    if command == "mcp" and len(sys.argv) == 2:
        return _mcp()
    if command == "_worker":
        _start_lean()
        from claude_jobs.lifecycle import run_worker

        return run_worker(sys.argv[2:])
    from claude_jobs.cli.main import main as run_command

    return run_command()


def _mcp() -> int:
    from claude_jobs.rpc import bridge

    return bridge.main(_inline)


def _inline(executor: bool) -> int:  # the one argument of a callback
    _start_lean()
    from claude_jobs.inline import run_inline

    return run_inline(executor=executor)


def _start_lean() -> None:
    """For the servers, where imports are the start-up time."""
    # Nothing that is imported becomes garbage; collecting in between costs a quarter of the start.
    gc.disable()
    # structlog loads rich, for tracebacks on a terminal, if it finds it: half of its 120 ms.
    sys.modules["rich"] = None  # pyright: ignore[reportArgumentType]  # the import system's word for "not there"
    import structlog as _  # noqa: F401

    del sys.modules["rich"]


if __name__ == "__main__":
    sys.exit(main())

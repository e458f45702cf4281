"""`serve`, `url`, `token`: HTTP, where it is and what opens it. And `mcp`, which Claude Code starts."""

from __future__ import annotations

import os
import sys
import time

import click

from claude_jobs.cli import exits, output
from claude_jobs.cli.connection import Connection
from claude_jobs.errors import WorkerLost, WorkerUnavailable

_LOOK_S = 5.0


@click.command()
@click.option("--port", type=click.IntRange(0, 65_535), help="Default: MCP_PORT (5002), or the next free one.")
def serve(port: int | None) -> int:
    """Serve HTTP until Ctrl-C.

    In the worker that runs, or in one of its own: REST, events, remote MCP.
    """
    from claude_jobs.cli import foreground

    if foreground.is_running():
        return _serve_in_worker(port)
    environ = {} if port is None else {"MCP_PORT": str(port)}
    return foreground.run(extra=["--http"], environ=environ, on_up=lambda worker: _say(worker.call("http")))


def _serve_in_worker(port: int | None) -> int:
    asked: dict[str, object] = {} if port is None else {"port": port}
    said = ""
    with Connection(start=False) as worker:
        try:
            while True:
                answer = worker.call("http", asked)
                if answer["url"] != said:
                    said = answer["url"]
                    _say(answer)
                time.sleep(_LOOK_S)
        except WorkerLost as error:
            raise WorkerUnavailable(
                "The worker has ended. Run `claude-jobs serve` again for one of its own."
            ) from error
        except KeyboardInterrupt:
            output.note("The worker goes on, and with it HTTP. `claude-jobs worker --stop` ends both.")
            return exits.OK


def _say(answer: dict[str, str]) -> None:
    output.text(answer["url"])
    output.note(f"Each request needs the token in {answer['token_file']} (claude-jobs token). Ctrl-C ends this.")


@click.command()
@output.json_option
def url(as_json: bool) -> int:
    """Print where HTTP is served."""
    with Connection(start=False) as worker:
        address = worker.call("health")["http"]
    if not address:
        raise WorkerUnavailable("HTTP is not open. Open it with `claude-jobs serve`.")
    if as_json:
        output.emit({"url": address})
    else:
        output.text(address)
    return exits.OK


@click.command()
def token() -> int:
    """Print the HTTP token.

    It is made on first use and kept in a file only you can read.
    """
    from claude_jobs.runner.paths import Home
    from claude_jobs.web.token import http_token

    home = Home.resolve(os.environ)
    home.prepare()
    output.text(http_token(home.http_token_file))
    return exits.OK


@click.command()
def mcp() -> int:
    """The MCP server on stdin and stdout, for Claude Code. `claude-jobs install` registers it."""
    command = [sys.executable, "-P", "-m", "claude_jobs.entry", "mcp"]
    os.execv(command[0], command)  # noqa: S606  # the way in that loads nothing of this command

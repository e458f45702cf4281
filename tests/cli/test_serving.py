"""The worker in the foreground, its end, and HTTP."""

import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager

import pytest
from support_command import run, start
from support_processes import PATIENCE_S, wait_until

from claude_jobs.cli.holders import lock_holder
from claude_jobs.cli.stopping import elected
from claude_jobs.runner import proctree
from claude_jobs.runner.paths import Home

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("cli")]


@contextmanager
def foreground(*args: str, environ: dict[str, str]) -> Generator[subprocess.Popen[bytes]]:
    with start(args, environ=environ) as process:
        try:
            yield process
        finally:
            process.terminate()
            process.communicate(timeout=PATIENCE_S)


def is_up(environ: dict[str, str]) -> bool:
    return run("tokens", environ={**environ, "CLAUDE_JOBS_WORKER": "none"}).code == 0


def test_a_lock_that_nobody_holds_names_nobody(environ: dict[str, str]) -> None:
    home = Home.resolve(environ)
    home.prepare()
    home.elect_lock.write_text("1\n")

    assert lock_holder(home.elect_lock) is None
    assert elected(home) is None


def test_foreground_worker_has_the_tokens_of_its_shell_and_ends_on_ctrl_c(environ: dict[str, str]) -> None:
    given = {**environ, "CLAUDE_CODE_TOKEN7": "sk-ant-oat01-of-the-shell"}
    with foreground("worker", environ=given) as worker:
        wait_until(lambda: is_up(environ))
        second = run("worker", environ=environ)
        tokens = run("tokens", environ=environ)
        below = proctree.descendants(worker.pid)
        worker.send_signal(signal.SIGINT)
        _, said = worker.communicate(timeout=PATIENCE_S)

    assert worker.returncode == 0
    assert second.code == 4
    assert "runs already" in second.err
    assert "CLAUDE_CODE_TOKEN7" in tokens.out
    assert len(below) >= 2
    assert not any(proctree.is_alive(proc) for proc in below)
    assert b"sk-ant-oat01-of-the-shell" not in said


def test_stop_ends_a_worker_that_hangs(environ: dict[str, str]) -> None:
    assert run("ps", environ=environ).code == 0
    keeper = elected(Home.resolve(environ))
    assert keeper is not None
    worker = proctree.children(keeper.pid)[0]
    proctree.send(worker, signal.SIGSTOP)
    ran = run("worker", "--stop", "--grace", "0", environ=environ)

    assert ran.code == 0, ran.err
    assert not proctree.is_alive(worker)
    assert not proctree.is_alive(keeper)


def test_stop_ends_a_worker_whose_store_is_damaged(environ: dict[str, str]) -> None:
    assert run("ps", environ=environ).code == 0
    home = Home.resolve(environ)
    keeper = elected(home)
    assert keeper is not None
    for file in home.db_dir.glob("jobs.db*"):
        file.write_bytes(b"this is no database" * 1_000)
    ran = run("worker", "--stop", "--grace", "0", environ=environ)

    assert ran.code == 0, ran.err
    assert not proctree.is_alive(keeper)


def test_serve_opens_http_behind_the_token(environ: dict[str, str]) -> None:
    with foreground("serve", "--port", "0", environ=environ) as server:
        assert server.stdout is not None
        url = server.stdout.readline().decode().strip()
        shown = run("url", environ=environ)
        token = run("token", environ=environ).out.strip()
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{url}tools/list_models", timeout=60)
        refused.value.close()
        asked = urllib.request.Request(f"{url}tools/list_models", headers={"Authorization": f"Bearer {token}"})
        with urllib.request.urlopen(asked, timeout=60) as answer:
            status = answer.status

    assert server.returncode == 0
    assert shown.out.strip() == url
    assert refused.value.code == 401
    assert status == 200


def test_serve_opens_http_in_the_worker_that_runs(environ: dict[str, str]) -> None:
    try:
        assert run("ps", environ=environ).code == 0
        with foreground("serve", "--port", "0", environ=environ) as server:
            assert server.stdout is not None
            url = server.stdout.readline().decode().strip()
            server.send_signal(signal.SIGINT)
            server.wait(timeout=PATIENCE_S)
        after = run("url", environ=environ)
    finally:
        run("worker", "--stop", "--grace", "0", environ=environ)

    assert server.returncode == 0
    assert url.startswith("http://127.0.0.1:")
    assert after.out.strip() == url

"""Process control with a stand-in claude: trees that resist, leftovers, pipes that misbehave."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from runner.support import Told, order, stand_in
from runner.warm_support import until

from claude_jobs.domain.job import Failure, Outcome
from claude_jobs.runner import proctree
from claude_jobs.runner.claude_cli import ClaudeCli
from claude_jobs.runner.family import Waits
from claude_jobs.runner.order import Order, StopReason

QUICK = Waits(interrupt_s=0.4, term_s=0.4)

_SPAWN = """
def spawn(*argv, **more):
    child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **more)
    with open("pids", "a") as file:
        file.write(f"{child.pid}\\n")
    return child
STUBBORN = "import signal,time; [signal.signal(s, signal.SIG_IGN) for s in (1, 2, 15)]; time.sleep(600)"
def ready():
    open("ready", "w").close()
"""


async def run(home: Path, body: str, *, told: Told | None = None, the_order: Order | None = None) -> Outcome:
    cli = ClaudeCli(stand_in(home, _SPAWN + body), waits=QUICK)
    return await cli.start(the_order or order(home), told or Told()).outcome()


async def wait_for(path: Path) -> None:
    await until(path.exists)


def living(home: Path) -> list[int]:
    """Which of the processes the stand-in wrote down still run."""
    pids = [int(line) for line in (home / "work" / "pids").read_text().split()]
    procs = [proc for proc in map(proctree.look, pids) if proc is not None and not proc.is_dead]
    return [proc.pid for proc in procs]


async def test_a_tree_that_ignores_signals_is_killed_with_proof(tmp_path: Path) -> None:
    body = """
for s in (signal.SIGINT, signal.SIGTERM): signal.signal(s, signal.SIG_IGN)
spawn(sys.executable, "-SEc", STUBBORN)
spawn(sys.executable, "-SEc", STUBBORN, start_new_session=True)
spawn(sys.executable, "-SEc", STUBBORN, start_new_session=True, env={})
ready(); time.sleep(600)
"""
    told = Told()
    handle = ClaudeCli(stand_in(tmp_path, _SPAWN + body), waits=QUICK).start(order(tmp_path), told)
    await wait_for(tmp_path / "work" / "ready")
    handle.stop(StopReason.CANCEL)
    handle.stop(StopReason.TIMEOUT)
    outcome = await handle.outcome()

    assert outcome.failure is Failure.CANCELLED
    assert outcome.exit_code == -9
    assert told.process is not None
    assert {told.process.pid, *map(int, (tmp_path / "work" / "pids").read_text().split())} <= set(outcome.signalled)
    assert outcome.survivors == ()
    assert living(tmp_path) == []


@pytest.mark.parametrize(
    "how",
    ["", "start_new_session=True", "start_new_session=True, env={}", "process_group=0, env={}"],
    ids=["same group", "own session", "own session, scrubbed", "own group, scrubbed"],
)
async def test_nothing_is_left_after_a_successful_job(tmp_path: Path, how: str) -> None:
    body = f'spawn(sys.executable, "-SEc", STUBBORN, {how}); answer(); result(); sys.stdin.read()'
    outcome = await run(tmp_path, body)

    assert outcome.failure is Failure.NONE
    assert outcome.text == "done"
    assert living(tmp_path) == []


async def test_an_orphan_is_found_by_its_marker(tmp_path: Path) -> None:
    """Its parent is gone and it left session and group before anybody looked."""
    body = """
middle = "import subprocess,sys,os; p = subprocess.Popen([sys.executable, '-SEc', sys.argv[1]], start_new_session=True,"
middle += " stdin=0, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL); open('pids','a').write(f'{p.pid}\\\\n')"
subprocess.run([sys.executable, "-SEc", middle, STUBBORN], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
answer(); result()
"""
    outcome = await run(tmp_path, body)

    assert outcome.succeeded
    assert living(tmp_path) == []


async def test_a_scrubbed_daemon_is_found_if_it_was_seen_below_its_tool(tmp_path: Path) -> None:
    body = """
middle = "import subprocess,sys,time; p = subprocess.Popen([sys.executable, '-SEc', sys.argv[1]], start_new_session=True,"
middle += " env={}, stdin=0, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL); open('pids','a').write(f'{p.pid}\\\\n');"
middle += " open('ready', 'w').close(); time.sleep(600)"
tool(command="daemonise")
parent = spawn(sys.executable, "-SEc", middle, STUBBORN)
while not os.path.exists("ready"): time.sleep(0.01)
tool_result()
tool(use_id="t2", command="what was said before was heard")
while not os.path.exists("heard"): time.sleep(0.01)
parent.kill(); parent.wait()
answer(); result()
"""
    told = Told()
    attempt = asyncio.create_task(run(tmp_path, body, told=told))
    await until(lambda: len(told.tools()) == 2)
    (tmp_path / "work" / "heard").touch()
    outcome = await attempt

    assert outcome.succeeded
    assert living(tmp_path) == []


async def test_other_processes_of_the_user_are_not_touched(tmp_path: Path) -> None:
    bystander = await asyncio.create_subprocess_exec("sleep", "600", start_new_session=True)
    try:
        outcome = await run(tmp_path, "answer(); result()")

        assert outcome.succeeded
        assert outcome.signalled == ()
        assert bystander.returncode is None
    finally:
        bystander.kill()
        await bystander.wait()


async def test_thirty_stops_take_as_long_as_one(tmp_path: Path) -> None:
    body = "for s in (signal.SIGINT, signal.SIGTERM): signal.signal(s, signal.SIG_IGN)\nready(); time.sleep(600)"
    cli = ClaudeCli(stand_in(tmp_path, _SPAWN + body), waits=Waits(interrupt_s=1.5, term_s=1.5))
    homes = [tmp_path / f"home{n}" for n in range(31)]
    handles = [cli.start(order(home), Told()) for home in homes]
    for home in homes:
        await wait_for(home / "work" / "ready")

    async def stop(some: slice) -> float:
        began = time.monotonic()
        for handle in handles[some]:
            handle.stop(StopReason.CANCEL)
        outcomes = [await handle.outcome() for handle in handles[some]]
        assert {outcome.failure for outcome in outcomes} == {Failure.CANCELLED}
        assert all(outcome.survivors == () and outcome.signalled for outcome in outcomes)
        return time.monotonic() - began

    one = await stop(slice(1))
    thirty = await stop(slice(1, None))

    assert one >= 3.0
    assert thirty < one * 15


async def test_a_lost_job_is_killed_without_a_word(tmp_path: Path) -> None:
    body = 'signal.signal(signal.SIGINT, lambda *_: open("heard", "w").close())\nready()\nwhile True: time.sleep(1)'
    patient = Waits(interrupt_s=60.0, term_s=60.0)
    handle = ClaudeCli(stand_in(tmp_path, _SPAWN + body), waits=patient).start(order(tmp_path), Told())
    await wait_for(tmp_path / "work" / "ready")
    began = time.monotonic()
    handle.stop(StopReason.LOST)
    outcome = await handle.outcome()

    assert outcome.failure is Failure.OWNER_LOST
    assert time.monotonic() - began < patient.interrupt_s
    assert not (tmp_path / "work" / "heard").exists()


async def test_a_stop_before_the_start_starts_nothing(tmp_path: Path) -> None:
    told = Told()
    handle = ClaudeCli(stand_in(tmp_path, "result()")).start(order(tmp_path), told)
    handle.stop(StopReason.SHUTDOWN)
    outcome = await handle.outcome()

    assert outcome.failure is Failure.INTERRUPTED
    assert told.process is None


async def test_the_answer_stands_when_the_process_does_not_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("claude_jobs.runner.conversation.EXIT_GRACE_S", 0.3)
    outcome = await run(tmp_path, "answer(); result(); time.sleep(600)")

    assert outcome.failure is Failure.NONE
    assert outcome.text == "done"


async def test_an_output_that_ends_early_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("claude_jobs.runner.conversation.EXIT_GRACE_S", 0.3)
    outcome = await run(tmp_path, "os.close(1); time.sleep(600)")

    assert outcome.failure is Failure.NO_RESULT
    assert "not itself" in outcome.message


async def test_the_last_of_several_results_counts(tmp_path: Path) -> None:
    body = 'answer("started"); result("started"); init(); time.sleep(0.2); answer("finished"); result("finished")'
    outcome = await run(tmp_path, body)

    assert outcome.text == "finished"


@pytest.mark.parametrize(
    ("body", "failure", "words"),
    [
        ("pass", Failure.NO_RESULT, "without a result"),
        ("sys.exit('Error: unknown option')", Failure.NO_RESULT, "unknown option"),
        ("os.kill(os.getpid(), 9)", Failure.CRASHED, "signal 9"),
        ("os.kill(os.getpid(), 11)", Failure.CRASHED, "signal 11"),
        ("result('')", Failure.EMPTY_RESULT, "without an answer"),
        ("sys.exit('Claude AI usage limit reached|1795248971')", Failure.LIMIT_TEXT, "limit reached"),
        ("result('Claude AI usage limit reached|1795248971')", Failure.LIMIT_TEXT, "limit reached"),
    ],
)
async def test_an_end_without_a_verified_answer_has_a_name(
    tmp_path: Path, body: str, failure: Failure, words: str
) -> None:
    outcome = await run(tmp_path, body)

    assert outcome.failure is failure
    assert words in outcome.message


async def test_huge_partial_and_broken_lines_do_not_matter(tmp_path: Path) -> None:
    body = """
sys.stdout.write('{"type": "assistant", "message": "' + "x" * 20_000_000 + '"}\\n')
sys.stdout.write("not json\\n[1]\\n\\n")
for part in ('{"type":"resu', 'lt","subtype":"success","is_error":false,', '"result":"whole"}'):
    sys.stdout.write(part); sys.stdout.flush(); time.sleep(0.05)
"""
    outcome = await run(tmp_path, body)

    assert outcome.text == "whole"


async def test_a_flood_on_stderr_is_read_and_kept_short(tmp_path: Path) -> None:
    outcome = await run(tmp_path, 'sys.stderr.write("noise " * 1_000_000 + "last words"); answer(); result()')

    assert outcome.succeeded
    assert outcome.stderr_tail.endswith("last words")
    assert len(outcome.stderr_tail) <= 8192


async def test_a_secret_on_stderr_or_in_the_answer_is_redacted(tmp_path: Path) -> None:
    body = 's = os.environ["CLAUDE_CODE_OAUTH_TOKEN"]; print(s, file=sys.stderr); tool(command=s); answer(s); result("it is " + s)'
    told = Told()
    outcome = await run(tmp_path, body, told=told)

    assert outcome.text == "it is [redacted]"
    assert "sk-ant" not in repr((outcome, told))


async def test_silence_is_a_stall(tmp_path: Path) -> None:
    outcome = await run(tmp_path, "time.sleep(600)", the_order=order(tmp_path, stall_s=0.5))

    assert outcome.failure is Failure.STALLED
    assert "silent for 0.5 s" in outcome.message


async def test_a_running_tool_is_not_silence(tmp_path: Path) -> None:
    body = 'tool(command="make"); time.sleep(2.0); tool_result(); answer(); result()'
    told = Told()
    handle = ClaudeCli(stand_in(tmp_path, body)).start(order(tmp_path, stall_s=1.0), told)
    handle.hold()  # its start is not what is timed
    await until(lambda: told.tools() != [])
    handle.go_on()
    outcome = await handle.outcome()

    assert outcome.succeeded


async def test_a_time_out_keeps_what_was_written(tmp_path: Path) -> None:
    told = Told()
    claude = stand_in(tmp_path, 'answer("half of it"); time.sleep(600)')
    handle = ClaudeCli(claude, waits=QUICK).start(order(tmp_path, timeout_s=0.5), told)
    handle.hold()  # its start is not what is timed
    await until(lambda: told.answers == 1)
    handle.go_on()
    outcome = await handle.outcome()

    assert outcome.failure is Failure.TIMED_OUT
    assert outcome.text == "half of it"


async def test_a_prompt_larger_than_the_pipe_is_handed_over_whole(tmp_path: Path) -> None:
    outcome = await run(tmp_path, "result(str(len(first)))", the_order=order(tmp_path, "x" * 3_000_000))

    assert int(outcome.text) > 3_000_000


async def test_a_child_that_never_reads_does_not_hold_us(tmp_path: Path) -> None:
    claude = tmp_path / "claude"
    claude.write_text("#!/bin/sh\nexit 0\n")
    claude.chmod(0o755)
    outcome = await ClaudeCli(claude).start(order(tmp_path, "x" * 3_000_000), Told()).outcome()

    assert outcome.failure is Failure.NO_RESULT


async def test_a_missing_cwd_and_a_missing_or_broken_executable_are_named(tmp_path: Path) -> None:
    broken = tmp_path / "claude"
    broken.write_bytes(b"\x7fELF broken")
    broken.chmod(0o755)
    no_cwd = await ClaudeCli(broken).start(order(tmp_path, cwd=tmp_path / "gone"), Told()).outcome()
    no_exec = await ClaudeCli(tmp_path / "nothing").start(order(tmp_path), Told()).outcome()
    bad_exec = await ClaudeCli(broken).start(order(tmp_path), Told()).outcome()

    assert no_cwd.failure is Failure.CWD_MISSING
    assert no_exec.failure is Failure.CLI_MISSING
    assert bad_exec.failure is Failure.SPAWN_FAILED
    assert "claude" in bad_exec.message


async def test_many_attempts_leave_no_descriptor_and_no_thread(tmp_path: Path) -> None:
    import threading

    cli = ClaudeCli(stand_in(tmp_path, "answer(); result()"))
    await cli.start(order(tmp_path), Told()).outcome()
    before = len(list(Path("/proc/self/fd").iterdir())), threading.active_count()
    outcomes = await asyncio.gather(*(cli.start(order(tmp_path, epoch=n), Told()).outcome() for n in range(2, 22)))

    assert all(outcome.succeeded for outcome in outcomes)
    assert (len(list(Path("/proc/self/fd").iterdir())), threading.active_count()) == before


async def test_a_cancelled_waiter_stops_the_attempt_first(tmp_path: Path) -> None:
    handle = ClaudeCli(stand_in(tmp_path, _SPAWN + "ready(); time.sleep(600)"), waits=QUICK).start(
        order(tmp_path), Told()
    )
    waiter = asyncio.create_task(handle.outcome())
    await wait_for(tmp_path / "work" / "ready")
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter

    assert (await handle.outcome()).failure is Failure.INTERRUPTED

"""The clocks over an attempt: what ends it when, on a loop whose time passes by itself, and with the real claude."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given
from runner.support import Told, oauth, order, stand_in
from support_cli import CLAUDE

from claude_jobs.domain.job import Failure
from claude_jobs.policy.timeouts import limits
from claude_jobs.rehearsal.script import Action, Script
from claude_jobs.rehearsal.server import Rehearsal
from claude_jobs.runner.claude_cli import ClaudeCli
from claude_jobs.runner.watchdog import QUIET_S, Watchdog


class _Skip(selectors.DefaultSelector):
    """Waits for nothing but tells how long it would have waited."""

    def __init__(self) -> None:
        super().__init__()
        self.waited_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.waited_s += timeout or 0.0
        return super().select(0)


class _Loop(asyncio.SelectorEventLoop):
    """Its clock stands still while anything is done, and jumps over every wait."""

    def __init__(self) -> None:
        self._skip = _Skip()
        super().__init__(self._skip)

    def time(self) -> float:
        return 1_000.0 + self._skip.waited_s


def passing(story: Callable[[Bench], Awaitable[None]], **times: float) -> list[tuple[float, str]]:
    """What the watchdog called and when, in seconds since it was made, if this happened and then nothing for an hour."""

    async def play() -> list[tuple[float, str]]:
        bench = Bench(**times)
        await story(bench)
        await asyncio.sleep(3_600)
        return bench.calls

    with asyncio.Runner(loop_factory=_Loop) as runner:
        return runner.run(play())


class Bench:
    """A watchdog of an attempt that is expected to take 100 s and may take 1000."""

    def __init__(
        self, timeout_s: float = 100, ceiling_s: float = 1_000, stall_s: float = 300, quiet_s: float = 50
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self.calls: list[tuple[float, str]] = []
        self.dog = Watchdog(
            timeout_s=timeout_s,
            ceiling_s=ceiling_s,
            stall_s=stall_s,
            quiet_s=quiet_s,
            on_timeout=lambda why: self._note("time-out" if "silent" in why else "ceiling"),
            on_stall=lambda: self._note("stall"),
        )

    def _note(self, what: str) -> None:
        self.calls.append((round(self._loop.time() - self._began, 3), what))

    async def talk(self, for_s: float, every_s: float = 1.0, *, stall_s: float = 300) -> None:
        """Signs of life at this pace."""
        end = self._loop.time() + for_s
        while self._loop.time() < end - every_s / 2:
            await asyncio.sleep(every_s)
            self.dog.alive(stall_s=stall_s)


def test_whoever_talks_goes_on_past_the_expected_time_up_to_the_ceiling() -> None:
    async def story(bench: Bench) -> None:
        bench.dog.start()
        await bench.talk(2_000)

    assert passing(story) == [(1_000, "ceiling")]


def test_past_the_expected_time_a_silence_ends_it_sooner_than_before() -> None:
    async def early(bench: Bench) -> None:
        bench.dog.start()
        await bench.talk(20)

    async def late(bench: Bench) -> None:
        bench.dog.start()
        await bench.talk(400)

    assert passing(early) == [(100, "time-out")]
    assert passing(late) == [(450, "time-out")]
    assert passing(early, timeout_s=900) == [(320, "stall")]


def test_a_silence_that_would_be_a_stall_anyway_is_one() -> None:
    async def story(bench: Bench) -> None:
        bench.dog.start()
        await bench.talk(400, stall_s=30)

    assert passing(story, stall_s=30) == [(430, "stall")]


def test_what_a_caller_asked_for_is_the_ceiling_too() -> None:
    async def story(bench: Bench) -> None:
        bench.dog.start()
        await bench.talk(400)

    assert passing(story, timeout_s=60, ceiling_s=60) == [(60, "ceiling")]


def test_a_running_tools_heartbeat_is_life_enough() -> None:
    async def story(bench: Bench) -> None:
        bench.dog.start()
        await bench.talk(600, every_s=30, stall_s=75)

    assert passing(story, quiet_s=QUIET_S) == [(675, "stall")]


def test_neither_clock_runs_in_a_pause_and_pauses_nest() -> None:
    told: list[float] = []

    async def story(bench: Bench) -> None:
        told.append(bench.dog.ran_s)
        bench.dog.pause()
        bench.dog.start()
        await asyncio.sleep(5_000)
        told.append(bench.dog.ran_s)
        bench.dog.start()
        await bench.talk(90)
        told.append(bench.dog.ran_s)
        bench.dog.pause()
        await asyncio.sleep(5_000)
        bench.dog.pause()
        await asyncio.sleep(5_000)
        bench.dog.start()
        await asyncio.sleep(5_000)
        told.append(bench.dog.ran_s)
        bench.dog.start()
        await bench.talk(5)
        told.append(bench.dog.ran_s)

    # 20,000 s of pauses, 95 s of talk, then quiet.
    assert passing(story) == [(20_145, "time-out")]
    assert told == [0, 0, 90, 90, 95]
    assert passing(story, ceiling_s=120) == [(20_120, "ceiling")]


def test_nothing_is_called_twice_or_after_its_end() -> None:
    async def ended(bench: Bench) -> None:
        bench.dog.start()
        await asyncio.sleep(2_000)
        bench.dog.pause()
        bench.dog.start()

    async def closed(bench: Bench) -> None:
        bench.dog.start()
        bench.dog.pause()
        bench.dog.close()
        bench.dog.start()

    assert passing(ended) == [(100, "time-out")]
    assert passing(closed) == []


@given(st.lists(st.floats(0.1, 400), min_size=1, max_size=30), st.floats(1, 500), st.floats(1, 500), st.floats(1, 500))
def test_it_is_ended_in_time_and_never_for_a_silence_that_may_be(
    silences: list[float], timeout_s: float, stall_s: float, quiet_s: float
) -> None:
    async def story(bench: Bench) -> None:
        bench.dog.start()
        for silence_s in silences:
            await asyncio.sleep(silence_s)
            bench.dog.alive(stall_s=stall_s)

    heard, ends = 0.0, list[float]()
    for silence_s in [*silences, 1e6]:
        end = min(heard + stall_s, max(timeout_s, heard + quiet_s), 1_000.0)
        if end <= heard + silence_s:
            ends.append(end)
            break
        heard += silence_s

    ((at_s, _),) = passing(story, timeout_s=timeout_s, stall_s=stall_s, quiet_s=quiet_s)
    assert at_s == pytest.approx(ends[0], abs=0.002)


def scaled(home: Path, api: Rehearsal, divisor: float, **spec: Any) -> Any:
    """An order with the time-outs of a default installation, divided."""
    asked = order(home, credential=oauth(url=api.url), tools=(), **spec)
    expected_s, ceiling_s = limits(asked.spec, timeouts=0, ceiling_s=900)
    return order(
        home,
        credential=oauth(url=api.url),
        tools=(),
        timeout_s=expected_s / divisor,
        ceiling_s=ceiling_s / divisor,
        **spec,
    )


@pytest.mark.slow
async def test_ten_minutes_of_streaming_are_one_attempt(tmp_path: Path) -> None:
    script = Script(default=Action(reply="a long answer", reply_kb=8, duration_s=8))
    async with Rehearsal(script) as api:
        # A fortieth: it streams for 8 s of 22, where 3 were expected.
        outcome = await ClaudeCli(CLAUDE).start(scaled(tmp_path, api, 40), Told()).outcome()

    assert (outcome.failure, outcome.message) == (Failure.NONE, "")
    assert len(outcome.text) >= 8 * 1024


@pytest.mark.slow
async def test_at_the_ceiling_even_a_healthy_stream_ends(tmp_path: Path) -> None:
    script = Script(default=Action(reply="a long answer", reply_kb=8, duration_s=300))
    async with Rehearsal(script) as api:
        outcome = await ClaudeCli(CLAUDE).start(scaled(tmp_path, api, 300), Told()).outcome()

    assert outcome.failure is Failure.TIMED_OUT
    assert "longer than 3 s" in outcome.message


async def test_a_silent_claude_past_its_expected_time_is_given_the_usual_silence_first(tmp_path: Path) -> None:
    silent = order(tmp_path, timeout_s=0.2, ceiling_s=60, stall_s=1.0)
    outcome = await ClaudeCli(stand_in(tmp_path, "time.sleep(600)")).start(silent, Told()).outcome()

    assert outcome.failure is Failure.STALLED

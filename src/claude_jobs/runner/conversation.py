"""What is said in one claude process about one job, until its answer stands or there can be none."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from claude_jobs.domain.event import EventKind, NewEvent
from claude_jobs.domain.job import Failure, Outcome
from claude_jobs.domain.token import Credential, TokenKind
from claude_jobs.runner import narration, verdict
from claude_jobs.runner.ahead import Ahead
from claude_jobs.runner.command import Command, missing_tools
from claude_jobs.runner.host import Host
from claude_jobs.runner.order import Hooks, Order
from claude_jobs.runner.prompt import CONTINUE, user_line
from claude_jobs.runner.redact import redact
from claude_jobs.runner.review import Review
from claude_jobs.runner.stream import Assistant, Event, Init, RateLimit, Result, ToolResults, parse, phrase
from claude_jobs.runner.tally import Tally
from claude_jobs.runner.traces import Traces
from claude_jobs.runner.warm import WarmPool
from claude_jobs.runner.watchdog import Watchdog

T = TypeVar("T")

EXIT_GRACE_S = 10.0
"""After its last result, or the end of its output, the CLI has this long to exit."""
TOOL_SILENCE_S = 75.0
"""A running tool shows life every 30 s only: no stall is called before."""
LIFE_S = 20.0
"""What else is done for the job, such as a check, counts as a sign of life so often: claude is silent meanwhile."""
TURNS_OF_A_WAIT = 1
"""The answer that asked for the wait may be heard after it began; the next one comes when its tools have answered."""
_UNHEARD = "claude ended while its token was exchanged."
BACKGROUND_S = 60.0
"""What claude left running in the background may change the verdict for so long: then it is told of the complaint."""


class Conversation:
    """Talks, listens and judges. It begins once, with `run`; until then it only knows whether it was stopped.

    Attributes:
        order: What to run; another credential or session takes the place of the first one here.
        secrets: None of these may come out.
        stopped: Why it was ended from outside, `Failure.NONE` if it was not.
        why: The same for people.
        may_stay: It ended well, and its process may hold another one.
    """

    def __init__(
        self, order: Order, hooks: Hooks, watchdog: Watchdog, pool: WarmPool | None, ahead: Ahead | None
    ) -> None:
        self.order = order
        self.secrets: tuple[str, ...] = ()
        self.stopped = Failure.NONE
        self.why = ""
        self.may_stay = False
        self._hooks = hooks
        self._watchdog = watchdog
        self._pool = pool
        self._ahead = ahead
        self._loop = asyncio.get_running_loop()
        self._tally = Tally()
        self._doing = "starting"
        self._counts_from_nusd = 0
        self._new_session = ""
        self._is_limited = False
        self._was_limited = False
        self._is_unheard = False
        self._turns_since_hold: set[str] | None = None
        self._is_to_be_reviewed = False
        self._is_under_review = False
        self._is_closed = False
        self._proven = ""
        self._has_told_answer = False
        self._news = asyncio.Event()
        self._grace: asyncio.TimerHandle | None = None
        self._patience: asyncio.TimerHandle | None = None

    def end(self, failure: Failure, why: str) -> None:
        """From outside: it is over. The first reason wins."""
        if self.stopped is Failure.NONE:
            self.stopped, self.why = failure, why
            self._news.set()

    def hold(self) -> None:
        """It waits for other jobs."""
        self._turns_since_hold = set()

    def go_on(self) -> None:
        """It waits no longer."""
        self._turns_since_hold = None

    def move(self, session_id: str) -> None:
        """It will be held in a new session, which has cost nothing yet."""
        self._new_session = session_id
        self.order = replace(self.order, session_id=session_id)

    async def unless_ended(self, work: Coroutine[Any, Any, T]) -> T | None:
        """Do something else than talk. If this is ended from outside first, that is cancelled, and the answer is None."""
        task = self._loop.create_task(work)
        task.add_done_callback(self._wake)
        try:
            while not task.done() and self.stopped is Failure.NONE:
                self._watchdog.alive(stall_s=4 * LIFE_S)
                await self._hear_news(LIFE_S)
        finally:
            task.cancel()
            await asyncio.wait([task])
        return None if task.cancelled() else task.result()

    async def run(self, host: Host, command: Command, review: Review) -> None:
        """Hold it, from the first prompt until nothing more is to be said or heard."""
        self._host, self._review = host, review
        self._traces = Traces(command.cwd)
        self._counts_from_nusd = 0 if self._new_session else command.counts_from_nusd
        exited = host.child.exited
        exited.add_done_callback(self._wake)
        host.converse(self._hear, command)
        try:
            while self.stopped is Failure.NONE and not self.may_stay:
                if self._is_limited or self._is_to_be_reviewed:
                    await self._react()
                elif exited.done():
                    if self._is_unheard:
                        self.end(Failure.INTERRUPTED, _UNHEARD)
                    break
                else:
                    await self._hear_news(None)
        finally:
            self._cancel_grace()
            self._cancel_patience()
            exited.remove_done_callback(self._wake)

    def judge(self) -> Outcome:
        """What it came to, as far as it has come."""
        child, family = self._host.child, self._host.family
        ending = verdict.Ending(
            exit_code=child.exited.result() if child.exited.done() else None,
            stderr=child.stderr_tail,
            stopped=self.stopped,
            why=self.why,
            duration_ms=round(self._watchdog.ran_s * 1000),
            signalled=tuple(sorted(family.signalled)),
            survivors=family.survivors() if child.exited.done() else (),
        )
        outcome = verdict.judge(
            self._tally,
            ending,
            strict=self.order.spec.strict,
            counts_from_nusd=self._counts_from_nusd,
            objection=self._objection(),
            secrets=self.secrets,
        )
        return replace(outcome, corrections=self._review.corrections)

    def _objection(self) -> verdict.Objection | None:
        """Why a clean answer does not count."""
        if self._review.passed:
            return None
        if self.stopped is not Failure.NONE:
            return verdict.Objection(self.stopped, self.why)
        complaint = self._review.complaint
        if complaint is None:
            return verdict.Objection(Failure.NO_RESULT, "Its answer was not reviewed.")
        return verdict.Objection(complaint.failure, complaint.message)

    def _wake(self, _: object) -> None:
        self._news.set()

    async def _hear_news(self, within_s: float | None) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._news.wait()
        self._news.clear()

    async def _react(self) -> None:
        if self._is_limited:
            self._is_limited = False
            await self._go_on_or_finish()
        else:
            self._is_to_be_reviewed = False
            await self._hear_reviewers()

    async def _go_on_or_finish(self) -> None:
        """Another subscription token lets the same process go on, with everything it knows."""
        self._was_limited = True
        exited = self._host.child.exited
        if self._is_closed or exited.done():
            self._finish()  # nobody is there to go on: the next attempt has another token
            return
        self._watchdog.pause()
        credential = await self._hooks.on_limit(self.judge())
        self._watchdog.start()
        if credential is None:
            self._finish()
            return
        # From here the job is on the other token, and the limit is the first one's.
        self._is_unheard = True
        if not self._is_same_door(credential) or exited.done():
            self.end(Failure.INTERRUPTED, _UNHEARD)
            return
        self.secrets = (*self.secrets, credential.secret)
        self.order = replace(self.order, credential=credential)
        self._tally.forgive()
        self._has_told_answer = False
        self._host.give_token(credential.secret)
        self._host.child.write(user_line(CONTINUE))

    def _is_same_door(self, credential: Credential) -> bool:
        ours = self.order.credential
        return credential.kind is TokenKind.OAUTH and credential.profile == ours.profile

    async def _hear_reviewers(self) -> None:
        result = self._tally.result
        assert result is not None, "there is something to review"
        self._cancel_grace()
        self._tell([], "being checked")
        self._is_under_review = True
        await self.unless_ended(self._review.look(result))
        self._is_under_review = False
        if self.stopped is Failure.NONE and not self._is_to_be_reviewed:
            self._watchdog.alive(stall_s=self.order.stall_s)
            self._heed(result)

    def _heed(self, result: Result) -> None:
        if self._review.passed:
            self._proven = result.structured
            self._end_well()
        elif self._is_closed or not self._review.may_send_back:
            self._finish()
        elif self._host.has_ended:
            self.end(Failure.CRASHED, "claude ended before its answer could be corrected.")
        elif self._tally.background and self._patience is None:
            self._patience = self._loop.call_later(BACKGROUND_S, self._review_again)
        else:
            self._send_back()

    def _review_again(self) -> None:
        """The timer stays set: next time nothing is waited for."""
        self._is_to_be_reviewed = True
        self._news.set()

    def _send_back(self) -> None:
        complaint = self._review.complaint
        assert complaint is not None, "there is something to put right"
        self._cancel_patience()
        why = phrase(redact(complaint.message, self.secrets))
        self._tell([NewEvent(kind=EventKind.CORRECTED, data={"why": why})], "correcting its answer")
        self._tally.forgive()
        self._host.child.write(user_line(self._review.send_back()))

    def _hear(self, lines: Sequence[bytes], is_end: bool) -> None:
        for line in lines:
            self._take(parse(line))
        if not is_end:
            silence_s = self.order.stall_s
            self._watchdog.alive(stall_s=max(silence_s, TOOL_SILENCE_S) if self._tally.running_tools else silence_s)
        elif not self._is_under_review:
            self._give_grace()

    def _take(self, event: Event) -> None:
        self._tally.see(event)
        self._traces.see(event)
        self._narrate(event)
        match event:
            case Init():
                self._cancel_grace()
                self._is_unheard = False
                self._check_init(event)
            case Assistant(is_synthetic=False):
                self._hear_answer(event)
            case ToolResults():
                self._host.family.look()
            case RateLimit(windows=windows) if windows:
                self._hooks.utilization(dict(windows))
            case Result():
                self._on_result(event)
            case _:
                pass

    def _hear_answer(self, event: Assistant) -> None:
        self._is_unheard = False
        if not self._has_told_answer:
            self._has_told_answer = True
            self._hooks.answered()
        if self._turns_since_hold is not None and not event.is_nested:
            self._turns_since_hold.add(event.message_id)
            if len(self._turns_since_hold) > TURNS_OF_A_WAIT:
                self._turns_since_hold = None
                self._hooks.works_on()

    def _check_init(self, event: Init) -> None:
        self._host.meet(event)
        if self._ahead is not None:
            self._ahead.meet(self._host.claude, event.version)
        if self._new_session not in ("", event.session_id) and self._pool is not None:
            self._pool.give_up()
            self.end(Failure.INTERRUPTED, "claude began another session than the one on record.")
        missing = missing_tools(self.order.spec.tools, event.tools)
        if missing:
            why = f"claude {event.version} has no tool named {', '.join(map(repr, missing))}. Take it out of `tools`."
            self.end(Failure.BAD_REQUEST, why)

    def _on_result(self, result: Result) -> None:
        if self._proven and not result.structured:
            # A word after something ended in the background: what was proven before stands.
            self._tally.result = replace(result, structured=self._proven)
        if self.order.credential.kind is TokenKind.OAUTH and verdict.is_usage_limit(self._tally):
            self._is_limited = True
            self._news.set()
        elif self._review.is_wanted and verdict.is_answer(self._tally, strict=self.order.spec.strict):
            self._cancel_patience()
            self._is_to_be_reviewed = True
            self._news.set()
        else:
            self._end_well()

    def _end_well(self) -> None:
        is_clean = not self._was_limited and verdict.is_clean(self._tally) and self._traces.are_none
        if is_clean and self._pool is not None and self._pool.has_room_for(self._host):
            self.may_stay = True
            self._news.set()
        else:
            self._finish()

    def _finish(self) -> None:
        """No more questions: the CLI ends by itself, after whatever it runs in the background."""
        self._is_closed = True
        self._host.family.look()
        self._host.child.close_stdin()
        if not self._tally.background or self._host.child.stdout_closed:
            self._give_grace()

    def _give_grace(self) -> None:
        self._cancel_grace()
        self._grace = self._loop.call_later(
            EXIT_GRACE_S, self.end, Failure.NO_RESULT, "claude ended its output, but not itself."
        )

    def _cancel_grace(self) -> None:
        if self._grace is not None:
            self._grace.cancel()
            self._grace = None

    def _cancel_patience(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _narrate(self, event: Event) -> None:
        told = narration.tell(event, self.secrets)
        now = narration.doing(event, self.secrets)
        if told or now is not None:
            self._tell(told, now or self._doing)

    def _tell(self, told: Sequence[NewEvent], doing: str) -> None:
        self._doing = doing
        progress = narration.progress(self._tally, doing, usage=self._tally.usage, now_ms=round(time.time() * 1000))
        self._hooks.events(told, progress)

"""How every provider fails: each fault of its API as one of our errors, once, without its key, and with its connection closed."""

from __future__ import annotations

import asyncio
import contextlib
import traceback

import pytest
from providers.conftest import Desk
from providers.support_calls import directive, streamed

from claude_jobs.domain.generation import ThinkingDelta
from claude_jobs.errors import (
    AuthenticationFailed,
    BadResponse,
    ContentRefused,
    ContextTooLong,
    ModelNotFound,
    Overloaded,
    ProviderError,
    ProviderTimeout,
    ProviderUnavailable,
    RateLimited,
    RequestRefused,
)
from claude_jobs.policy.providers import KEY_NAMES
from claude_jobs.providers.base import ProviderSettings
from claude_jobs.providers.registry import PROVIDERS
from claude_jobs.rehearsal.faults import Fault

DOWN = (Overloaded, ProviderUnavailable)
WHOLE: dict[Fault, type[ProviderError] | tuple[type[ProviderError], ...]] = {
    Fault.RATE_LIMIT: RateLimited,
    Fault.INSUFFICIENT_QUOTA: (RateLimited, AuthenticationFailed),
    Fault.CREDIT: (RateLimited, AuthenticationFailed),
    Fault.UNAUTHORIZED: AuthenticationFailed,
    Fault.BAD_KEY: AuthenticationFailed,
    Fault.FORBIDDEN: AuthenticationFailed,
    Fault.NOT_FOUND: ModelNotFound,
    Fault.PROMPT_TOO_LONG: ContextTooLong,
    Fault.BAD_REQUEST: RequestRefused,
    Fault.TOO_LARGE: RequestRefused,
    Fault.TIMED_OUT: ProviderTimeout,
    Fault.GATEWAY_TIMEOUT: ProviderTimeout,
    Fault.OVERLOADED: Overloaded,
    Fault.BUSY: Overloaded,
    Fault.UNAVAILABLE: DOWN,
    Fault.SERVER_ERROR: ProviderUnavailable,
    Fault.BAD_GATEWAY: ProviderUnavailable,
    Fault.HTML_502: ProviderUnavailable,
    Fault.DROP: ProviderUnavailable,
    Fault.HTML: BadResponse,
    Fault.MALFORMED: BadResponse,
    Fault.OTHER_JSON: BadResponse,
}
BROKEN: dict[Fault, type[ProviderError] | tuple[type[ProviderError], ...]] = {
    Fault.CUT: ProviderUnavailable,
    Fault.TRUNCATED: ProviderUnavailable,
    Fault.STREAM_ERROR: DOWN,
    Fault.RESPONSE_FAILED: DOWN,
    Fault.BAD_EVENT: BadResponse,
}
OF_KEYS = {Fault.INSUFFICIENT_QUOTA, Fault.CREDIT, Fault.UNAUTHORIZED, Fault.BAD_KEY, Fault.FORBIDDEN}
CASES = [(name, fault) for name in sorted(PROVIDERS) for fault in WHOLE if name in KEY_NAMES or fault not in OF_KEYS]
SECRET = "sk-ant-api03-neverInAnyMessage-9876543210"


async def failing(desk: Desk, fault: Fault, *, as_stream: bool, **more: object) -> ProviderError:
    """The error that this fault becomes."""
    call = desk.call(directive(reply="One two three four five six.", fault=fault.value, **more))
    with pytest.raises(ProviderError) as caught:
        await (streamed(desk.provider, call) if as_stream else desk.provider.generate(call))
    return caught.value


@pytest.mark.parametrize("as_stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(("name", "fault"), CASES)
async def test_a_fault_is_one_of_our_errors(desk: Desk, fault: Fault, *, as_stream: bool) -> None:
    error = await failing(desk, fault, as_stream=as_stream)

    assert isinstance(error, WHOLE[fault]), repr(error)
    assert (error.provider, error.model) == (desk.name, desk.model)
    assert len(desk.api.requests) == 1
    if fault.value.isdecimal():
        assert error.status == int(fault.value)


@pytest.mark.parametrize("fault", BROKEN, ids=lambda fault: fault.value)
async def test_a_stream_never_ends_in_silence(desk: Desk, fault: Fault) -> None:
    error = await failing(desk, fault, as_stream=True, chunks=20)

    assert isinstance(error, BROKEN[fault]), repr(error)
    assert error.is_provider_fault
    assert error.retryable


@pytest.mark.parametrize("fault", [Fault.CUT, Fault.STREAM_ERROR], ids=lambda fault: fault.value)
async def test_an_answer_that_breaks_is_an_error(desk: Desk, fault: Fault) -> None:
    assert isinstance(await failing(desk, fault, as_stream=False), DOWN)


@pytest.mark.parametrize("name", sorted(KEY_NAMES))
@pytest.mark.parametrize("as_stream", [False, True], ids=["whole", "stream"])
async def test_a_prompt_refused_for_its_content(desk: Desk, *, as_stream: bool) -> None:
    assert isinstance(await failing(desk, Fault.BLOCKED, as_stream=as_stream), ContentRefused)


@pytest.mark.parametrize("as_stream", [False, True], ids=["whole", "stream"])
async def test_silence_ends_in_a_time_out(desk: Desk, *, as_stream: bool) -> None:
    call = desk.call(directive(fault="silence"), first_s=0.5)
    await desk.provider.list_models(desk.key)  # The SDK is imported before the clock runs.

    with pytest.raises(ProviderTimeout):
        await (streamed(desk.provider, call) if as_stream else desk.provider.generate(call))

    await desk.provider.close()
    await desk.relay.is_quiet()


async def test_a_stream_that_stalls_ends_in_a_time_out(desk: Desk) -> None:
    call = desk.call(directive(reply="One two three four.", chunks=20, fault="stall"), idle_s=0.5)

    with pytest.raises(ProviderTimeout):
        await streamed(desk.provider, call)


async def test_a_wait_is_passed_on(desk: Desk) -> None:
    error = await failing(desk, Fault.RATE_LIMIT, as_stream=False, retry_after_s=9)

    assert isinstance(error, RateLimited)
    assert error.retry_after_s is not None
    assert 8 <= error.retry_after_s <= 9
    assert not error.is_exhausted


@pytest.mark.parametrize("name", sorted(KEY_NAMES))
@pytest.mark.parametrize("as_stream", [False, True], ids=["whole", "stream"])
async def test_a_wrong_key_is_in_no_word_of_the_error(desk: Desk, *, as_stream: bool) -> None:
    call = desk.call("Hello.", secret=SECRET)

    with pytest.raises(AuthenticationFailed) as caught:
        await (streamed(desk.provider, call) if as_stream else desk.provider.generate(call))

    error: BaseException | None = caught.value
    seen = "".join(traceback.format_exception(caught.value)) + repr(caught.value) + repr(vars(caught.value))
    assert SECRET not in seen
    assert SECRET[:16] not in seen
    assert "http" not in caught.value.message
    while error:
        assert not hasattr(error, "request")
        assert not hasattr(error, "response")
        error = error.__context__ or error.__cause__


@pytest.mark.parametrize("name", sorted(KEY_NAMES))
async def test_a_key_is_needed(desk: Desk) -> None:
    desk.key = None

    with pytest.raises(AuthenticationFailed):
        await desk.provider.generate(desk.call("Hello."))


@pytest.mark.parametrize("as_stream", [False, True], ids=["whole", "stream"])
async def test_cancelling_closes_the_connection(desk: Desk, *, as_stream: bool) -> None:
    call = desk.call(directive(hold=True))
    task = asyncio.ensure_future(streamed(desk.provider, call) if as_stream else desk.provider.generate(call))
    await desk.api.wait_for()

    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    await desk.relay.is_quiet()


async def test_a_client_that_leaves_in_mid_stream_closes_the_connection(desk: Desk) -> None:
    stream = desk.provider.stream(desk.call(directive(reply="One two three four.", chunks=50, fault="stall")))
    async with contextlib.aclosing(stream):
        async for event in stream:
            if not isinstance(event, ThinkingDelta):
                break
    await desk.relay.is_quiet()


async def test_nothing_listens(desk: Desk) -> None:
    provider = PROVIDERS[desk.name](ProviderSettings(base_url="http://127.0.0.1:1/v1"))

    with pytest.raises(ProviderUnavailable):
        await provider.generate(desk.call("Hello."))

    await provider.close()

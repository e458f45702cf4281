"""The providers' Batch APIs: many requests handed in together, answered within a day, at half the price.

Facts (documentation of both, 2026-11): Anthropic takes 100,000 requests or 256 MB a batch, OpenAI 50,000 or 200 MB and one
model a file; both end a batch after 24 hours and bill what was answered. Nothing here retries.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, TypeVar, cast

from claude_jobs.domain.api_key import ApiKey
from claude_jobs.domain.generation import Completion, GenerationRequest
from claude_jobs.errors import ProviderError, ProviderTimeout, ProviderUnavailable, RequestRefused
from claude_jobs.providers import anthropic, failures, openai
from claude_jobs.providers.base import ProviderSettings
from claude_jobs.providers.chat import Chat
from claude_jobs.providers.clients import Clients
from claude_jobs.providers.contract import Json, rules_of, shape
from claude_jobs.providers.failures import About, Refusal, Said
from claude_jobs.providers.responses import Responses
from claude_jobs.providers.sdk import Dialect

T = TypeVar("T")
Outcome = Completion | ProviderError

_CALL_S = 120.0
"""For one call of the API: files of a batch are large."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchState:
    """Where a batch stands.

    Attributes:
        is_over: Nothing of it is answered any more.
        status: As the provider calls it.
        results: Where the answers are, as `results` takes it.
        why: What was wrong with it as a whole, "" if nothing was.
    """

    id: str
    is_over: bool
    status: str
    results: tuple[str, ...] = ()
    why: str = ""


class BatchApi(Protocol):
    """One provider's. Every method raises ProviderError and nothing else of the API's."""

    name: str

    def kind(self, request: GenerationRequest) -> str:
        """Requests of one kind may share a batch. Raises RequestRefused for what the model cannot do."""
        ...

    async def submit(self, requests: Mapping[str, GenerationRequest], key: ApiKey) -> str:
        """Hand in requests of one kind by their ids (letters, digits, - and _, at most 64). The batch's id."""
        ...

    async def poll(self, batch_id: str, key: ApiKey) -> BatchState:
        """Where it stands."""
        ...

    async def results(
        self, state: BatchState, requests: Mapping[str, GenerationRequest], key: ApiKey
    ) -> dict[str, Outcome]:
        """Of a batch that is over, each request's answer, or why there is none."""
        ...

    async def cancel(self, batch_id: str, key: ApiKey) -> None:
        """Answer no more of it; what is answered already is billed."""
        ...

    async def close(self) -> None:
        """Close the connections."""
        ...


class AnthropicBatches:
    """Message Batches."""

    name = anthropic.NAME

    def __init__(self, settings: ProviderSettings) -> None:
        self._sdk = _Sdk(self.name, "anthropic", anthropic.BASE_URL, settings)
        self._wire = anthropic.Messages()

    def kind(self, request: GenerationRequest) -> str:
        """As BatchApi says: all are of one."""
        _body(self.name, self._wire, request)
        return self._wire.path

    async def submit(self, requests: Mapping[str, GenerationRequest], key: ApiKey) -> str:
        """As BatchApi says."""
        listed = [
            {"custom_id": name, "params": _body(self.name, self._wire, request)} for name, request in requests.items()
        ]
        return str((await self._sdk.json(key, _MESSAGES, {"requests": listed}))["id"])

    async def poll(self, batch_id: str, key: ApiKey) -> BatchState:
        """As BatchApi says."""
        view = await self._sdk.json(key, f"{_MESSAGES}/{batch_id}")
        status = str(view.get("processing_status"))
        where = (f"{_MESSAGES}/{batch_id}/results",)
        return BatchState(id=batch_id, is_over=status == "ended", status=status, results=where)

    async def results(
        self, state: BatchState, requests: Mapping[str, GenerationRequest], key: ApiKey
    ) -> dict[str, Outcome]:
        """As BatchApi says."""
        found: dict[str, Outcome] = {}
        for line in await self._sdk.lines(key, state.results):
            name, result = str(line.get("custom_id")), cast("Json", line.get("result") or {})
            request = requests.get(name)  # nosec B113 - a mapping, no HTTP library
            if request is None:
                continue
            about = self._sdk.about(key, request.model)
            if result.get("type") == "succeeded":
                found[name] = _outcome(self._wire, result.get("message"), request, about)
            elif result.get("type") == "errored":
                found[name] = failures.of_said(_said(cast("Json", result.get("error") or {})), about)
            else:
                found[name] = _missed(str(result.get("type")), "", about)
        return _completed(found, state, requests, self._sdk, key)

    async def cancel(self, batch_id: str, key: ApiKey) -> None:
        """As BatchApi says."""
        await self._sdk.json(key, f"{_MESSAGES}/{batch_id}/cancel", {})

    async def close(self) -> None:
        """As BatchApi says."""
        await self._sdk.close()


class OpenAIBatches:
    """Files and batches, for chat completions and responses."""

    name = openai.NAME

    def __init__(self, settings: ProviderSettings) -> None:
        self._sdk = _Sdk(self.name, "openai", openai.BASE_URL, settings)
        self._chat = Chat()
        self._responses = Responses()

    def _wire(self, request: GenerationRequest) -> Dialect:
        return self._responses if openai.is_by_responses(request) else self._chat

    def kind(self, request: GenerationRequest) -> str:
        """As BatchApi says: a file is of one model and one endpoint."""
        wire = self._wire(request)
        _body(self.name, wire, request)
        return f"{wire.path} {request.model}"

    async def submit(self, requests: Mapping[str, GenerationRequest], key: ApiKey) -> str:
        """As BatchApi says."""
        wire = self._wire(next(iter(requests.values())))
        endpoint = f"/v1{wire.path}"
        lines = [
            {"custom_id": name, "method": "POST", "url": endpoint, "body": _body(self.name, wire, request)}
            for name, request in requests.items()
        ]
        content = "\n".join(json.dumps(line) for line in lines).encode()
        file_id = await self._sdk.uploaded(key, content)
        body = {"input_file_id": file_id, "endpoint": endpoint, "completion_window": "24h"}
        return str((await self._sdk.json(key, "/batches", body))["id"])

    async def poll(self, batch_id: str, key: ApiKey) -> BatchState:
        """As BatchApi says."""
        view = await self._sdk.json(key, f"/batches/{batch_id}")
        status = str(view.get("status"))
        files = tuple(str(view[name]) for name in ("output_file_id", "error_file_id") if view.get(name))
        is_over = status in ("completed", "failed", "expired", "cancelled")
        where = tuple(f"/files/{file_id}/content" for file_id in files)
        return BatchState(id=batch_id, is_over=is_over, status=status, results=where, why=_first_error(view))

    async def results(
        self, state: BatchState, requests: Mapping[str, GenerationRequest], key: ApiKey
    ) -> dict[str, Outcome]:
        """As BatchApi says."""
        found: dict[str, Outcome] = {}
        for line in await self._sdk.lines(key, state.results):
            name = str(line.get("custom_id"))
            request = requests.get(name)  # nosec B113 - a mapping, no HTTP library
            if request is None:
                continue
            about = self._sdk.about(key, request.model)
            response = cast("Json", line.get("response") or {})
            status = response.get("status_code")
            error = cast("Json", line.get("error") or {})
            if status == 200 and not error:
                found[name] = _outcome(self._wire(request), response.get("body"), request, about)
            elif error.get("code") in ("batch_expired", "batch_cancelled"):
                found[name] = _missed(str(error["code"]), "", about)
            else:
                said = failures.heard(status, cast("Json", response.get("body") or {"error": error}), {}, 0.0)
                found[name] = failures.of_said(said, about)
        return _completed(found, state, requests, self._sdk, key)

    async def cancel(self, batch_id: str, key: ApiKey) -> None:
        """As BatchApi says."""
        await self._sdk.json(key, f"/batches/{batch_id}/cancel", {})

    async def close(self) -> None:
        """As BatchApi says."""
        await self._sdk.close()


BATCHES: Mapping[str, Callable[[ProviderSettings], BatchApi]] = {
    anthropic.NAME: AnthropicBatches,
    openai.NAME: OpenAIBatches,
}
"""The providers that have one which takes what we ask."""

_MESSAGES = "/v1/messages/batches"


class _Sdk:
    """Plain JSON by a provider's SDK."""

    def __init__(
        self, provider: str, sdk: Literal["anthropic", "openai"], base_url: str, settings: ProviderSettings
    ) -> None:
        self._provider = provider
        self._clients = Clients(provider, sdk, base_url, settings)

    def about(self, key: ApiKey, model: str = "") -> About:
        """Whose call it is, for its errors."""
        return About(provider=self._provider, model=model, secret=key.secret)

    async def json(self, key: ApiKey, path: str, body: Json | None = None) -> Json:
        """The answer to a POST of `body`, or to a GET."""

        async def ask(client: Any) -> Json:  # noqa: ANN401 - the SDKs' clients have no type in common
            import httpx2

            if body is None:
                response = await client.get(path, cast_to=httpx2.Response, options={})
            else:
                response = await client.post(path, cast_to=httpx2.Response, body=body)
            return cast("Json", dict(json.loads(response.content)))

        return await self._asked(key, ask)

    async def lines(self, key: ApiKey, paths: Sequence[str]) -> list[Json]:
        """JSON lines of all of them."""

        async def ask(client: Any) -> list[Json]:  # noqa: ANN401 - see json
            import httpx2

            found: list[Json] = []
            for path in paths:
                response = await client.get(path, cast_to=httpx2.Response, options={})
                found += [dict(json.loads(line)) for line in response.content.splitlines() if line.strip()]
            return found

        return await self._asked(key, ask)

    async def uploaded(self, key: ApiKey, content: bytes) -> str:
        """The id of a file with the requests of a batch."""

        async def ask(client: Any) -> str:  # noqa: ANN401 - see json
            return str((await client.files.create(file=("batch.jsonl", content), purpose="batch")).id)

        return await self._asked(key, ask)

    async def _asked(self, key: ApiKey, ask: Callable[[Any], Awaitable[T]]) -> T:
        about = self.about(key)
        client = await self._clients.of(key, about)
        try:
            async with asyncio.timeout(_CALL_S):
                return await ask(client)
        except (LookupError, TypeError, AttributeError):
            failure: ProviderError = failures.nonsense(about)
        except self._clients.foreign() as error:
            failure = self._clients.failure(error, about)
        # Raised out here it carries no context: the SDK's errors hold requests, and these hold the key.
        raise failure

    async def close(self) -> None:
        """Close the connections."""
        await self._clients.close()


def _body(provider: str, wire: Dialect, request: GenerationRequest) -> Json:
    return wire.body(shape(request, provider, rules_of(provider, request.model, wire.via)), is_stream=False)


def _outcome(wire: Dialect, answer: object, request: GenerationRequest, about: About) -> Outcome:
    try:
        shaped = shape(request, about.provider, rules_of(about.provider, request.model, wire.via))
        return wire.completion(cast("Json", answer), shaped, None)
    except Refusal as refusal:
        return failures.of_said(refusal.said, about)
    except (LookupError, TypeError, AttributeError, ValueError):
        return failures.nonsense(about)


def _said(error: Json) -> Said:
    """Of an item that failed: Anthropic tells no status there, only the type."""
    said = failures.heard(None, error, {}, 0.0)
    status = next((status for word, status in _STATUS.items() if word in said.words), None)
    return replace(said, status=status)


_STATUS = {"invalid_request_error": 400, "request_too_large": 413, "not_found_error": 404, "api_error": 500}


def _first_error(view: Json) -> str:
    errors: object = view.get("errors")
    listed: object = cast("Json", errors).get("data") if isinstance(errors, dict) else None
    if not isinstance(listed, list) or not listed:
        return ""
    error = cast("list[object]", listed)[0]
    return str(cast("Json", error).get("message") or "") if isinstance(error, dict) else ""


def _missed(status: str, why: str, about: About) -> ProviderError:
    """Why a request of a batch that is over was not answered."""
    kind: type[ProviderError] = ProviderUnavailable
    text = f"{about.provider} gave no answer to this request of a batch. Send it again."
    if "expired" in status:
        kind, text = (
            ProviderTimeout,
            f"{about.provider}'s batch ended after a day before this was answered. Send it again.",
        )
    elif "cancel" in status:
        text = f"{about.provider}'s batch was cancelled before this was answered. Send it again."
    elif status == "failed":
        said = failures.clean(why, about.secret)
        kind, text = RequestRefused, f"{about.provider} did not accept the batch. It says: {said!r}"
    return kind(text, provider=about.provider, model=about.model)


def _completed(
    found: dict[str, Outcome], state: BatchState, requests: Mapping[str, GenerationRequest], sdk: _Sdk, key: ApiKey
) -> dict[str, Outcome]:
    """With a reason for each request of which the results say nothing."""
    missing = {
        name: _missed(state.status, state.why, sdk.about(key, request.model))
        for name, request in requests.items()
        if name not in found
    }
    return found | missing

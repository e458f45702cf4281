"""Where a question may go, in order: the providers and models that were asked for and can do it, each with its keys."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

from claude_jobs.domain.api_key import ApiKey
from claude_jobs.domain.generation import GenerationRequest, ModelCard, Route
from claude_jobs.errors import InvalidRequest, NoRoute, ProviderError, ProviderTimeout
from claude_jobs.policy import providers as names
from claude_jobs.policy.estimate_tokens import estimate_request
from claude_jobs.policy.routing import job_lacks, lacks
from claude_jobs.policy.similar import did_you_mean
from claude_jobs.services.generation_api import Ask
from claude_jobs.services.models import CLI_MODELS
from claude_jobs.services.provider_keys import ProviderKeys
from claude_jobs.services.trace import Trace

LOCAL_S = 5.0
"""How long Ollama may take to say which model it has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A provider and model that may answer.

    Attributes:
        request: What it is asked: with its model and the most it may answer.
        keys: Secrets by fingerprint; {"": None} where none is needed.
        routes: One for each key.
        late: Of a fallback whose model only Ollama can name: makes the target, or says why it is none, when its turn has come.
    """

    provider: str
    model: str
    request: GenerationRequest
    keys: Mapping[str, ApiKey | None] = field(repr=False)
    routes: tuple[Route, ...]
    late: Callable[[], Awaitable[Target | str]] | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Targets in their order, at least one, and the estimated input."""

    targets: tuple[Target, ...]
    input_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRules:
    """The operator's settings. `models` are the defaults by provider."""

    max_tokens: int
    use_local: bool
    cli_model: str
    models: Mapping[str, str]


class Planner:
    """Makes a plan of an ask."""

    def __init__(
        self, *, rules: PlanRules, keys: ProviderKeys, card: Callable[[str, str], ModelCard], local: LocalModel
    ) -> None:
        """`card` tells what a provider's model can do; `local` which model Ollama has."""
        self._rules = rules
        self._keys = keys
        self._card = card
        self._local = local

    def choose(self, provider: str, model: str) -> tuple[str, str]:
        """The provider and model that names mean; an empty model is the provider's default.

        Raises:
            InvalidRequest: Nobody knows a provider of that name.
        """
        rules = self._rules
        known = provider_of(provider, model, use_local=rules.use_local)
        if known == names.CLAUDE_CLI:
            return known, model or rules.cli_model
        return known, model or rules.models.get(known, "")

    async def plan(self, ask: Ask, trace: Trace) -> Plan:
        """Where it may go, at least one place.

        Raises:
            NoRoute: Nothing can take it.
            InvalidRequest: Nobody knows a name, or it is for a job alone, which cannot do it.
            ProviderError: Nothing but Ollama could take it, which is not there.
        """
        tokens = estimate_request(ask.request)
        wanted = [(ask.request.provider, ask.request.model), *ask.fallbacks]
        targets: list[Target] = []
        why: list[str] = []
        failed: ProviderError | InvalidRequest | None = None
        for provider, model in dict.fromkeys(self.choose(*pair) for pair in wanted):
            target = await self._target(ask, provider, model, tokens, is_fallback=bool(targets))
            if isinstance(target, Target):
                targets.append(target)
                continue
            if isinstance(target, ProviderError) or (isinstance(target, InvalidRequest) and not ask.fallbacks):
                failed = target
            said = target if isinstance(target, str) else target.message
            why.append(f"{provider}/{model}: {said}")
            trace.add("skip", "unable", route=Route(provider=provider, model=model), why=said)
        if not targets:
            raise failed or NoRoute(f"Nothing can answer this. {'. '.join(why)}.", tried=tuple(why))
        return Plan(targets=tuple(targets), input_tokens=tokens)

    async def _target(
        self, ask: Ask, provider: str, model: str, tokens: int, *, is_fallback: bool
    ) -> Target | ProviderError | InvalidRequest | str:
        """The target, or why it is none."""
        if provider == names.CLAUDE_CLI:
            lacking, message = job_lacks(ask.request)
            return InvalidRequest(message, field=lacking) if lacking else _bare(ask.request, provider, model)
        if provider not in names.KEY_NAMES:
            if model:
                return self._fit(ask.request, provider, model, tokens, {"": None})
            if is_fallback:  # an Ollama that hangs is not in the way of a provider that answers
                late = partial(self._late, ask, tokens)
                return replace(_bare(ask.request, provider, model), late=late)
            return await self._local_target(ask, tokens)
        keys = {key.fingerprint: key for key in await self._keys.of(provider, ask.caller)}
        if not keys:
            if ask.caller.inside_job:
                return "a job gets none of your keys, unless CLAUDE_JOBS_PROVIDERS_IN_JOBS allows it"
            return f"there is no key for it: set {names.KEY_NAMES[provider]}"
        return self._fit(ask.request, provider, model, tokens, keys)

    async def _late(self, ask: Ask, tokens: int) -> Target | str:
        found = await self._local_target(ask, tokens)
        return found.message if isinstance(found, ProviderError) else found

    async def _local_target(self, ask: Ask, tokens: int) -> Target | ProviderError | str:
        """Ollama with the model it names."""
        try:
            async with asyncio.timeout(min(LOCAL_S, ask.timeout_s or LOCAL_S)):
                model = await self._local()
        except ProviderError as error:
            return error
        except TimeoutError:
            return ProviderTimeout("Ollama did not say in time which model it has.", provider=names.OLLAMA)
        return self._fit(ask.request, names.OLLAMA, model, tokens, {"": None})

    def _fit(
        self, request: GenerationRequest, provider: str, model: str, tokens: int, keys: Mapping[str, ApiKey | None]
    ) -> Target | str:
        """With what the model can do, if that is enough."""
        card = self._card(provider, model)
        lacking = lacks(card, request, tokens)
        if lacking:
            return lacking
        most = request.max_output_tokens or self._rules.max_tokens
        if card.max_output_tokens:
            most = min(most, card.max_output_tokens)
        return Target(
            provider=provider,
            model=model,
            request=replace(request, provider=provider, model=model, max_output_tokens=most),
            keys=keys,
            routes=tuple(Route(provider=provider, model=model, key=fingerprint) for fingerprint in keys),
        )


def provider_of(provider: str, model: str, *, use_local: bool) -> str:
    """The provider that names mean: the one that is named, else the model's, else Ollama if that is wanted, else claude-cli.

    Raises:
        InvalidRequest: Nobody knows a provider of that name.
    """
    if provider:
        known = names.canonical(provider)
        if not known:
            raise InvalidRequest(_unknown(provider), field="provider")
        return known
    known = names.of_model(model) if model else ""
    if model and not known and not use_local:
        message = f"Nobody knows by its name whose model {model!r} is.{did_you_mean(model, _FAMILIAR)} Name its provider, too."
        raise InvalidRequest(message, field="model")
    return known or (names.OLLAMA if use_local else names.CLAUDE_CLI)


_FAMILIAR = (*(model.name for model in CLI_MODELS), *(model.id for model in CLI_MODELS))

LocalModel = Callable[[], Awaitable[str]]
"""Names the model that Ollama answers with where none is asked for; ModelNotFound if it has none."""


def _bare(request: GenerationRequest, provider: str, model: str) -> Target:
    return Target(
        provider=provider,
        model=model,
        request=replace(request, provider=provider, model=model),
        keys={"": None},
        routes=(Route(provider=provider, model=model),),
    )


def _unknown(provider: str) -> str:
    known = [*names.NAMES, *names.ALIASES, names.CLAUDE_CLI]
    return f"Unknown provider {provider!r}.{did_you_mean(provider, known)} Known are: {', '.join((*names.NAMES, names.CLAUDE_CLI))}."

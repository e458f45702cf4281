"""Which models there are, asked of the providers themselves and remembered for a while; and counting tokens there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from claude_jobs.domain.api_key import ApiKey
from claude_jobs.domain.generation import ModelCard, Provenance
from claude_jobs.errors import InvalidRequest, ModelNotFound, ProviderError
from claude_jobs.policy import providers as names
from claude_jobs.providers.base import Provider, ProviderCall
from claude_jobs.services.caller import Caller
from claude_jobs.services.generation_api import ModelList, TokenCount
from claude_jobs.services.models import CLI_MODELS
from claude_jobs.services.planner import Plan
from claude_jobs.services.provider_keys import ProviderKeys

FRESH_S = 300.0
LONGEST_S = 5.0
"""How long a list may take; after that the table's models are shown, and why."""

Cards = Callable[[str], Sequence[ModelCard]]
PriceCard = Callable[[str, str], tuple[int, int] | None]


class ModelLists:
    """Live lists by provider and key. Call it on one event loop only."""

    def __init__(
        self,
        *,
        provider: Callable[[str], Provider],
        made: Mapping[str, Provider],
        keys: ProviderKeys,
        cards: Cards,
        price: PriceCard,
        cli_model: str,
    ) -> None:
        """`made` are the providers that were made so far; `cards` what we know of a provider's models ourselves."""
        self._provider = provider
        self._made = made
        self._keys = keys
        self._cards = cards
        self._price = price
        self._cli_model = cli_model
        self._live: dict[tuple[str, str], tuple[float, tuple[ModelCard, ...]]] = {}

    async def models(self, caller: Caller, provider: str) -> ModelList:
        """Raises InvalidRequest for a provider nobody knows."""
        if provider and not names.canonical(provider):
            raise InvalidRequest(
                f"Unknown provider {provider!r}. Known are: {', '.join(names.NAMES)}.", field="provider"
            )
        wanted = (names.canonical(provider),) if provider else (*names.NAMES, names.CLAUDE_CLI)
        lists = await asyncio.gather(*(self._of(name, caller) for name in wanted))
        return ModelList(
            models=tuple(card for cards, _ in lists for card in cards),
            notes={name: note for name, (_, note) in zip(wanted, lists, strict=True) if note},
        )

    async def local(self) -> str:
        """The model Ollama answers with where none is named: the first it has.

        Raises:
            ProviderError: It is not there, or has none.
        """
        cards = await self._listed(names.OLLAMA, None)
        if not cards:
            message = "Ollama has no model. Get one with `ollama pull qwen3:8b`, then ask again."
            raise ModelNotFound(message, provider=names.OLLAMA)
        return cards[0].id

    async def count(self, plan: Plan) -> TokenCount:
        """Input tokens of the plan's first target; our estimate where the provider does not count or is not there."""
        target = plan.targets[0]
        counted: int | None = None
        if target.provider != names.CLAUDE_CLI:
            call = ProviderCall(request=target.request, key=next(iter(target.keys.values())), first_s=LONGEST_S)
            try:
                counted = await self._provider(target.provider).count_tokens(call)
            except ProviderError as error:
                if not error.retryable:
                    raise
        return TokenCount(
            provider=target.provider,
            model=target.model,
            tokens=plan.input_tokens if counted is None else counted,
            provenance=Provenance.ESTIMATED if counted is None else Provenance.REPORTED,
        )

    async def _of(self, provider: str, caller: Caller) -> tuple[Sequence[ModelCard], str]:
        if provider == names.CLAUDE_CLI:
            return _cli_cards(self._cli_model), ""
        known = [self._priced(card) for card in self._cards(provider)]
        keys = await self._keys.of(provider, caller) if provider in names.KEY_NAMES else (None,)
        if not keys:
            return known, f"not live: set {names.KEY_NAMES[provider]}"
        try:
            async with asyncio.timeout(LONGEST_S):
                live = await self._listed(provider, keys[0])
        except ProviderError as error:
            return known, f"not live: {error.message}"
        except TimeoutError:
            return known, f"not live: no answer within {LONGEST_S:g} s"
        return [self._priced(card) for card in live], ""

    def _priced(self, card: ModelCard) -> ModelCard:
        price = self._price(card.provider, card.id)
        if price is None:
            return card
        return replace(card, input_nusd_mtok=price[0], output_nusd_mtok=price[1])

    async def _listed(self, provider: str, key: ApiKey | None) -> tuple[ModelCard, ...]:
        now_s = asyncio.get_running_loop().time()
        place = (provider, key.fingerprint if key else "")
        found = self._live.get(place)
        if found is None or now_s - found[0] >= FRESH_S:
            found = self._live[place] = (now_s, await self._provider(provider).list_models(key))
        return found[1]

    async def close(self) -> None:
        """Close the providers' connections."""
        await asyncio.gather(*(provider.close() for provider in self._made.values()))


def _cli_cards(default: str) -> list[ModelCard]:
    return [
        ModelCard(
            id=model.name,
            provider=names.CLAUDE_CLI,
            name=f"{model.id}, {model.description}",
            is_default=model.name == default,
        )
        for model in CLI_MODELS
    ]

"""Models by provider as the tool list_models tells them: few words for each, however many there are. Values in, values and text out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from claude_jobs.domain.generation import ModelCard
from claude_jobs.policy.providers import CLAUDE_CLI
from claude_jobs.services.generation_api import ModelList
from claude_jobs.services.views import one_line

FEW_MODELS = 5
"""Of each provider where all are listed: the default and the first of its list."""
MOST_MODELS = 200
NAME_CHARS = 100
NOTE_CHARS = 200

View = dict[str, Any]


def model_lists(found: ModelList, *, per_provider: int) -> list[View]:
    """Each provider but claude-cli: its default, so many of its models, how many more there are, why its list is not live."""
    cards: dict[str, list[ModelCard]] = {}
    for card in found.models:
        cards.setdefault(card.provider, []).append(card)
    names = [name for name in dict.fromkeys((*cards, *found.notes)) if name != CLAUDE_CLI]
    return [_of(name, cards.get(name, []), found.notes.get(name, ""), per_provider) for name in names]


def _of(provider: str, cards: Sequence[ModelCard], note: str, most: int) -> View:
    ids = [card.id for card in sorted(cards, key=lambda card: not card.is_default)]
    return {
        "provider": provider,
        "default": next((card.id for card in cards if card.is_default), ""),
        "models": [one_line(name, NAME_CHARS) for name in ids[:most]],
        "more": max(0, len(ids) - most),
        "note": one_line(note, NOTE_CHARS),
    }


def models_text(lists: Sequence[Mapping[str, Any]]) -> str:
    """A line for each provider."""
    return "\n".join(_line(one) for one in lists)


def _line(one: Mapping[str, Any]) -> str:
    names = ", ".join(f"{name} (default)" if name == one["default"] else name for name in one["models"])
    more = f" and {one['more']} more" if one["more"] else ""
    note = f" [{one['note']}]" if one["note"] else ""
    return f"{one['provider']}: {names or 'none'}{more}{note}"


def jobs_text(models: Sequence[Mapping[str, Any]]) -> str:
    """The models of jobs, a line each."""
    return "\n".join(
        f"{model['name']}{' (default)' if model['is_default'] else ''}: {model['description'] or model['id']}"
        for model in models
    )

"""All providers by name, from the lines in policy/providers.py. A provider's file is imported when it is made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from typing import cast

from claude_jobs.policy.providers import KNOWN, NAMES, Known
from claude_jobs.providers.base import Provider, ProviderSettings
from claude_jobs.providers.contract import default_model


def make(known: Known, settings: ProviderSettings) -> Provider:
    """The provider of that line."""
    module, _, name = known.made_by.partition(":")
    factory = getattr(import_module(f"claude_jobs.providers.{module}"), name)
    return cast("Callable[[ProviderSettings], Provider]", factory)(settings)


PROVIDERS: Mapping[str, Callable[[ProviderSettings], Provider]] = {each.name: partial(make, each) for each in KNOWN}

DEFAULT_MODELS: Mapping[str, str] = {name: default_model(name) for name in NAMES}
"""What answers where a provider is named and no model; "" where that depends on what is installed (Ollama)."""

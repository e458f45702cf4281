"""The providers by name, with what callers also call them and the variables that hold their keys. The bridge loads this."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

CLAUDE_CLI = "claude-cli"
"""The provider that answers with a job of the CLI: the subscription pays."""
OLLAMA = "llama"


FAMILIES = ("opus", "sonnet", "haiku", "fable")
"""Claude's, which the CLI takes for names of models."""


class Known(NamedTuple):
    """One provider.

    Attributes:
        made_by: Module and class below `claude_jobs.providers`.
        key: The variable that holds its key; "" if it needs none.
        aliases: What callers also call it.
        models: How the names of its models begin, so that a model alone tells its provider.
    """

    name: str
    made_by: str
    key: str = ""
    aliases: tuple[str, ...] = ()
    models: tuple[str, ...] = ()


# fmt: off
KNOWN = (
    Known(name="openai", made_by="openai:OpenAI", key="OPENAI_API_KEY", models=("ft:", "gpt-", "o1", "o3", "o4", "chatgpt")),
    Known(name="claude", made_by="anthropic:Anthropic", key="ANTHROPIC_API_KEY", aliases=("anthropic",)),
    Known(name="gemini", made_by="gemini:Gemini", key="GOOGLE_API_KEY", aliases=("google",), models=("gemini",)),
    Known(name=OLLAMA, made_by="ollama:Ollama", aliases=("ollama",)),
    Known(name="grok", made_by="grok:Grok", key="XAI_API_KEY", aliases=("xai",), models=("grok",)),
    Known(name="qwen", made_by="qwen:Qwen", key="DASHSCOPE_API_KEY", aliases=("dashscope",), models=("qwq", "qwen")),
)
# fmt: on
"""All of them, a line each; docs/providers.md shows how to add one."""

NAMES = tuple(each.name for each in KNOWN)
ALIASES = {alias: each.name for each in KNOWN for alias in each.aliases}
KEY_NAMES = {each.name: each.key for each in KNOWN if each.key}
"""Each may be there several times: the bare name, then with 1, 2, …"""

_NUMBERED = re.compile("(" + "|".join(KEY_NAMES.values()) + r")([0-9]{0,9})")
_PREFIXES = (("claude", CLAUDE_CLI), *((prefix, each.name) for each in KNOWN for prefix in each.models))
_SUBSCRIPTION = "sk-ant-oat"


def canonical(name: str) -> str:
    """The name a provider is known by here, "" for one that nobody knows."""
    lowered = name.strip().lower()
    lowered = ALIASES.get(lowered, lowered)
    return lowered if lowered in NAMES or lowered == CLAUDE_CLI else ""


def of_model(model: str) -> str:
    """The provider whose model that is by its name, "" if the name does not tell.

    Claude models are answered by claude-cli unless `claude` is named: a key that bills per use is not used unasked.
    A name with a tag ("qwen3:8b") is one of Ollama's, unless it is a fine-tune ("ft:gpt-4o:acme::x") or Bedrock's name
    of a Claude model ("anthropic.claude-x-v1:0").
    """
    lowered = model.lower()
    if lowered in FAMILIES or "anthropic." in lowered:
        return CLAUDE_CLI
    if ":" in lowered and not lowered.startswith("ft:"):
        return OLLAMA
    return next((provider for prefix, provider in _PREFIXES if lowered.startswith(prefix)), "")


def pick_keys(environ: Mapping[str, str]) -> list[tuple[str, str]]:
    """(name, secret) of every provider key in `environ`, in their order of use, without repeats. Subscription tokens are none."""
    numbered = sorted((m[1], int(m[2] or -1), name) for name in environ if (m := _NUMBERED.fullmatch(name)))
    found: dict[tuple[str, str], tuple[str, str]] = {}
    for base, _, name in numbered:
        secret = environ.get(name, "").strip()
        if secret and not secret.startswith(_SUBSCRIPTION):
            found.setdefault((base, secret), (name, secret))
    return list(found.values())


def provider_of_key(name: str) -> str:
    """Whose key the variable `name` holds, "" if it holds none."""
    match = _NUMBERED.fullmatch(name)
    return next((provider for provider, base in KEY_NAMES.items() if match and match[1] == base), "")

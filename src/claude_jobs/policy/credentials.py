"""Pure rules for reading credentials out of an environment: names, order and kinds. Imports nothing heavy: the bridge uses it."""

from __future__ import annotations

import re
from collections.abc import Mapping

OAUTH = "oauth"
API_KEY = "api_key"

_NUMBERED = re.compile(r"CLAUDE_CODE_TOKEN(\d*)")
_API_KEY_PREFIX = "sk-ant-api"
_FALLBACK = "ANTHROPIC_API_KEY"


def pick(environ: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """(name, kind, secret) of every credential in `environ`, in their order of use, without repeats.

    CLAUDE_CODE_TOKEN, CLAUDE_CODE_TOKEN1…N (any number), CLAUDE_CODE_OAUTH_TOKEN; ANTHROPIC_API_KEY comes last, and
    `chosen` uses it only if there is nothing else.
    """
    numbered = sorted((int(m[1] or -1), name) for name in environ if (m := _NUMBERED.fullmatch(name)))
    order = [*(name for _, name in numbered), "CLAUDE_CODE_OAUTH_TOKEN", _FALLBACK]
    found: dict[str, tuple[str, str, str]] = {}
    for name in order:
        secret = environ.get(name, "").strip()
        if secret:
            is_key = name == _FALLBACK or secret.startswith(_API_KEY_PREFIX)
            found.setdefault(secret, (name, API_KEY if is_key else OAUTH, secret))
    return list(found.values())


def chosen(found: list[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    """Those that jobs use: everything configured for Claude jobs; the bare API key is left to `fallback`."""
    return [item for item in found if item[0] != _FALLBACK]


def fallback(found: list[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    """ANTHROPIC_API_KEY, for when there is neither a token nor a login: it bills per use, so it is never pooled unasked."""
    return [item for item in found if item[0] == _FALLBACK]

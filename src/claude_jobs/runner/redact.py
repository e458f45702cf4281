"""Taking secrets out of text before it is stored or shown. Pure."""

from __future__ import annotations

from collections.abc import Iterable

_SHORTEST = 6
"""Nothing shorter can be a credential, and replacing it would garble ordinary text."""
_SHORTEST_PART = 14
"""Of a short secret, two thirds: less of it may be a word."""
_MASK = "[redacted]"


def redact(text: str, secrets: Iterable[str]) -> str:
    """`text` with each secret replaced, and with the part of one that a cut left at its beginning or end."""
    for secret in secrets:
        if len(secret) >= _SHORTEST:
            text = _without_parts(text.replace(secret, _MASK), secret)
    return text


def _without_parts(text: str, secret: str) -> str:
    body = text.removesuffix("…")
    ellipsis = text[len(body) :]
    shortest = min(_SHORTEST_PART, max(_SHORTEST, 2 * len(secret) // 3))
    sizes = range(len(secret) - 1, shortest - 1, -1)
    last = next((size for size in sizes if body.endswith(secret[:size])), 0)
    if last:
        body = body[:-last] + _MASK
    first = next((size for size in sizes if body.startswith(secret[-size:])), 0)
    return (_MASK + body[first:] if first else body) + ellipsis

"""Token figures as providers report them: believed if they can be true, else unknown. Pure."""

from __future__ import annotations

from claude_jobs.domain.generation import Provenance, Tokens

UNKNOWN = Tokens(provenance=Provenance.UNKNOWN)

_LARGEST_CONTEXT = 2_000_000
_MOST_TIMES = 10
"""Nothing can use more than its context; the room above is for windows that grew since our table."""


def reported(
    *,
    input: object,
    output: object,
    cache_read: object = 0,
    cache_write: object = 0,
    cache_write_1h: object = 0,
    thinking: object = 0,
    context: int,
    has_output: bool,
) -> Tokens:
    """The figures as Tokens, the parts disjoint already. None in a part that may be absent is zero.

    Args:
        context: The model's window, 0 if unknown.
        has_output: Whether something was said: then no output tokens cannot be true.
    """
    optional = [0 if part is None else part for part in (cache_read, cache_write, cache_write_1h, thinking)]
    parts = [part for part in (input, output, *optional) if type(part) is int and part >= 0]
    if len(parts) != 6:
        return UNKNOWN
    tokens = Tokens(
        input=parts[0],
        output=parts[1],
        cache_read=parts[2],
        cache_write=parts[3],
        cache_write_1h=min(parts[4], parts[3]),
        thinking=min(parts[5], parts[1]),
    )
    is_absurd = tokens.total > _MOST_TIMES * (context or _LARGEST_CONTEXT)
    return UNKNOWN if is_absurd or (has_output and tokens.output == 0) else tokens


def less(whole: object, *parts: object) -> object:
    """`whole` without its `parts`, as OpenAI's prompt tokens include what came from the cache; None if that is no figure."""
    figures = [0 if part is None else part for part in parts]
    if type(whole) is not int:
        return None
    known = [part for part in figures if type(part) is int]
    return whole - sum(known) if len(known) == len(figures) else None

"""What a wrong name was probably meant to be. Pure, and bounded however long the names or the list."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from itertools import islice

_MOST_NAMES = 2_000
_LONGEST = 100
_SIMILAR = 0.6


def nearest(name: str, known: Iterable[str]) -> str:
    """The one of `known` most like `name`, in any case; "" if none is near.

    A name that begins like it counts before one with like letters: "gpt-6" means "gpt-6-luna" rather than "gpt-5".
    """
    wanted = name.strip().lower()[:_LONGEST]
    if not wanted:
        return ""
    lowered = {each.lower()[:_LONGEST]: each for each in reversed(list(islice(known, _MOST_NAMES)))}
    if wanted in lowered:
        return lowered[wanted]
    begins = min((each for each in lowered if each.startswith(wanted)), key=lambda each: (len(each), each), default="")
    close = get_close_matches(wanted, lowered, n=1, cutoff=_SIMILAR)
    return lowered[begins or close[0]] if begins or close else ""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """ " Did you mean 'x'?" to end a message with, "" if nothing is near."""
    near = nearest(name, known)
    return f" Did you mean {near!r}?" if near else ""

"""Credentials as JSON, on their way from one of our processes to another. They go over private sockets, and nowhere else."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from claude_jobs.domain.token import Credential, TokenKind
from claude_jobs.errors import InvalidRequest
from claude_jobs.runner.environment import Pairs


def packed(credentials: Iterable[Credential]) -> list[dict[str, object]]:
    """As a list of profiles with what goes with each: profiles may be long, and are shared by many."""
    groups: dict[Pairs, list[tuple[str, str, str]]] = {}
    for one in credentials:
        groups.setdefault(one.profile, []).append((one.name, one.kind.value, one.secret))
    return [{"profile": profile, "keys": keys} for profile, keys in groups.items()]


def unpacked(groups: object) -> tuple[Credential, ...]:
    """What `packed` packed.

    Raises:
        InvalidRequest: It did not.
    """
    try:
        return tuple(
            Credential(name=str(name), kind=TokenKind(kind), secret=str(secret), profile=_pairs(group["profile"]))
            for group in cast("list[dict[str, Any]]", groups)
            for name, kind, secret in group["keys"]
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidRequest(f"Not credentials: {type(error).__name__}.", field="credentials") from None


def _pairs(profile: Iterable[tuple[object, object]]) -> Pairs:
    return tuple((str(name), str(value)) for name, value in profile)

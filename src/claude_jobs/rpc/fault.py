"""Our errors on the private socket: to an object and back. Standard library only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import cast

from claude_jobs.errors import ClaudeJobsError

Fault = dict[str, object]

_OWN = frozenset({"code", "message", "retryable"})


def to_fault(error: ClaudeJobsError) -> Fault:
    """The object for an error: code, message, retryable and the error's public fields, None and tuples of texts included."""
    fields = {name: value for name, value in vars(error).items() if not name.startswith("_") and _is_plain(value)}
    return {**fields, "code": error.code, "message": error.message, "retryable": error.retryable}


def from_fault(fault: Mapping[str, object]) -> ClaudeJobsError:
    """The error an object tells of: of the class that has its code, else the base class carrying the code.

    Fields that a worker of another version does not tell have their default, or are None.
    """
    code = str(fault.get("code", "internal"))
    kind = next((one for one in _family(ClaudeJobsError) if one.code == code), ClaudeJobsError)
    error = kind.__new__(kind)
    ClaudeJobsError.__init__(error, str(fault.get("message", "")))
    error.code = code
    error.retryable = bool(fault.get("retryable", False))
    told = {name: value for name, value in fault.items() if name not in _OWN and _is_field(name)}
    for name, value in {**_defaults(kind), **told}.items():
        setattr(error, name, tuple(cast("list[object]", value)) if isinstance(value, list) else value)
    return error


def _is_plain(value: object) -> bool:
    if isinstance(value, tuple):
        return all(isinstance(item, str) for item in cast("tuple[object, ...]", value))
    return value is None or isinstance(value, (str, int, float, bool))


def _is_field(name: str) -> bool:
    """Whether a name may be set: no method, and nothing of Python's own."""
    return name.isidentifier() and not name.startswith("_") and not hasattr(BaseException, name)


def _defaults(kind: type[ClaudeJobsError]) -> Fault:
    """What its constructor takes by name, which are an error's fields, with their defaults."""
    code, given = kind.__init__.__code__, kind.__init__.__kwdefaults__ or {}
    names = code.co_varnames[code.co_argcount :][: code.co_kwonlyargcount]
    return {name: given.get(name) for name in names if not hasattr(kind, name)}


def _family(kind: type[ClaudeJobsError]) -> Iterator[type[ClaudeJobsError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from _family(child)

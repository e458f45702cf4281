"""A plan: jobs, who waits for whom, and how they run together. Its shape and what defaults mean; `plan_checks` judges the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from claude_jobs.cli.documents import Document, Place, mapping, parse, sequence
from claude_jobs.cli.reading import read
from claude_jobs.runner.paths import expanded

Fields = dict[str, object]

_PLAN_FIELDS = ("name", "defaults", "max_parallel", "on_failure", "jobs")
_ON_FAILURE = ("continue", "fail_fast")
_OF_ONE_JOB = ("id", "key", "prompt")
"""What cannot be said once for all jobs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One job of a plan.

    Attributes:
        at: Its number, from 0.
        fields: All fields of its request, defaults and options included.
        waits_for: Ids of this plan, and of jobs that exist (`j-…`), that must come first, each once.
    """

    at: int
    fields: Fields
    waits_for: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """Its plan-local name, "" for none."""
        return str(self.fields.get("id", ""))

    @property
    def name(self) -> str:
        """What people call it."""
        return self.id or str(self.fields.get("label", "")) or f"#{self.at + 1}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Jobs that are handed in together.

    Attributes:
        path: The file, absolute; None for stdin.
        fail_fast: When one fails, the rest is cancelled.
    """

    path: Path | None
    name: str
    max_parallel: int | None
    fail_fast: bool
    items: tuple[Item, ...]

    def waves(self) -> list[list[Item]]:
        """The items in the order they can run: each waits only for items of waves before its own."""
        ids = {item.id for item in self.items if item.id}
        missing = {item.at: ids.intersection(item.waits_for) for item in self.items}
        waves: list[list[Item]] = []
        while missing:
            wave = [self.items[at] for at, names in missing.items() if not names]
            assert wave, "a checked plan has no circle"
            waves.append(wave)
            done = {item.id for item in wave}
            missing = {at: names - done for at, names in missing.items() if names}
        return waves


class Layout:
    """Where things stand in a plan's document, for messages."""

    def __init__(self, document: Document) -> None:
        self._document = document
        head = mapping(document.value)
        self._base: Place = ("jobs",) if head is not None and "jobs" in head else ()
        self._is_single = not self._base and sequence(document.value) is None

    def head(self, *path: str) -> str:
        """ "Line 3" of something that is no job, or its name in a document without lines."""
        line = self._document.line(*path) if path else None
        return f"Line {line}" if line is not None else " ".join(("The plan", *(f"`{name}`" for name in path)))

    def job(self, at: int, name: str = "", field: str = "") -> str:
        """ "Line 7, job 'tests'", or "Job 3 ('tests')" in a document without lines."""
        place = self._base if self._is_single else (*self._base, at)
        line = self._document.line(*place, *((field,) if field else ()))
        if line is None:
            return f"Job {at + 1} ({name!r})" if name else f"Job {at + 1}"
        return f"Line {line}, job {name!r}" if name else f"Line {line}"


def read_plan(source: str, options: Mapping[str, object], *, max_parallel: int | None, fail_fast: bool) -> Plan:
    """The plan in a file or, for `-`, on stdin, checked.

    Args:
        options: Request fields of the command line. A job's own fields win over them, and they over the plan's defaults.
        max_parallel: Wins over the plan's, if given.

    Raises:
        click.UsageError: It is no plan.
        InvalidRequest: A job of it cannot be. Either message names line or job, and field.
    """
    from claude_jobs.cli.plan_checks import checked  # pydantic comes with it

    document = parse(read(source), source)
    layout = Layout(document)
    head, jobs = _parts(document, source)
    defaults = {**_defaults(head, layout), **options}
    return Plan(
        path=None if source == "-" else expanded(source).resolve(),
        name=_name(head, layout),
        max_parallel=_max_parallel(head, layout) if max_parallel is None else max_parallel,
        fail_fast=_is_fail_fast(head, layout) or fail_fast,
        items=checked([_item(job, at, defaults, layout) for at, job in enumerate(jobs)], defaults, layout),
    )


def _parts(document: Document, source: str) -> tuple[Fields, Sequence[object]]:
    """What is said of all jobs, and the jobs."""
    jobs = sequence(document.value)
    head = mapping(document.value)
    if head is not None and "jobs" in head:
        jobs = sequence(head["jobs"])
        if jobs is None:
            raise click.UsageError("`jobs` must be a list: one job an entry.")
    elif isinstance(document.value, str) or (head is not None and "prompt" in head):
        head, jobs = None, [document.value]
    if jobs is None and document.value is not None:
        raise click.UsageError(f"{source!r} is no plan: write a list of jobs, or a mapping with `jobs`.")
    if not jobs:
        raise click.UsageError(f"{source!r} holds no jobs. Write a list of jobs, or one JSON object or string a line.")
    return head or {}, jobs


def _item(job: object, at: int, defaults: Fields, layout: Layout) -> Item:
    own = {"prompt": job} if isinstance(job, str) else mapping(job)
    if own is None:
        raise click.UsageError(f"{layout.job(at)} is neither an object nor a string.")
    fields = {name: value for name, value in {**defaults, **own}.items() if value is not None}
    if isinstance(fields.get("id"), int):
        fields["id"] = str(fields["id"])
    if "depends_on" in fields:
        listed = sequence(fields["depends_on"])
        names = [fields["depends_on"]] if listed is None else listed
        fields["depends_on"] = [str(name) if isinstance(name, int) else name for name in names]
    return Item(at=at, fields=fields)


def _defaults(head: Fields, layout: Layout) -> Fields:
    for name in head:
        if name not in _PLAN_FIELDS:
            raise click.UsageError(
                f"{layout.head(name)}: unknown field {name!r}. Known are: {', '.join(_PLAN_FIELDS)}."
            )
    found = mapping(head.get("defaults") or {})
    if found is None:
        raise click.UsageError(f"{layout.head('defaults')}: `defaults` must be a mapping of job fields.")
    for name in _OF_ONE_JOB:
        if name in found:
            raise click.UsageError(
                f"{layout.head('defaults', name)}: {name!r} is each job's own; it cannot be a default."
            )
    return found


def _name(head: Fields, layout: Layout) -> str:
    name = head.get("name") or ""
    if not isinstance(name, str) or len(name) > 200:
        raise click.UsageError(f"{layout.head('name')}: `name` must be text of at most 200 characters.")
    return name


def _max_parallel(head: Fields, layout: Layout) -> int | None:
    value = head.get("max_parallel")
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value
    raise click.UsageError(f"{layout.head('max_parallel')}: `max_parallel` must be a whole number, 1 or more.")


def _is_fail_fast(head: Fields, layout: Layout) -> bool:
    value = head.get("on_failure") or _ON_FAILURE[0]
    if value not in _ON_FAILURE:
        raise click.UsageError(f"{layout.head('on_failure')}: `on_failure` must be {' or '.join(_ON_FAILURE)}.")
    return value == "fail_fast"

"""What must be true of a plan before anything is sent: fields that exist, ids that differ, dependencies that can be met."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from claude_jobs.cli.documents import sequence
from claude_jobs.cli.plan import Item, Layout
from claude_jobs.errors import InvalidRequest
from claude_jobs.policy.dependencies import find_cycle
from claude_jobs.policy.templates import references
from claude_jobs.services.request import JobRequest

_SHOWN = 20


def checked(items: Sequence[Item], defaults: Mapping[str, object], layout: Layout) -> tuple[Item, ...]:
    """The items with what each waits for. The worker checks all of this too, but it does not know the lines.

    Raises:
        InvalidRequest: Names the line or job, the field, and what is wrong.
    """
    _check_defaults(defaults, layout)
    requests = [_request(item, layout) for item in items]
    ids = _ids(items, layout)
    found = tuple(replace(item, waits_for=_waits_for(one)) for item, one in zip(items, requests, strict=True))
    for item in found:
        _check_known(item, ids, layout)
    _check_circles(found, ids, layout)
    return found


def _check_defaults(defaults: Mapping[str, object], layout: Layout) -> None:
    try:
        JobRequest.parse({"prompt": "a job of the plan", **_given(defaults)})
    except InvalidRequest as error:
        where = layout.head("defaults", error.field.split(".")[0])
        raise InvalidRequest(f"{where}: {error.message}", field=error.field) from error


def _given(fields: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in fields.items() if value is not None}


def _request(item: Item, layout: Layout) -> JobRequest:
    try:
        return JobRequest.parse(item.fields)
    except InvalidRequest as error:
        where = layout.job(item.at, item.id, error.field.split(".")[0])
        raise InvalidRequest(f"{where}: {error.message}", field=error.field) from error


def _ids(items: Sequence[Item], layout: Layout) -> dict[str, int]:
    ids: dict[str, int] = {}
    for item in items:
        if item.id and item.id in ids:
            where, first = layout.job(item.at, field="id"), layout.job(ids[item.id], field="id")
            raise InvalidRequest(f"{where}: the id {item.id!r} is taken, see {first}. Ids differ.", field="id")
        if item.id:
            ids[item.id] = item.at
    return ids


def _waits_for(request: JobRequest) -> tuple[str, ...]:
    return tuple(dict.fromkeys([*request.depends_on, *references(request.prompt)]))


def _check_known(item: Item, ids: Mapping[str, int], layout: Layout) -> None:
    for name in item.waits_for:
        if name in ids or name.startswith("j-"):
            continue
        field = "depends_on" if name in (sequence(item.fields.get("depends_on")) or ()) else "prompt"
        asked = f"depends on {name!r}" if field == "depends_on" else f"asks for {{{{{name}.result}}}}"
        known = f"Ids of this plan: {', '.join(list(ids)[:_SHOWN])}." if ids else "No job of this plan has an id."
        where = layout.job(item.at, item.id, field)
        raise InvalidRequest(f"{where}: it {asked}, and no job is called so. {known}", field=field)


def _check_circles(items: Sequence[Item], ids: Mapping[str, int], layout: Layout) -> None:
    circle = find_cycle({item.id: item.waits_for for item in items if item.id})
    if circle:
        where = layout.job(ids[circle[0]], circle[0])
        message = f"{where}: these jobs wait for each other: {' -> '.join(circle)}. Take one of the dependencies out."
        raise InvalidRequest(message, field="depends_on")

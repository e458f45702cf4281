"""The model's ledger: a list of calls. See GateStore."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from claude_jobs.domain.generation import Provenance, Tokens
from claude_jobs.stores.gate import CallRecord, LedgerQuery, LedgerRow


class Calls:
    """Lines of the ledger."""

    def __init__(self) -> None:
        self._records: dict[str, CallRecord] = {}

    def add(self, record: CallRecord) -> None:
        """A call has one line; the first one stays."""
        self._records.setdefault(record.id, record)

    def get(self, call_id: str) -> CallRecord | None:
        """See GateStore."""
        return self._records.get(call_id)

    def latest(self, *, limit: int, org: str) -> tuple[CallRecord, ...]:
        """See GateStore. Of the same millisecond, what was written last is newest."""
        mine = [record for record in self._records.values() if org in ("", record.org)]
        return tuple(sorted(reversed(mine), key=lambda record: -record.at_ms)[:limit])

    def ledger(self, query: LedgerQuery) -> tuple[LedgerRow, ...]:
        """See GateStore."""
        groups: dict[tuple[str, ...], list[CallRecord]] = {}
        for record in self._records.values():
            if _is_asked(record, query):
                groups.setdefault(tuple(_field(record, name) for name in query.by), []).append(record)
        return tuple(_row(dict(zip(query.by, group, strict=True)), groups[group]) for group in sorted(groups))

    def clean(self, before_ms: int) -> int:
        """Drop the lines from before then."""
        old = [record.id for record in self._records.values() if record.at_ms < before_ms]
        for call_id in old:
            del self._records[call_id]
        return len(old)


def _is_asked(record: CallRecord, query: LedgerQuery) -> bool:
    is_in_time = query.since_ms <= record.at_ms and (not query.until_ms or record.at_ms < query.until_ms)
    wanted = (query.org, query.provider, query.model)
    own = (record.org, record.route.provider, record.route.model)
    return is_in_time and all(want in ("", have) for want, have in zip(wanted, own, strict=True))


def _field(record: CallRecord, name: str) -> str:
    match name:
        case "org":
            return record.org
        case "provider":
            return record.route.provider
        case "model":
            return record.route.model
        case "key":
            return record.route.key
        case _:
            return datetime.fromtimestamp(record.at_ms // 1_000, UTC).date().isoformat()


def _row(group: dict[str, str], records: Sequence[CallRecord]) -> LedgerRow:
    made = [record for record in records if not record.cached]
    return LedgerRow(
        group=group,
        calls=len(records),
        errors=sum(record.outcome != "ok" for record in records),
        cached=sum(bool(record.cached) for record in records),
        tokens=Tokens(
            input=sum(record.tokens.input for record in made),
            output=sum(record.tokens.output for record in made),
            cache_read=sum(record.tokens.cache_read for record in made),
            cache_write=sum(record.tokens.cache_write for record in made),
            cache_write_1h=sum(record.tokens.cache_write_1h for record in made),
            thinking=sum(record.tokens.thinking for record in made),
        ),
        nusd=sum(record.cost.nusd or 0 for record in records),
        unpriced=sum(record.cost.nusd is None for record in records),
        estimated=sum(record.tokens.provenance is Provenance.ESTIMATED for record in records),
    )

"""Price tables as files: our own beside this module, and the operator's `prices.toml`. Reading and checking; no arithmetic."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import cast

from claude_jobs.errors import InvalidRequest
from claude_jobs.policy import providers as names
from claude_jobs.policy.pricing import Price, Rates, rates_of

ANY = "*"
"""In place of a model: every other one of the provider."""
MAX_BYTES = 256 * 1024

_KINDS = ("input", "output", "cache_read", "cache_write", "cache_write_1h")
_EXAMPLE = (
    '[[price]] with provider = "openai", model = "my-model", input = 2.5, output = 10 (dollars per million tokens)'
)

PriceTable = Mapping[tuple[str, str], Price]
"""By (canonical provider, model in lower case); a model may be `ANY`."""


def own_table() -> PriceTable:
    """What we know beyond genai-prices: dated and sourced in the file."""
    return read_table(Path(__file__).with_name("prices.toml"))


def read_table(path: Path) -> PriceTable:
    """The prices in a TOML file, or a JSON file of the same form, if its name ends so; {} if there is no such file.

    Raises:
        InvalidRequest: It cannot be read, or an entry is not a price: which one, and why.
    """
    return _Reader(path).table()


class _Reader:
    """One file; its errors name it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def table(self) -> PriceTable:
        doc = self._document()
        label, entries = doc.pop("label", "operator"), doc.pop("price", [])
        if not isinstance(label, str) or not isinstance(entries, list):
            raise self._wrong("it needs", _EXAMPLE)
        if doc:
            raise self._wrong("nobody knows", ", ".join(map(repr, doc)), "It holds", _EXAMPLE)
        table: dict[tuple[str, str], Price] = {}
        for number, entry in enumerate(cast(list[object], entries), 1):
            where = f"price {number}"
            if not isinstance(entry, dict):
                raise self._wrong(where, "is no table. It holds", _EXAMPLE)
            key, price = self._entry(cast(dict[str, object], entry), where, label)
            if key in table:
                raise self._wrong(where, f"repeats {key[0]}/{key[1]}. Keep one")
            table[key] = price
        return table

    def _document(self) -> dict[str, object]:
        try:
            with self._path.open("rb") as file:
                data = file.read(MAX_BYTES + 1)
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise self._wrong(f"cannot be read: {error.strerror}") from None
        if len(data) > MAX_BYTES:
            raise self._wrong(f"is longer than {MAX_BYTES // 1024} KiB")
        parse: Callable[..., object] = json.loads if self._path.suffix == ".json" else tomllib.loads
        try:
            doc = parse(data.decode(), parse_float=Decimal)
        except (ValueError, RecursionError) as error:
            raise self._wrong(f"is not {self._path.suffix[1:].upper() or 'TOML'}: {error}") from None
        if not isinstance(doc, dict):
            raise self._wrong("it needs", _EXAMPLE)
        return cast(dict[str, object], doc)

    def _entry(self, entry: dict[str, object], where: str, label: str) -> tuple[tuple[str, str], Price]:
        provider, model, tiers = entry.pop("provider", ""), entry.pop("model", ""), entry.pop("tiers", [])
        known = names.canonical(provider) if isinstance(provider, str) else ""
        if not known:
            raise self._wrong(where, f"has the provider {provider!r}. Known are {', '.join(names.NAMES)}")
        if not isinstance(model, str) or not model.strip():
            raise self._wrong(where, f"has the model {model!r}. Name one, or {ANY!r} for every other of {known}")
        where = f"{where} ({known}/{model})"
        rows = [self._rates(entry, where, above=-1)]
        for tier in cast(list[object], tiers) if isinstance(tiers, list) else [tiers]:
            rows.append(self._tier(tier, where, rows[-1].above))
        return (known, model.strip().lower()), Price(source=label, tiers=tuple(rows))

    def _tier(self, tier: object, where: str, after: int) -> Rates:
        row = dict(cast(Mapping[str, object], tier)) if isinstance(tier, dict) else {}
        above = row.pop("above", None)
        if type(above) is not int or above <= max(after, 0):
            raise self._wrong(where, "needs tiers as { above = 200000, input = 4, output = 12 }, ascending by `above`")
        return self._rates(row, where, above=above)

    def _rates(self, row: Mapping[str, object], where: str, above: int) -> Rates:
        if unknown := sorted(row.keys() - set(_KINDS)):
            raise self._wrong(where, f"has {unknown[0]!r}. Known are {', '.join(_KINDS)}, and tiers")
        usd = {kind: self._usd(row[kind], where, kind) for kind in _KINDS if kind in row}
        if "input" not in usd or "output" not in usd:
            raise self._wrong(where, "needs input and output, in dollars per million tokens (0 if it is free)")
        return rates_of(
            input_usd=usd["input"],
            output_usd=usd["output"],
            cache_read_usd=usd.get("cache_read"),
            cache_write_usd=usd.get("cache_write"),
            cache_write_1h_usd=usd.get("cache_write_1h"),
            above=above,
        )

    def _usd(self, value: object, where: str, kind: str) -> Decimal:
        number = Decimal(value) if type(value) is int else value
        if not isinstance(number, Decimal) or not number.is_finite() or not 0 <= number <= 1_000_000:
            raise self._wrong(where, f"has {kind} = {value!r}. It must be dollars per million tokens, 0 to 1,000,000")
        return number

    def _wrong(self, *words: str) -> InvalidRequest:
        return InvalidRequest(f"Prices in {self._path}: {' '.join(words)}.", field=self._path.name)

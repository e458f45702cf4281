"""Sums of the ledger as CSV, JSON or FOCUS rows. Pure: rows in, text out.

Columns stay as they are; new ones come at the end. A column that the query did not group by is empty.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta

from claude_jobs.domain.generation import Tokens
from claude_jobs.errors import InvalidRequest
from claude_jobs.policy.pricing import usd_text
from claude_jobs.stores.gate import LedgerRow

FORMATS = ("csv", "json", "focus")
GROUPS = ("day", "org", "provider", "model", "key")
COLUMNS = (
    *GROUPS,
    "calls",
    "errors",
    "cached",
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "thinking_tokens",
    "cost_usd",
    "unpriced_calls",
    "estimated_calls",
)
"""day: UTC, "2026-11-21". key: a fingerprint. calls: all of them; errors and cached are among them. Tokens are disjoint but for
thinking, which is within output; cached calls have none. cost_usd: exact, nine decimals, without the
unpriced calls, whose cost nobody knows. estimated_calls: their tokens were estimated, since no provider counted them."""

FOCUS_VERSION = "1.2"
FOCUS_COLUMNS = (
    "BilledCost",
    "BillingAccountId",
    "BillingAccountName",
    "BillingCurrency",
    "BillingPeriodEnd",
    "BillingPeriodStart",
    "ChargeCategory",
    "ChargeClass",
    "ChargeDescription",
    "ChargeFrequency",
    "ChargePeriodEnd",
    "ChargePeriodStart",
    "ConsumedQuantity",
    "ConsumedUnit",
    "ContractedCost",
    "EffectiveCost",
    "InvoiceIssuerName",
    "ListCost",
    "PricingQuantity",
    "PricingUnit",
    "ProviderName",
    "PublisherName",
    "ServiceCategory",
    "ServiceName",
    "ServiceSubcategory",
    "SkuId",
    "SkuPriceId",
    "SubAccountId",
    "SubAccountName",
    "x_Calls",
    "x_UnpricedCalls",
    "x_EstimatedCalls",
    "x_InputTokens",
    "x_OutputTokens",
    "x_CacheReadTokens",
    "x_CacheWriteTokens",
    "x_KeyFingerprint",
)
"""FOCUS 1.2 (FinOps Open Cost and Usage Specification) as far as a gateway knows it, own columns with x_. Costs are list prices
by the token: no discount, no invoice. The sub-account is the organization."""

_FORMULA = ("=", "+", "-", "@", "＝", "＋", "－", "＠")
"""What a spreadsheet takes for the beginning of a formula (OWASP, CSV Injection), full-width forms included."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
"""A row is one line for every reader, and a terminal is told nothing."""
_SELLERS = {
    "openai": ("OpenAI", "OpenAI API"),
    "claude": ("Anthropic", "Anthropic API"),
    "claude-cli": ("Anthropic", "Claude Code"),
    "gemini": ("Google", "Gemini API"),
    "grok": ("xAI", "xAI API"),
    "qwen": ("Alibaba Cloud", "Model Studio"),
    "llama": ("Ollama", "Ollama"),
}


def export(rows: Sequence[LedgerRow], fmt: str, *, since_ms: int = 0, until_ms: int = 0) -> str:
    """The rows as text that ends with a line feed.

    Args:
        fmt: One of `FORMATS`. "json" is {"rows": [...], "total": {...}}; the others are CSV with a head line.
        since_ms, until_ms: Of the query: the charge period of FOCUS rows that are not by day.

    Raises:
        InvalidRequest: No such format, or FOCUS rows without a period.
    """
    if fmt == "csv":
        return _csv(COLUMNS, map(_row, rows))
    if fmt == "json":
        total = {name: value for name, value in _row(_total(rows)).items() if name not in GROUPS}
        return json.dumps({"rows": [_row(row) for row in rows], "total": total}, ensure_ascii=False, indent=1) + "\n"
    if fmt == "focus":
        return _csv(FOCUS_COLUMNS, (_focus(row, since_ms, until_ms) for row in rows))
    raise InvalidRequest(f"No format {fmt!r}. Use one of: {', '.join(FORMATS)}.", field="format")


def _row(row: LedgerRow) -> dict[str, str | int]:
    tokens = row.tokens
    return {
        **{name: row.group.get(name, "") for name in GROUPS},
        "calls": row.calls,
        "errors": row.errors,
        "cached": row.cached,
        "input_tokens": tokens.input,
        "output_tokens": tokens.output,
        "cache_read_tokens": tokens.cache_read,
        "cache_write_tokens": tokens.cache_write,
        "thinking_tokens": tokens.thinking,
        "cost_usd": usd_text(row.nusd),
        "unpriced_calls": row.unpriced,
        "estimated_calls": row.estimated,
    }


def _total(rows: Sequence[LedgerRow]) -> LedgerRow:
    def added(read: Callable[[LedgerRow], int]) -> int:
        return sum(map(read, rows))

    return LedgerRow(
        group={},
        calls=added(lambda row: row.calls),
        errors=added(lambda row: row.errors),
        cached=added(lambda row: row.cached),
        tokens=Tokens(
            input=added(lambda row: row.tokens.input),
            output=added(lambda row: row.tokens.output),
            cache_read=added(lambda row: row.tokens.cache_read),
            cache_write=added(lambda row: row.tokens.cache_write),
            thinking=added(lambda row: row.tokens.thinking),
        ),
        nusd=added(lambda row: row.nusd),
        unpriced=added(lambda row: row.unpriced),
        estimated=added(lambda row: row.estimated),
    )


def _focus(row: LedgerRow, since_ms: int, until_ms: int) -> dict[str, str | int]:
    group = row.group
    provider, model, org = group.get("provider", ""), group.get("model", ""), group.get("org", "")
    seller, service = _SELLERS.get(provider, (provider, provider))
    begins, ends = _period(group.get("day", ""), since_ms, until_ms)
    month = begins.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    cost = usd_text(row.nusd)
    costs = dict.fromkeys(("BilledCost", "ContractedCost", "EffectiveCost", "ListCost"), cost)
    sku = f"{provider}/{model}" if model else provider
    quantity = row.tokens.total
    return {
        **costs,
        "BillingAccountId": org or "default",
        "BillingAccountName": org or "default",
        "BillingCurrency": "USD",
        "BillingPeriodStart": _stamp(month),
        "BillingPeriodEnd": _stamp((month + timedelta(days=32)).replace(day=1)),
        "ChargeCategory": "Usage",
        "ChargeClass": "",
        "ChargeDescription": f"{row.calls} calls of {sku or 'models'}, {row.cached} of them answered from the cache",
        "ChargeFrequency": "Usage-Based",
        "ChargePeriodStart": _stamp(begins),
        "ChargePeriodEnd": _stamp(ends),
        "ConsumedQuantity": quantity,
        "ConsumedUnit": "Tokens",
        "InvoiceIssuerName": seller,
        "PricingQuantity": quantity,
        "PricingUnit": "Tokens",
        "ProviderName": seller,
        "PublisherName": seller,
        "ServiceCategory": "AI and Machine Learning",
        "ServiceName": service,
        "ServiceSubcategory": "Generative AI",
        "SkuId": sku,
        "SkuPriceId": sku,
        "SubAccountId": org,
        "SubAccountName": org,
        "x_Calls": row.calls,
        "x_UnpricedCalls": row.unpriced,
        "x_EstimatedCalls": row.estimated,
        "x_InputTokens": row.tokens.input,
        "x_OutputTokens": row.tokens.output,
        "x_CacheReadTokens": row.tokens.cache_read,
        "x_CacheWriteTokens": row.tokens.cache_write,
        "x_KeyFingerprint": group.get("key", ""),
    }


def _period(day: str, since_ms: int, until_ms: int) -> tuple[datetime, datetime]:
    if day:
        begins = datetime.fromisoformat(day).replace(tzinfo=UTC)
        return begins, begins + timedelta(days=1)
    if until_ms <= since_ms:
        raise InvalidRequest("FOCUS rows need a period: group by day, or give since and until.", field="by")
    return datetime.fromtimestamp(since_ms / 1000, UTC), datetime.fromtimestamp(until_ms / 1000, UTC)


def _stamp(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


def _csv(columns: Sequence[str], rows: Iterable[Mapping[str, str | int]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(row[name]) for name in columns] for row in rows)
    return out.getvalue()


def _cell(value: str | int) -> str | int:
    """A text that no spreadsheet runs: names come from callers."""
    if isinstance(value, int):
        return value
    text = _CONTROL.sub(" ", value)
    return f"'{text}" if text.lstrip().startswith(_FORMULA) else text

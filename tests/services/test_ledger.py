"""The ledger's sums as files: exact money, stable columns, and nothing a spreadsheet would run."""

from __future__ import annotations

import csv
import io
import json
from decimal import Decimal

import hypothesis.strategies as st
import pytest
from hypothesis import given

from claude_jobs.domain.generation import Tokens
from claude_jobs.errors import InvalidRequest
from claude_jobs.services.ledger import COLUMNS, FOCUS_COLUMNS, export
from claude_jobs.stores.gate import LedgerRow

DAY = {"day": "2026-11-21", "org": "acme", "provider": "openai", "model": "gpt-6.1-sol"}


def row(group: dict[str, str] | None = None, **sums: int) -> LedgerRow:
    given_sums = {"calls": 4, "errors": 1, "cached": 1, "nusd": 1_250_001, "unpriced": 0, "estimated": 2} | sums
    tokens = Tokens(input=100, output=20, cache_read=30, cache_write=5, thinking=8)
    return LedgerRow(group=DAY if group is None else group, tokens=tokens, **given_sums)


def read(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_csv_has_its_columns_and_exact_dollars() -> None:
    text = export([row(), row({"org": "b"}, nusd=10**18 + 1)], "csv")

    assert text.splitlines()[0] == (
        "day,org,provider,model,key,calls,errors,cached,input_tokens,output_tokens,cache_read_tokens,"
        "cache_write_tokens,thinking_tokens,cost_usd,unpriced_calls,estimated_calls"
    )
    assert text.splitlines()[1] == "2026-11-21,acme,openai,gpt-6.1-sol,,4,1,1,100,20,30,5,8,0.001250001,0,2"
    assert read(text)[1]["cost_usd"] == "1000000000.000000001"
    assert text.endswith("\n")
    assert "\r" not in text


def test_json_has_the_same_columns_and_a_total() -> None:
    document = json.loads(export([row(), row(unpriced=3)], "json"))

    assert [list(each) for each in document["rows"]] == [list(COLUMNS)] * 2
    assert document["rows"][0]["input_tokens"] == 100
    assert document["rows"][0]["cost_usd"] == "0.001250001"
    assert document["total"]["calls"] == 8
    assert document["total"]["cost_usd"] == "0.002500002"
    assert document["total"]["unpriced_calls"] == 3
    assert "org" not in document["total"]


def test_no_rows_are_a_head_and_a_total_of_nothing() -> None:
    assert export([], "csv").splitlines() == [",".join(COLUMNS)]
    assert json.loads(export([], "json"))["total"]["cost_usd"] == "0.000000000"


def test_focus_rows_say_who_sold_what_to_whom_in_which_period() -> None:
    focus = read(export([row()], "focus"))[0]

    assert list(focus) == list(FOCUS_COLUMNS)
    assert focus["BilledCost"] == focus["ListCost"] == focus["EffectiveCost"] == "0.001250001"
    assert focus["BillingCurrency"] == "USD"
    assert (focus["ChargePeriodStart"], focus["ChargePeriodEnd"]) == ("2026-11-21T00:00:00Z", "2026-11-22T00:00:00Z")
    assert (focus["BillingPeriodStart"], focus["BillingPeriodEnd"]) == ("2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z")
    assert (focus["ProviderName"], focus["ServiceName"]) == ("OpenAI", "OpenAI API")
    assert (focus["SkuId"], focus["ConsumedQuantity"], focus["ConsumedUnit"]) == ("openai/gpt-6.1-sol", "155", "Tokens")
    assert (focus["ChargeCategory"], focus["SubAccountId"], focus["x_Calls"]) == ("Usage", "acme", "4")


def test_focus_rows_of_a_year_end_and_of_a_query_without_days() -> None:
    december = read(export([row({**DAY, "day": "2026-12-31"})], "focus"))[0]
    span = read(export([row({"provider": "own"})], "focus", since_ms=0, until_ms=86_400_000))[0]

    assert december["BillingPeriodEnd"] == december["ChargePeriodEnd"] == "2027-01-01T00:00:00Z"
    assert (span["ChargePeriodStart"], span["ChargePeriodEnd"]) == ("1970-01-01T00:00:00Z", "1970-01-02T00:00:00Z")
    assert (span["ProviderName"], span["SkuId"], span["BillingAccountId"]) == ("own", "own", "default")


def test_focus_rows_without_a_period_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="group by day, or give since and until"):
        export([row({"org": "a"})], "focus")


def test_an_unknown_format_names_the_known_ones() -> None:
    with pytest.raises(InvalidRequest, match=r"No format 'xml'. Use one of: csv, json, focus"):
        export([], "xml")


@pytest.mark.parametrize("begin", ["=", "+", "-", "@", " =", "\u3000=", "＝", "＋", "－", "＠"])
def test_what_a_spreadsheet_would_run_is_text(begin: str) -> None:
    name = f'{begin}HYPERLINK("http://x","y")'
    group = {**DAY, "org": name, "model": name, "key": name}

    for fmt, cells in (
        ("csv", ("org", "model", "key")),
        ("focus", ("SubAccountId", "BillingAccountId", "x_KeyFingerprint")),
    ):
        text = export([row(group)], fmt)
        assert [read(text)[0][cell] for cell in cells] == [f"'{name}"] * 3
    assert json.loads(export([row(group)], "json"))["rows"][0]["org"] == name


@pytest.mark.parametrize("control", ["\t", "\r", "\n", "\0", "\x1b", "\x9b", "\u2028"])
def test_a_row_stays_one_line_whatever_a_name_holds(control: str) -> None:
    text = export([row({**DAY, "org": f"{control}=a{control}b"})], "csv")

    assert read(text)[0]["org"] == "' =a b"
    assert len(text.splitlines()) == 2
    assert control not in text.replace("\n", "", 2)


@given(st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), max_size=20), st.integers(0, 10**18))
def test_any_name_and_amount_reads_back(name: str, nusd: int) -> None:
    cells = read(export([row({**DAY, "org": name}, nusd=nusd)], "csv"))[0]

    assert cells["org"] in (name, f"'{name}")
    assert not cells["org"].startswith(("=", "+", "-", "@"))
    assert Decimal(cells["cost_usd"]) * 10**9 == nusd

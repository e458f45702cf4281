"""What the commands beside `generate` make of the worker's answers: rows and lines. Values in, values out."""

from __future__ import annotations

import time

from claude_jobs.cli import explain, models, output, quota, routes


def test_unknown_is_not_nothing() -> None:
    prices = [output.price({"cost_usd": cost}) for cost in (None, 0.0, 0.0000001, 0.000166, 12.5)]

    assert prices == ["price unknown", "$0", "<$0.000001", "$0.000166", "$12.500000"]


def test_a_model_is_a_row_with_what_is_known() -> None:
    card = {
        "id": "m",
        "provider": "qwen",
        "name": "",
        "context_tokens": 131_072,
        "max_output_tokens": 0,
        "tools": True,
        "vision": False,
        "json_schema": True,
        "thinking": False,
        "is_default": True,
        "is_live": True,
        "input_usd_mtok": 0.15,
        "output_usd_mtok": 2.0,
    }
    known, unknown = models.row(card), models.row({**card, "output_usd_mtok": None})

    assert (known["context"], known["longest"], known["price"], known["can"]) == ("131k", "", "0.15, 2", "tools schema")
    assert unknown["price"] == ""


def test_a_quota_of_nothing_allows_none() -> None:
    one = {**_QUOTA, "limit": 0, "used": 0, "held": 0}

    assert quota.row(one)["share"] == "none allowed"
    assert quota.row(_QUOTA)["used_text"] == "$0.2500"
    assert quota.row(_QUOTA)["share"] == "75 %"


_QUOTA = {
    "id": "org:a|nusd|day",
    "name": "org a, dollars per day",
    "scope": "org",
    "subject": "a",
    "unit": "usd",
    "window": "day",
    "limit": 1.0,
    "used": 0.25,
    "held": 0.5,
    "resets_ms": int(time.time() * 1000),
    "is_set": False,
}


def test_a_key_says_why_it_is_not_used() -> None:
    route = {"provider": "openai", "model": "gpt", "key": "abc"}
    key = {**route, "dead": "", "cooling_for_s": 0.0, "requests_left": None, "tokens_left": 5}

    assert routes.key_row(key)["state"] == "ok"
    assert routes.key_row({**key, "cooling_for_s": 90.0})["cooling"] == "90 s"
    assert routes.key_row({**key, "dead": "authentication_failed"})["state"] == "refused"
    circuit = {**route, "state": "open", "faults_in_a_row": 5, "open_for_s": 12.0}
    assert routes.circuit_row(circuit)["route"] == "openai/gpt (abc)"
    assert routes.circuit_row(circuit)["opens"] == "12 s"


def test_explained_lines_are_one_each_whatever_a_provider_says() -> None:
    step = {"what": "attempt", "outcome": "bad_response", "at_ms": 1.5, "took_ms": 20.0, "why": "it\x1b[2J says\nno"}
    call = {
        "id": "g-1",
        "at_ms": 0,
        "org": "default",
        "outcome": "bad_response",
        "cached": "",
        "took_ms": 1200,
        "route": {"provider": "openai", "model": "", "key": ""},
        "price": "",
        "cost_usd": None,
        "usage": {"total_tokens": 3, "provenance": "estimated"},
        "explain": [step],
    }
    lines = explain.lines(call)

    assert len(lines) == 3
    assert "openai · 3 tokens (estimated) · price unknown · 1.2 s" in lines[0]
    assert lines[2].startswith("0.002 s  attempt  bad_response  0.020 s")
    assert lines[2].endswith("it [2J says no")

"""Prices of calls, held against genai-prices itself, our own table and the operator's file."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import ROUND_CEILING, Decimal
from importlib.metadata import version
from pathlib import Path

import pytest
from genai_prices import Usage
from genai_prices.data_snapshot import get_snapshot
from genai_prices.types import ModelInfo, ModelPrice, Provider

from claude_jobs.domain.generation import UNKNOWN_COST, Cost, Provenance, Tokens
from claude_jobs.errors import InvalidRequest
from claude_jobs.policy.pricing import NUSD
from claude_jobs.services.price_table import own_table
from claude_jobs.services.pricing import MAX_KEPT, MAX_MODEL_CHARS, Pricing

NOW_MS = 1_795_262_400_000
"""2026-11-21 12:00 UTC."""
LIBRARY = f"genai-prices {version('genai-prices')}"
IDS = {"openai": "openai", "claude": "anthropic", "gemini": "google", "grok": "x-ai"}
TOKENS = Tokens(input=1_000, output=500, cache_read=100, cache_write=10, cache_write_1h=4)
MIXES = (
    Tokens(),
    Tokens(input=1, output=1),
    TOKENS,
    Tokens(input=7_777, output=333, cache_read=123_456),
    Tokens(input=199_999),
    Tokens(input=200_000, output=1),
    Tokens(input=200_001, output=10),
    Tokens(input=272_000, output=3, cache_write=1),
    Tokens(input=1, cache_read=300_000, output=77_777),
    Tokens(input=5, output=9, cache_write=500_000, cache_write_1h=123_457),
)


def known(source: str) -> Iterator[tuple[Provider, ModelInfo]]:
    """Models of a provider that have a price per token of input and output, whatever the date."""
    provider = next(each for each in get_snapshot().providers if each.id == source)
    for model in provider.models:
        prices = [model.prices] if isinstance(model.prices, ModelPrice) else [each.prices for each in model.prices]
        found = provider.find_model(model.id)
        if found is model and all(price.input_mtok is not None and price.output_mtok is not None for price in prices):
            yield provider, model


def theirs(provider: Provider, model: ModelInfo, tokens: Tokens, at_ms: int, *, is_batch: bool = False) -> int:
    usage = Usage(
        input_tokens=tokens.input + tokens.cache_read + tokens.cache_write,
        output_tokens=tokens.output,
        cache_read_tokens=tokens.cache_read,
        cache_write_tokens=tokens.cache_write,
        cache_write_1h_tokens=tokens.cache_write_1h,
    )
    at = datetime.fromtimestamp(at_ms / 1000, UTC)
    context = {"processing": "batch"} if is_batch else None
    total = model.calc_price(usage, provider, genai_request_timestamp=at, price_context=context).total_price
    return int((total * NUSD).to_integral_value(ROUND_CEILING))


@pytest.mark.parametrize("name", IDS)
def test_every_model_costs_what_the_library_says_to_the_nano_dollar(name: str) -> None:
    pricing = Pricing()
    draw = random.Random(name)
    models = 0

    for provider, model in known(IDS[name]):
        models += 1
        for _ in range(3):
            tokens = draw.choice(MIXES)
            at_ms = draw.choice((NOW_MS, NOW_MS - 400 * 86_400_000, NOW_MS + 60 * 86_400_000))
            cost = pricing.cost(name, model.id, tokens, at_ms=at_ms)
            assert cost == Cost(nusd=theirs(provider, model, tokens, at_ms), price=LIBRARY), model.id

    assert models > 10


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("openai", "gpt-6.1-sol"),
        ("claude", "claude-haiku-5-5"),
        ("claude", "claude-opus-5-5"),
        ("gemini", "gemini-4-argon"),
        ("grok", "grok-4.7"),
        ("gemini", "gemini-3.1-flash-lite"),
        ("openai", "gpt-6-luna"),
    ],
)
def test_each_mix_of_tokens_costs_what_the_library_says(name: str, model: str) -> None:
    pricing = Pricing()
    provider, info = get_snapshot().find_provider_model(model, None, IDS[name], None)

    for tokens in MIXES:
        assert pricing.cost(name, model, tokens, at_ms=NOW_MS).nusd == theirs(provider, info, tokens, NOW_MS)


def test_a_price_changes_on_its_day_and_not_before() -> None:
    pricing = Pricing()
    provider, info = get_snapshot().find_provider_model("gemini-4-argon", None, "google", None)
    december_ms = int(datetime(2026, 12, 1, tzinfo=UTC).timestamp() * 1000)

    costs = [
        pricing.cost("gemini", "gemini-4-argon", TOKENS, at_ms=december_ms + ms).nusd for ms in (-1, 0, -1, 86_400_000)
    ]

    assert costs == [theirs(provider, info, TOKENS, december_ms + ms) for ms in (-1, 0, -1, 86_400_000)]
    assert costs[0] != costs[1]


def test_a_batch_costs_what_the_library_says_else_half_where_that_is_known() -> None:
    pricing = Pricing()
    for name in ("openai", "claude"):
        for provider, model in known(IDS[name]):
            cost = pricing.cost(name, model.id, TOKENS, at_ms=NOW_MS, is_batch=True)
            whole = theirs(provider, model, TOKENS, NOW_MS)
            batch = theirs(provider, model, TOKENS, NOW_MS, is_batch=True)
            assert cost.nusd == (batch if batch != whole else (whole + 1) // 2), model.id
            assert "batch" in cost.price

    assert pricing.cost("grok", "grok-4.7", TOKENS, at_ms=NOW_MS, is_batch=True).nusd is None


def test_qwen_is_priced_by_our_own_dated_table() -> None:
    cost = Pricing().cost("qwen", "Qwen3.8-Max", Tokens(input=10**6, output=10**6, cache_read=10**6), at_ms=NOW_MS)
    long = Pricing().cost("qwen", "qwen3.7-plus", Tokens(input=256_001, output=10), at_ms=NOW_MS)

    assert cost == Cost(nusd=8_250_000_000, price="own 2026-11-21")
    assert long.nusd == 256_001 * 1_200 + 10 * 4_800
    assert Pricing().cost("qwen", "qwen3.8-max", TOKENS, at_ms=NOW_MS, is_batch=True).nusd is None


def test_our_own_table_holds_only_what_the_library_lacks() -> None:
    for provider, model in own_table():
        with pytest.raises(LookupError):
            get_snapshot().find_provider_model(model, None, IDS.get(provider, provider), None)


def test_ollama_costs_nothing_here_and_something_unknown_in_its_cloud() -> None:
    pricing = Pricing()

    assert pricing.cost("llama", "qwen3:8b", TOKENS, at_ms=NOW_MS) == Cost(nusd=0, price="local")
    assert pricing.cost("llama", "gpt-oss:20b-cloud", TOKENS, at_ms=NOW_MS) == Cost(nusd=None, price="unknown")
    assert pricing.reserve_nusd("llama", "qwen3:8b", 10**6, 10**6) == 0


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        ("openai", "gpt-99"),
        ("claude", "sonnet"),
        ("qwen", "qwen9"),
        ("nobody", "x"),
        ("openai", ""),
        ("openai", "x" * 10**6),
    ],
)
def test_a_price_that_nobody_knows_is_unknown_and_not_zero(provider: str, model: str) -> None:
    pricing = Pricing()

    assert pricing.cost(provider, model, TOKENS, at_ms=NOW_MS) == Cost(nusd=None, price="unknown")
    assert pricing.reserve_nusd(provider, model, 1, 1) is None
    assert pricing.price_card(provider, model) is None
    assert UNKNOWN_COST.nusd is None


def test_tokens_that_nobody_counted_have_no_cost_though_the_price_is_known() -> None:
    cost = Pricing().cost("openai", "gpt-6.1-sol", Tokens(provenance=Provenance.UNKNOWN), at_ms=NOW_MS)

    assert cost == Cost(nusd=None, price=LIBRARY)


def test_a_cli_job_is_priced_as_the_api_would_bill_it() -> None:
    pricing = Pricing()

    cost = pricing.cost("claude-cli", "claude-opus-5-5", TOKENS, at_ms=NOW_MS)

    assert cost == pricing.cost("claude", "claude-opus-5-5", TOKENS, at_ms=NOW_MS)


def test_cards_and_reservations_are_in_nano_dollars() -> None:
    pricing = Pricing()

    assert pricing.price_card("claude", "claude-opus-5-5", at_ms=NOW_MS) == (4 * NUSD, 20 * NUSD)
    assert pricing.reserve_nusd("claude", "claude-opus-5-5", 1_000, 100, at_ms=NOW_MS) == 1_000 * 5_000 + 100 * 20_000


def test_names_made_up_by_callers_do_not_pile_up() -> None:
    pricing = Pricing()
    for at in range(MAX_KEPT + 10):
        pricing.price("qwen", f"m{at}", at_ms=NOW_MS)
    pricing.price("qwen", "m" * (MAX_MODEL_CHARS + 1), at_ms=NOW_MS)

    assert len(pricing._held) <= MAX_KEPT  # pyright: ignore[reportPrivateUsage]


def test_the_library_is_not_imported_before_it_is_needed() -> None:
    code = (
        "import asyncio, sys\n"
        "from claude_jobs.services.pricing import Pricing\n"
        "pricing = Pricing()\n"
        "pricing.price('qwen', 'qwen3.8-max'); pricing.price('llama', 'x')\n"
        "assert 'genai_prices' not in sys.modules\n"
        "asyncio.run(pricing.load())\n"
        "assert 'genai_prices.data' in sys.modules\n"
    )

    subprocess.run([sys.executable, "-c", code], check=True)


OPERATOR = """
[[price]]
provider = "openai"
model = "GPT-6.1-sol"
input = 1.5
output = 3

[[price]]
provider = "xai"
model = "*"
input = 0
output = 0

[[price]]
provider = "claude"
model = "tuned"
input = 0.000001
output = 1
cache_read = 0.1
cache_write = 2
cache_write_1h = 3
tiers = [{ above = 1000, input = 2, output = 2 }, { above = 2000, input = 4, output = 4 }]
"""


def test_the_operators_prices_come_before_all_others(tmp_path: Path) -> None:
    path = tmp_path / "prices.toml"
    path.write_text(OPERATOR)
    pricing = Pricing(path)

    assert pricing.cost("openai", "gpt-6.1-sol", Tokens(input=2, output=1), at_ms=NOW_MS) == Cost(
        nusd=6_000, price="operator"
    )
    assert pricing.cost("grok", "grok-4.7", TOKENS, at_ms=NOW_MS) == Cost(nusd=0, price="operator")
    assert pricing.cost("claude", "tuned", Tokens(input=1), at_ms=NOW_MS).nusd == 1
    assert pricing.cost("claude", "tuned", Tokens(input=2_001), at_ms=NOW_MS).nusd == 2_001 * 4_000
    assert pricing.cost("claude", "tuned", Tokens(cache_write=3, cache_write_1h=1), at_ms=NOW_MS).nusd == 7_000
    assert pricing.cost("openai", "gpt-6.1-sol", Tokens(input=2), at_ms=NOW_MS, is_batch=True).nusd == 1_500
    assert pricing.cost("claude", "claude-opus-5-5", TOKENS, at_ms=NOW_MS).price.startswith("genai-prices")


def test_the_operators_prices_may_be_json(tmp_path: Path) -> None:
    path = tmp_path / "prices.json"
    price = {"provider": "qwen", "model": "qwen-new", "input": 0.1, "output": 0.3}
    path.write_text(json.dumps({"label": "contract 7", "price": [price]}))

    assert Pricing(path).cost("qwen", "qwen-new", Tokens(input=1), at_ms=NOW_MS) == Cost(nusd=100, price="contract 7")


def test_no_file_is_no_price_of_the_operators(tmp_path: Path) -> None:
    assert Pricing(tmp_path / "prices.toml").price_card("openai", "gpt-99") is None


ENTRY = 'provider = "openai"\nmodel = "m"\n'


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("prices = 1", "nobody knows 'prices'"),
        ("price = 1", "it needs [[price]] with"),
        ("price = [1]", "price 1 is no table"),
        ("label = 1", "it needs [[price]] with"),
        ("[[price]\n", "is not TOML"),
        (
            '[[price]]\nprovider = "opnai"\nmodel = "m"\ninput = 1\noutput = 1',
            "price 1 has the provider 'opnai'. Known are openai",
        ),
        ('[[price]]\nprovider = "openai"\ninput = 1\noutput = 1', "price 1 has the model ''"),
        (f"[[price]]\n{ENTRY}input = 1", "price 1 (openai/m) needs input and output"),
        (f"[[price]]\n{ENTRY}input = -1\noutput = 1", "input = -1. It must be dollars per million tokens"),
        (f"[[price]]\n{ENTRY}input = nan\noutput = 1", "It must be dollars"),
        (f"[[price]]\n{ENTRY}input = true\noutput = 1", "It must be dollars"),
        (f'[[price]]\n{ENTRY}input = "1"\noutput = 1', "input = '1'"),
        (f"[[price]]\n{ENTRY}input = 1\noutput = 2\ncached = 1", "has 'cached'. Known are input, output, cache_read"),
        (f"[[price]]\n{ENTRY}input = 1\noutput = 2\ntiers = [{{ input = 1, output = 1 }}]", "ascending by `above`"),
        (f"[[price]]\n{ENTRY}input = 1\noutput = 2\ntiers = 5", "ascending by `above`"),
        (f"[[price]]\n{ENTRY}input = 1\noutput = 2\n" * 2, "price 2 repeats openai/m"),
        ("#" * 300_000, "is longer than 256 KiB"),
    ],
)
def test_a_wrong_price_is_refused_by_name(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "prices.toml"
    path.write_text(text)

    with pytest.raises(InvalidRequest) as refused:
        Pricing(path)

    assert says in refused.value.message
    assert refused.value.message.startswith(f"Prices in {path}: ")
    assert refused.value.field == "prices.toml"


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="cannot be read"):
        Pricing(tmp_path)


def test_prices_are_exact_decimals() -> None:
    """0.1 dollar in a file is 0.1 dollar, not the binary fraction next to it."""
    card = Pricing().price_card("qwen", "qwen3.8-flash")

    assert card == (Decimal("0.15") * NUSD, Decimal("0.47") * NUSD)

"""The provider of docs/providers.md, taken from the page and put in place as it says."""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import AsyncIterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from providers.support_calls import asking, directive, key_of, streamed

import claude_jobs.providers
from claude_jobs.domain.generation import FinishReason, TextDelta
from claude_jobs.errors import RateLimited
from claude_jobs.policy import providers as policy
from claude_jobs.providers import contract
from claude_jobs.providers.base import Provider, ProviderSettings
from claude_jobs.providers.registry import make
from claude_jobs.rehearsal.server import Rehearsal

PAGE = Path(__file__).parents[2] / "docs" / "providers.md"
CODE, LINE, TABLE = re.findall(r"^```(?:python|toml)\n(.*?)^```$", PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE)


@pytest.fixture
def names() -> ModuleType:
    """policy/providers.py with the line in its place."""
    source = Path(str(policy.__file__)).read_text("utf-8")
    end_of_table = "\n)\n# fmt: on\n"
    assert source.count(end_of_table) == 1
    module = ModuleType("providers_with_acme")
    sys.modules[module.__name__] = module
    exec(source.replace(end_of_table, f"\n    {LINE.strip()}{end_of_table}"), module.__dict__)
    del sys.modules[module.__name__]
    return module


@pytest.fixture
async def api() -> AsyncIterator[Rehearsal]:
    async with Rehearsal() as running:
        yield running


@pytest.fixture
async def acme(names: Any, api: Rehearsal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Provider]:
    (tmp_path / "acme.py").write_text(CODE, "utf-8")
    monkeypatch.setattr(claude_jobs.providers, "__path__", [*claude_jobs.providers.__path__, str(tmp_path)])
    monkeypatch.setitem(contract._table(), "acme", tomllib.loads(TABLE)["acme"])  # pyright: ignore[reportPrivateUsage]
    line = next(each for each in names.KNOWN if each.name == "acme")
    provider = make(line, ProviderSettings(base_url=f"{api.url}/openai/v1"))
    yield provider
    await provider.close()
    contract.rules_of.cache_clear()
    monkeypatch.delitem(sys.modules, "claude_jobs.providers.acme")


def test_the_line_is_all_that_the_names_need(names: Any) -> None:
    assert names.canonical("roadrunner") == "acme"
    assert names.of_model("acme-large") == "acme"
    assert names.pick_keys({"ACME_API_KEY2": "sk-acme"}) == [("ACME_API_KEY2", "sk-acme")]
    assert names.provider_of_key("ACME_API_KEY2") == "acme"
    assert (*policy.NAMES, "acme") == names.NAMES


async def test_the_documented_provider_answers(acme: Provider, api: Rehearsal) -> None:
    call = asking("acme-large", directive(reply="Meep meep."), key=key_of("acme"), seed=7)

    answer = await acme.generate(call)
    deltas, end = await streamed(acme, call)

    for each in (answer, end):
        assert each.text == "Meep meep."
        assert each.finish is FinishReason.STOP
        assert each.warnings == ("seed is dropped: acme-large takes none.",)
    assert "".join(delta.text for delta in deltas if isinstance(delta, TextDelta)) == "Meep meep."
    assert api.requests[0].body["max_tokens"] == 1_000
    assert acme.name == "acme"


async def test_the_documented_provider_fails_as_all_do(acme: Provider) -> None:
    with pytest.raises(RateLimited) as caught:
        await acme.generate(asking("acme-large", directive(fault="429", retry_after_s=9), key=key_of("acme")))

    assert (caught.value.provider, caught.value.model) == ("acme", "acme-large")
    assert caught.value.retry_after_s == 9


async def test_the_documented_provider_lists_its_models(acme: Provider) -> None:
    cards = await acme.list_models(key_of("acme"))

    assert {card.provider for card in cards} == {"acme"}
    assert await acme.count_tokens(asking("acme-large", "x", key=key_of("acme"))) is None

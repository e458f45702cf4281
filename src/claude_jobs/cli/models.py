"""`models`: which models can be asked, what they can do and what they cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from claude_jobs.cli import exits, output
from claude_jobs.cli.connection import Connection
from claude_jobs.cli.generate import provider_names

_COLUMNS = {
    "provider": "PROVIDER",
    "id": "MODEL",
    "default": "DEFAULT",
    "context": "CONTEXT",
    "longest": "LONGEST",
    "price": "$/MTOK IN, OUT",
    "can": "CAN",
    "name": "NAME",
}
_CAN = {"tools": "tools", "vision": "images", "json_schema": "schema", "thinking": "thinking"}


@click.command()
@click.option("--provider", default="", shell_complete=provider_names, help="Only the models of this one.")
@output.json_option
def models(provider: str, as_json: bool) -> int:
    """List the models that `generate` can ask, by provider.

    Lists are the providers' own where a key is there and the provider answers, else what we know of them.
    """
    with Connection() as worker:
        found = worker.call("list_models", {"provider": provider})
    if as_json:
        output.emit(found)
        return exits.OK
    output.table([row(model) for model in found["models"]], _COLUMNS, empty="No models.")
    for name, why in found["notes"].items():
        output.note(output.safe(f"{name}: {why}"))
    return exits.OK


def row(model: Mapping[str, Any]) -> dict[str, Any]:
    """A model as a row of a table; what is unknown is empty."""
    costs = [model["input_usd_mtok"], model["output_usd_mtok"]]
    is_cli = model["provider"] == "claude-cli"
    return {
        **model,
        "default": "default" if model["is_default"] else "",
        "context": _thousands(model["context_tokens"]),
        "longest": _thousands(model["max_output_tokens"]),
        "price": "" if None in costs else ", ".join(f"{cost:.6f}".rstrip("0").rstrip(".") for cost in costs),
        "can": "" if is_cli else " ".join(word for name, word in _CAN.items() if model[name]),
    }


def _thousands(tokens: int) -> str:
    return f"{tokens / 1000:,.0f}k" if tokens else ""

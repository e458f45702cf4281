"""What a model sees of the server: small, portable, well marked, in both protocol eras."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fastmcp import Client, FastMCP
from mcp_types import Tool
from support_mcp import surface

NAMES = ["generate", "spawn", "batch", "status", "result", "cancel", "retry", "list_models"]
MODES = pytest.mark.parametrize("mode", ["auto", "legacy"])


def visible(tool: Tool) -> int:
    """Bytes a client puts before its model."""
    shown = {"name": tool.name, "description": tool.description, "inputSchema": tool.input_schema}
    return len(json.dumps(shown, separators=(",", ":"), ensure_ascii=False).encode())


@MODES
async def test_the_surface_keeps_within_its_budget(tmp_path: Path, mode: Any) -> None:
    async with surface(tmp_path) as here, Client(here.server, mode=mode) as client:
        tools = await client.list_tools()
        instructions = client.instructions

    assert [tool.name for tool in tools] == NAMES
    assert sum(visible(tool) for tool in tools) + len((instructions or "").encode()) <= 8_000
    assert sum(len(tool.model_dump_json(by_alias=True, exclude_none=True)) for tool in tools) <= 9_500
    assert max(len(tool.description or "") for tool in tools) <= 300
    assert 200 < len(instructions or "") <= 1_000


async def test_schemas_use_only_what_every_client_knows(tmp_path: Path) -> None:
    async with surface(tmp_path) as here, Client(here.server) as client:
        schemas = [tool.input_schema for tool in await client.list_tools()]

    for schema in schemas:
        text = json.dumps(schema)
        assert not [word for word in ("$ref", "$defs", "anyOf", "oneOf", "null", '"gt"', '"ge"') if word in text]
        assert schema["type"] == "object"
        assert schema["additionalProperties"] is False


async def test_tools_say_what_they_do_to_the_world(tmp_path: Path) -> None:
    async with surface(tmp_path) as here, Client(here.server) as client:
        tools = {tool.name: tool for tool in await client.list_tools()}

    hints = {name: tool.annotations for name, tool in tools.items()}
    assert [name for name, hint in hints.items() if hint and hint.read_only_hint] == ["status", "result", "list_models"]
    assert [name for name, hint in hints.items() if hint and hint.destructive_hint] == ["cancel"]
    assert [n for n, hint in hints.items() if hint and hint.open_world_hint] == ["generate", "spawn", "batch", "retry"]
    assert (tools["generate"].meta or {})["anthropic/alwaysLoad"] is True
    assert not any(tool.output_schema for tool in tools.values())


@MODES
async def test_resources_and_prompts_are_listed_and_completed(tmp_path: Path, mode: Any) -> None:
    async with surface(tmp_path) as here, Client(here.server, mode=mode) as client:
        resources = [str(resource.uri) for resource in await client.list_resources()]
        templates = [template.uri_template for template in await client.list_resource_templates()]
        prompts = [prompt.name for prompt in await client.list_prompts()]
        prompt = await client.get_prompt("fan_out", {"task": "Translate the pages"})

    assert (resources, prompts) == (["job://recent"], ["fan_out"])
    assert templates == ["job://{job_id}/log", "call://{call_id}/explain"]
    assert "Translate the pages" in prompt.model_dump_json()


async def test_the_server_can_be_built_without_its_worker_running(tmp_path: Path) -> None:
    async with surface(tmp_path) as here:
        assert isinstance(here.server, FastMCP)
        assert [tool.name for tool in await here.server.list_tools()] == NAMES

"""Writes what documents must not get wrong by hand: the settings table and tool table of the README, and `.env.example`.

`python docs/generate.py` writes; `python docs/generate.py --check` exits 1 if a file is stale.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import textwrap
from pathlib import Path

from claude_jobs.factory import open_app
from claude_jobs.front_desk import mcp_of
from claude_jobs.runner.paths import Home
from claude_jobs.services.caller import Caller
from claude_jobs.settings import Settings, load

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
EXAMPLE = ROOT / ".env.example"

_CREDENTIALS = """\
## Credentials. Your own only: the provider's terms apply to each. All of them are used in turn.
## A subscription token comes from `claude setup-token`. Without any, the login of `claude` is used.
# CLAUDE_CODE_TOKEN1=
# CLAUDE_CODE_TOKEN2=
## Pay per use; only if there is nothing else, or if listed as a CLAUDE_CODE_TOKEN.
# ANTHROPIC_API_KEY=
## Keys of providers, for `generate`; several of one provider: OPENAI_API_KEY1, OPENAI_API_KEY2, … ANTHROPIC_API_KEY serves there, too.
# OPENAI_API_KEY=
# GOOGLE_API_KEY=
# XAI_API_KEY=
# DASHSCOPE_API_KEY=
"""


def settings_table() -> str:
    rows = ["| setting | default | meaning |", "|---|---|---|"]
    for field in Settings.model_fields.values():
        default = "" if field.default in (None, "", ()) else str(field.default).lower()
        rows.append(f"| `{field.alias}` | {f'`{default}`' if default else ''} | {field.description} |")
    return "\n".join(rows)


def env_example() -> str:
    parts = [
        "## Copy to .env in CLAUDE_JOBS_HOME (see `claude-jobs doctor` for the place), chmod 600, uncomment what you change.\n"
    ]
    parts.append(_CREDENTIALS)
    for field in Settings.model_fields.values():
        default = "" if field.default in (None, "", ()) else str(field.default).lower()
        comment = textwrap.fill(str(field.description), 116, initial_indent="## ", subsequent_indent="## ")
        parts.append(f"{comment}\n# {field.alias}={field.examples[0] if field.examples else default}\n")
    return "\n".join(parts)


async def tools_table() -> str:
    with tempfile.TemporaryDirectory() as folder:
        environ = {"CLAUDE_JOBS_HOME": folder, "HOME": folder, "TMPDIR": folder}
        async with open_app(load(environ), Home.resolve(environ)) as app:
            tools = await mcp_of(app, Caller(cwd=folder, submitter=app.submitter)).list_tools()
    rows = ["| tool | parameters | what it does |", "|---|---|---|"]
    for tool in tools:
        required = set(tool.parameters.get("required", []))
        names = [f"**{name}**" if name in required else name for name in tool.parameters.get("properties", {})]
        rows.append(f"| `{tool.name}` | {', '.join(names)} | {' '.join((tool.description or '').split())} |")
    return "\n".join(rows)


def between(text: str, name: str, content: str) -> str:
    begin, end = f"<!-- {name}: generated -->", f"<!-- {name}: end -->"
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    return f"{before}{begin}\n{content}\n{end}{after}"


def main() -> int:
    readme = README.read_text()
    fresh = between(readme, "settings", settings_table())
    fresh = between(fresh, "tools", asyncio.run(tools_table()))
    wanted = {README: fresh, EXAMPLE: env_example()}
    stale = [path.name for path, text in wanted.items() if not path.exists() or path.read_text() != text]
    if "--check" in sys.argv:
        if stale:
            sys.stderr.write(f"Stale: {', '.join(stale)}. Run: make docs\n")
        return 1 if stale else 0
    for path, text in wanted.items():
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())

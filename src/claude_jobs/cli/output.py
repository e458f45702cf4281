"""What goes to stdout and how: JSON for scripts, a table for people. Notes go to stderr, so that stdout can be piped."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from rich.table import Table

Row = Mapping[str, Any]
F = TypeVar("F", bound=Callable[..., Any])

STATE_STYLES = {
    "queued": "dim",
    "running": "cyan",
    "blocked": "yellow",
    "succeeded": "green",
    "failed": "red",
    "cancelled": "magenta",
    "expired": "magenta",
    "ready": "green",
    "cooling": "yellow",
    "quarantined": "red",
    "not held": "dim",
    "ok": "green",
    "note": "yellow",
    "problem": "bold red",
}
_LAST_COLUMN = 200


def json_option(command: F) -> F:
    """The option `--json` of a reading command."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON to stdout and nothing else.")(command)


def emit(value: object) -> None:
    """One JSON document on stdout."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")


def emit_line(value: object) -> None:
    """One JSON object on a line of its own, out at once."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, default=str) + "\n")
    sys.stdout.flush()


def text(value: str) -> None:
    """Text on stdout; what the encoding cannot say is replaced."""
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(value.encode(encoding, "replace").decode(encoding) + ("" if value.endswith("\n") else "\n"))
    sys.stdout.flush()


def piece(value: str) -> None:
    """Text on stdout as it comes, no line feed after it. What would steer a person's terminal is left out."""
    encoding = sys.stdout.encoding or "utf-8"
    shown = "".join(char for char in value if char.isprintable() or char in "\n\t") if is_terminal() else value
    sys.stdout.write(shown.encode(encoding, "replace").decode(encoding))
    sys.stdout.flush()


def note(message: str) -> None:
    """One line for people, on stderr."""
    encoding = sys.stderr.encoding or "utf-8"
    sys.stderr.write(message.encode(encoding, "replace").decode(encoding) + "\n")
    sys.stderr.flush()


def is_terminal() -> bool:
    """Whether a person looks at stdout."""
    return sys.stdout.isatty()


def table(rows: Sequence[Row], columns: Mapping[str, str], *, empty: str) -> None:
    """Rows on stdout: a coloured table on a terminal, aligned plain lines elsewhere.

    Args:
        columns: Key in the row -> heading.
        empty: Said on stderr when there is no row.
    """
    if not rows:
        note(empty)
    elif is_terminal():
        _pretty(rows, columns)
    else:
        text("\n".join(plain(rows, columns)))


def plain(rows: Sequence[Row], columns: Mapping[str, str]) -> list[str]:
    """Aligned lines with a heading, two spaces between columns."""
    cells = [list(columns.values()), *([cell(row.get(key)) for key in columns] for row in rows)]
    widths = [max(len(line[at]) for line in cells) for at in range(len(columns))]
    return [
        "  ".join(one.ljust(width) for one, width in zip(line, widths, strict=True)).rstrip()[
            : sum(widths) + _LAST_COLUMN
        ]
        for line in cells
    ]


def _pretty(rows: Sequence[Row], columns: Mapping[str, str]) -> None:
    from rich.console import Console

    Console().print(rich_table(rows, columns))


def rich_table(rows: Sequence[Row], columns: Mapping[str, str], *, one_line: bool = False) -> Table:
    """A rich table of the rows, states in their colours; `one_line` cuts the last column instead of folding it."""
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    last = list(columns)[-1]
    for key, heading in columns.items():
        is_cut = one_line or key != last
        drawn.add_column(heading, no_wrap=is_cut, overflow="ellipsis" if is_cut else "fold")
    for row in rows:
        drawn.add_row(*(Text(cell(row.get(key)), style=STATE_STYLES.get(str(row.get(key)), "")) for key in columns))
    return drawn


def cell(value: object) -> str:
    """A value as it stands in a table: short, without control characters."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else ""
    if isinstance(value, float):
        return f"{value:.4f}".rstrip("0").rstrip(".") or "0"
    return safe(str(value))


def safe(value: str) -> str:
    """One line without control characters: what a job writes must not steer the terminal."""
    return "".join(char if char.isprintable() else " " for char in value)


def duration(seconds: float) -> str:
    """`7 s`, `3 min`, `2.5 h`."""
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7_200 else f"{seconds / 3600:.1f} h"


def dollars(amount: float) -> str:
    """Money as it stands in a table, "" for none."""
    return f"${amount:.4f}" if amount else ""


def price(cost: Mapping[str, Any]) -> str:
    """What a call cost, from its view: "price unknown" is not "$0"."""
    amount = cost["cost_usd"]
    if amount is None:
        return "price unknown"
    if not amount:
        return "$0"
    return f"${amount:.6f}" if amount >= 0.0000005 else "<$0.000001"


def moment(at_ms: int) -> str:
    """Local time to the second."""
    from datetime import datetime

    return datetime.fromtimestamp(at_ms / 1000).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def route(view: Mapping[str, Any]) -> str:
    """Provider and model, with the fingerprint of the key if there is one: "openai/gpt-5 (3f2a…)"."""
    name = "/".join(part for part in (view["provider"], view["model"]) if part)
    return f"{name} ({view['key']})" if view.get("key") else name

"""Jobs below the jobs that spawned them."""

from __future__ import annotations

from typing import Any

from claude_jobs.cli.trees import drawn, indented


def job(name: str, parent: str = "", **fields: object) -> dict[str, Any]:
    known = {"job_id": name, "parent_id": parent, "label": "", "state": "running", "elapsed_s": 3.0, "cost_usd": 0.0}
    return {**known, "note": "", **fields}


FAMILY = [  # newest first, as lists are
    job("j-e", "j-a", state="queued", note="waits for j-b"),
    job("j-d", "j-c", state="succeeded", note="done", cost_usd=0.25),
    job("j-c", "j-a", label="tests"),
    job("j-b", "j-a"),
    job("j-a", label="root\x1b[2J", state="blocked"),
]


def test_a_tree_is_drawn_oldest_first_with_states() -> None:
    assert drawn(FAMILY, "j-a") == [
        "j-a [root [2J] blocked  3.0 s",
        "├─ j-b running  3.0 s",
        "├─ j-c [tests] running  3.0 s",
        "│  └─ j-d succeeded  3.0 s  $0.2500",
        "└─ j-e queued  3.0 s  waits for j-b",
    ]


def test_a_part_of_a_tree_is_drawn_from_its_top() -> None:
    assert [line.split()[0] for line in drawn(FAMILY, "j-c")] == ["j-c", "└─"]


def test_a_list_shows_children_below_their_parents_and_orphans_where_they_are() -> None:
    others = [job("j-y", "j-gone"), job("j-x")]

    assert [one["job_id"] for one in indented([*FAMILY, *others])] == [
        *["j-a", "  j-b", "  j-c", "    j-d", "  j-e", "j-y", "j-x"]
    ]

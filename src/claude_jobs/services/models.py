"""The models a job may name: the CLI's aliases and the full ids they stand for today. Any other id is passed on as it is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """A name to use in `model`.

    Attributes:
        name: The alias, which follows new releases.
        id: What claude 2.1.329 resolves it to (measured, claude-cli.md §1).
    """

    name: str
    id: str
    description: str


CLI_MODELS = (
    ModelInfo(name="haiku", id="claude-haiku-5-5", description="fastest and cheapest"),
    ModelInfo(name="sonnet", id="claude-sonnet-5-5", description="balanced"),
    ModelInfo(name="opus", id="claude-opus-5-5", description="strongest reasoning"),
    ModelInfo(name="fable", id="claude-fable-5-2", description="long-form work"),
)

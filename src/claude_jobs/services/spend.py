"""What one attempt used: as the provider says, else as estimated, never as nothing because nobody said."""

from __future__ import annotations

from dataclasses import replace

from claude_jobs.domain.generation import Completion, Provenance, Text, Tokens, ToolUse
from claude_jobs.policy.estimate_tokens import estimate_tokens


def estimated(input_tokens: int, text: str) -> Tokens:
    """Tokens of a call that nobody counted."""
    return Tokens(input=input_tokens, output=estimate_tokens(text), provenance=Provenance.ESTIMATED)


def counted(completion: Completion, input_tokens: int) -> Completion:
    """With its tokens estimated if the provider did not tell them."""
    if completion.tokens.provenance is not Provenance.UNKNOWN:
        return completion
    said = [part.text for part in completion.parts if isinstance(part, Text)]
    said += [f"{part.name}{dict(part.arguments)}" for part in completion.parts if isinstance(part, ToolUse)]
    return replace(completion, tokens=estimated(input_tokens, "".join(said)))

"""`completion`: what a shell needs to complete our commands."""

from __future__ import annotations

import click

from claude_jobs.cli import exits, output

_WHERE = {
    "bash": "claude-jobs completion bash >> ~/.bashrc",
    "zsh": "claude-jobs completion zsh >> ~/.zshrc",
    "fish": "claude-jobs completion fish > ~/.config/fish/completions/claude-jobs.fish",
}


@click.command()
@click.argument("shell", type=click.Choice(sorted(_WHERE)))
def completion(shell: str) -> int:
    """Print the completion script of a shell."""
    from click.shell_completion import get_completion_class

    from claude_jobs.cli.main import cli

    kind = get_completion_class(shell)
    assert kind is not None, "click knows the three shells"
    output.text(kind(cli, {}, "claude-jobs", "_CLAUDE_JOBS_COMPLETE").source())
    output.note(f"To keep it: {_WHERE[shell]}")
    return exits.OK

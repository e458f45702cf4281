"""`cache`: how often kept answers helped, and having them not served any more."""

from __future__ import annotations

import click

from claude_jobs.cli import exits, output
from claude_jobs.cli.connection import Connection
from claude_jobs.cli.generate import provider_names


@click.group(invoke_without_command=True)
@click.pass_context
def cache(ctx: click.Context) -> int:
    """Show or clear the answers that are kept for the same question.

    Without a command: show. Settings: CACHE_TTL, MAX_CACHE_SIZE, MAX_CACHE_BYTES, CACHE_SKIP_PROVIDERS.
    """
    return exits.OK if ctx.invoked_subcommand else _shown(as_json=False)


@cache.command()
@output.json_option
def show(as_json: bool) -> int:
    """Show how full it is, and how often it helped."""
    return _shown(as_json=as_json)


def _shown(*, as_json: bool) -> int:
    with Connection() as worker:
        stats = worker.call("cache")
    if as_json:
        output.emit(stats)
        return exits.OK
    rate = "" if stats["hit_rate"] is None else f", {stats['hit_rate']:.1%} of {_asked(stats)} questions"
    figures = {
        "answers": f"{stats['entries']:,} of {stats['max_entries']:,}",
        "size": f"{stats['bytes']:,} of {stats['max_bytes']:,} bytes",
        "kept for": output.duration(stats["ttl_s"]) if stats["ttl_s"] else "not at all (CACHE_TTL=0)",
        "helped": f"{stats['hits'] + stats['stale_hits']:,} times{rate}",
        "made room": f"{stats['evictions']:,} answers gone for newer ones",
        "cleared": f"{stats['invalidations']:,} times",
    }
    output.text("\n".join(f"{name:<10} {said}" for name, said in figures.items()))
    return exits.OK


def _asked(stats: dict[str, int]) -> str:
    return f"{stats['hits'] + stats['stale_hits'] + stats['misses']:,}"


@cache.command()
@click.option("--org", default="", help="Only this organization's.")
@click.option("--provider", default="", shell_complete=provider_names, help="Only of this provider.")
@click.option("--model", default="", help="Only of this model.")
@click.option("--key", default="", help="Only the one answer with this cache key.")
@click.option("--all", "everything", is_flag=True, help="All of them.")
@output.json_option
def clear(everything: bool, as_json: bool, **wanted: str) -> int:
    """Have kept answers not served any more. What is given must all match."""
    if any(wanted.values()) == everything:
        raise click.UsageError("Say which answers (--org, --provider, --model, --key), or --all.")
    with Connection() as worker:
        done = worker.call("invalidate", wanted)
    if as_json:
        output.emit(done)
    else:
        count = done["invalidated"]
        output.note(f"{count:,} answer{'' if count == 1 else 's'} cleared.")
    return exits.OK

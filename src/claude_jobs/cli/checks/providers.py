"""Check of the keys that `generate` would use: the names of their variables, never what they hold."""

from __future__ import annotations

from collections.abc import Mapping

from claude_jobs.cli.checks.check import Check, ok
from claude_jobs.cli.checks.machine import Look, Patient, env_file
from claude_jobs.policy import providers


def _keys(patient: Patient) -> list[Check]:
    """By provider, those of this shell; where it has none, those of the user's own file."""
    own = {
        name: f"{names} of {patient.home.env_file}" for name, names in _names(env_file(patient.home.env_file)).items()
    }
    found = {**own, **_names(patient.environ)}
    can = [f"{name} by {found[name]}" for name in providers.KEY_NAMES if name in found]
    can += [f"llama at {patient.settings.ollama_endpoint}", "claude-cli by its jobs"]
    lacking = [f"{name} ({variable})" for name, variable in providers.KEY_NAMES.items() if name not in found]
    without = f" No key for {', '.join(lacking)}." if lacking else ""
    return [ok("providers", f"`generate` asks {'; '.join(can)}.{without}")]


def _names(values: Mapping[str, str]) -> dict[str, str]:
    """Names of the variables by provider."""
    found: dict[str, list[str]] = {}
    for name, _ in providers.pick_keys(values):
        found.setdefault(providers.provider_of_key(name), []).append(name)
    return {provider: ", ".join(names) for provider, names in found.items()}


CHECKS: tuple[Look, ...] = (_keys,)

"""The only reader of the environment: every setting of `.env.example`, and no other.

Read once by `factory` and the entry points. Sources, strongest first: the process environment, then `.env` in
CLAUDE_JOBS_HOME (the user's own file). A `.env` in a working directory is never a source of settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from dotenv import dotenv_values
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from claude_jobs.errors import InvalidRequest
from claude_jobs.policy.quota import parse_window

INTERNAL = frozenset({"CLAUDE_JOBS_MARK", "CLAUDE_JOBS_JOB_ID"})
"""Variables of that prefix which we set ourselves in the processes of a job."""


def _split(separator: str) -> BeforeValidator:
    return BeforeValidator(
        lambda v: tuple(p.strip() for p in v.split(separator) if p.strip()) if isinstance(v, str) else v
    )


class Settings(BaseModel):
    """Settings by their environment name (the alias). Durations are seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    home: Path | None = Field(
        None,
        alias="CLAUDE_JOBS_HOME",
        description="Directory of the state. Default: the platform's user state directory.",
    )
    worker: Literal["detached", "inline", "none"] = Field(
        "detached",
        alias="CLAUDE_JOBS_WORKER",
        description="detached: jobs run in a per-user worker that outlives sessions. inline: in the MCP server itself. "
        "none: never start a worker; one that you run yourself is used.",
    )
    cli: str = Field("", alias="CLAUDE_JOBS_CLI", description="Path of the claude executable. Default: found on PATH.")
    model: str = Field("sonnet", alias="CLAUDE_JOBS_MODEL", description="Model of jobs that name none.")
    slots: int | None = Field(
        None,
        alias="CLAUDE_JOBS_SLOTS",
        ge=0,
        le=1_000,
        description="Jobs run at once. Default: min(32, 8 x cores, free memory / 300 MB), looked at again for each job.",
    )
    token_concurrency: int = Field(
        8, alias="CLAUDE_JOBS_TOKEN_CONCURRENCY", ge=1, le=1_000, description="Jobs that may hold one token at once."
    )
    max_depth: int = Field(
        3,
        alias="CLAUDE_MAX_RECURSION_DEPTH",
        ge=0,
        le=100,
        description="Deepest a job may be below the one you submitted (depth 0). 0: jobs cannot spawn jobs.",
    )
    max_at_depth: int = Field(
        8,
        alias="CLAUDE_MAX_CONCURRENT_AT_DEPTH",
        ge=0,
        le=1_000,
        description="Jobs run at once at each depth, your own (depth 0) included; more wait in the queue.",
    )
    max_total: int = Field(
        30,
        alias="CLAUDE_MAX_TOTAL_JOBS",
        ge=0,
        le=1_000_000,
        description="Jobs ever made in one tree, the root included, retries not; further spawns are refused.",
    )
    max_spawn_rate: int = Field(
        30,
        alias="CLAUDE_JOBS_MAX_SPAWN_RATE",
        ge=0,
        le=100_000,
        description="Jobs that a tree may spawn within a minute.",
    )
    max_processes: int | None = Field(
        None,
        alias="CLAUDE_JOBS_MAX_PROCESSES",
        ge=1,
        le=10_000,
        description="claude processes alive at once, those of jobs that wait for other jobs included. Default: what free memory bears.",
    )
    queue_size: int = Field(
        1_000,
        alias="CLAUDE_QUEUE_SIZE",
        ge=0,
        le=10_000_000,
        description="Queued jobs beyond which new ones are refused.",
    )
    timeout_s: float = Field(
        900, alias="CLAUDE_TIMEOUT_SECONDS", gt=0, le=86_400, description="Ceiling of every attempt's running time."
    )
    stall_s: float = Field(
        300,
        alias="CLAUDE_JOBS_STALL_SECONDS",
        gt=0,
        le=86_400,
        description="Silence after which an attempt is taken as stalled.",
    )
    retry_attempts: int = Field(
        3,
        alias="CLAUDE_RETRY_ATTEMPTS",
        ge=1,
        le=100,
        description="Attempts in all. A usage limit is none, nor is an outage that is waited out (with 1 nothing is).",
    )
    retry_delay_s: float = Field(
        5, alias="CLAUDE_RETRY_DELAY", ge=0, le=3_600, description="Base of the exponential backoff between attempts."
    )
    idle_s: float = Field(
        600,
        alias="CLAUDE_JOBS_IDLE_SECONDS",
        ge=1,
        description="The worker leaves after this long without sessions and jobs.",
    )
    drain_s: float = Field(
        10,
        alias="CLAUDE_JOBS_DRAIN_SECONDS",
        ge=0,
        description="Time running jobs get on SIGTERM before they are set aside to resume.",
    )
    keep_days: float = Field(
        14,
        alias="CLAUDE_JOBS_KEEP_DAYS",
        gt=0,
        description="Finished jobs are deleted after this many days, and tokens that nobody has used or offered since are forgotten.",
    )
    pass_env: Annotated[tuple[str, ...], _split(",")] = Field(
        (),
        alias="CLAUDE_JOBS_PASS_ENV",
        description="Further variables that jobs inherit, comma-separated names. Read from the environment of whoever submits.",
    )
    trusted_dirs: Annotated[tuple[Path, ...], _split(":")] = Field(
        (),
        alias="CLAUDE_JOBS_TRUSTED_DIRS",
        description="Directories (colon-separated) whose own Claude settings, hooks and servers a job may load with project=full.",
    )
    allow_bypass: bool = Field(
        False,
        alias="CLAUDE_JOBS_ALLOW_BYPASS",
        description="Whether jobs may ask for permission_mode=bypassPermissions.",
    )
    mcp_port: int = Field(
        5002, alias="MCP_PORT", ge=0, le=65_535, description="HTTP port of `claude-jobs serve`, or the next free one."
    )
    http_auth: Literal["token", "none"] = Field(
        "token",
        alias="CLAUDE_JOBS_HTTP_AUTH",
        description="none: generate, list_models and health are open without the HTTP token.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", alias="CLAUDE_JOBS_LOG_LEVEL", description="Least severe level in the worker's log."
    )
    providers_in_jobs: bool = Field(
        False,
        alias="CLAUDE_JOBS_PROVIDERS_IN_JOBS",
        description="Whether jobs may ask providers with the keys of your own `.env`; it counts against no job's budget.",
    )
    use_local_llm: bool = Field(
        False, alias="USE_LOCAL_LLM", description="true: `generate` without a provider or model asks Ollama."
    )
    ollama_endpoint: str = Field("http://localhost:11434", alias="OLLAMA_ENDPOINT", description="Where Ollama listens.")
    openai_url: str = Field("", alias="OPENAI_BASE_URL", description="Another address of OpenAI's API, with its /v1.")
    claude_url: str = Field("", alias="ANTHROPIC_BASE_URL", description="Another address of Anthropic's API.")
    gemini_url: str = Field("", alias="GOOGLE_BASE_URL", description="Another address of Gemini's API.")
    grok_url: str = Field("", alias="XAI_BASE_URL", description="Another address of xAI's API, with its /v1.")
    qwen_url: str = Field(
        "",
        alias="DASHSCOPE_BASE_URL",
        description="Another address of Qwen's API (for the mainland: https://dashscope.aliyuncs.com/compatible-mode/v1).",
    )
    max_tokens: int = Field(
        4_096,
        alias="MAX_TOKENS",
        ge=1,
        le=1_000_000,
        description="Longest answer of `generate` where none is asked for.",
    )
    request_timeout_s: float = Field(
        30,
        alias="REQUEST_TIMEOUT",
        gt=0,
        le=3_600,
        description="Time a provider's answer may take to begin, over all attempts, in seconds. "
        "Each attempt gets half of what is left while a fallback or another key could still answer.",
    )
    max_retries: int = Field(
        3,
        alias="MAX_RETRIES",
        ge=0,
        le=20,
        description="Further attempts at one provider and model before the next one.",
    )
    max_requests: int = Field(
        10,
        alias="MAX_CONCURRENT_REQUESTS",
        ge=1,
        le=10_000,
        description="Requests to providers at once; more wait, by priority.",
    )
    cache_ttl_s: float = Field(
        3_600, alias="CACHE_TTL", ge=0, le=31_536_000, description="How long an answer is reused, in seconds. 0: never."
    )
    cache_size: int = Field(1_000, alias="MAX_CACHE_SIZE", ge=0, le=1_000_000, description="Most answers kept.")
    cache_bytes: int = Field(64 * 1024 * 1024, alias="MAX_CACHE_BYTES", ge=0, description="Most bytes of answers kept.")
    cache_skip: Annotated[tuple[str, ...], _split(",")] = Field(
        ("claude-cli",),
        alias="CACHE_SKIP_PROVIDERS",
        description="Providers whose answers are never reused, comma-separated.",
    )
    token_quota: int | None = Field(
        None,
        alias="TOKEN_QUOTA",
        ge=0,
        examples=[100_000],
        description="Tokens each organization may use per window. Unset: no limit; 0: none at all. `claude-jobs quota` sets more.",
    )
    cost_quota_usd: float | None = Field(
        None, alias="COST_QUOTA_USD", ge=0, description="Dollars each organization may spend on providers per window."
    )
    quota_window: Annotated[str, BeforeValidator(lambda text: parse_window(str(text)))] = Field(
        "3600",
        alias="QUOTA_RESET_INTERVAL",
        description="The window: seconds, or hour, day, week, month (UTC).",
    )
    requests_per_minute: int | None = Field(
        None, alias="REQUESTS_PER_MINUTE", ge=0, description="Requests each organization may make per minute."
    )
    tokens_per_minute: int | None = Field(
        None, alias="TOKENS_PER_MINUTE", ge=0, description="Tokens each organization may use per minute."
    )
    cli_quota_usd: float | None = Field(
        None,
        alias="CLI_QUOTA_USD",
        ge=0,
        description="Dollars that claude jobs of each organization may cost per window; jobs beyond it wait for the reset.",
    )
    failure_threshold: int = Field(
        5,
        alias="CIRCUIT_FAILURE_THRESHOLD",
        ge=1,
        le=1_000,
        description="Failures in a row after which a provider's model is left alone.",
    )
    recovery_s: float = Field(
        30,
        alias="CIRCUIT_RECOVERY_TIMEOUT",
        gt=0,
        le=86_400,
        description="How long it is left alone at first, in seconds; each failed try doubles it, up to ten times that.",
    )


_SYNONYMS = {"CLAUDE_MODEL": "CLAUDE_JOBS_MODEL", "LOG_LEVEL": "CLAUDE_JOBS_LOG_LEVEL"}
"""Names that are common elsewhere: ours win, and what does not fit us is somebody else's."""
_LEVELS = frozenset({"debug", "info", "warning", "error"})


def names() -> frozenset[str]:
    """The environment names of all settings."""
    return frozenset(field.alias for field in Settings.model_fields.values() if field.alias)


def load(environ: Mapping[str, str], home_env_file: Path | None = None) -> Settings:
    """Settings from the environment over the user's own `.env`.

    Raises:
        InvalidRequest: A value is out of range, or a CLAUDE_JOBS_* name is unknown; `field` is its name.
            Or the file cannot be read; `field` is ".env".
    """
    merged = {**(_of_file(home_env_file) if home_env_file else {}), **environ}
    known = names()
    unknown = sorted(name for name in merged if name.startswith("CLAUDE_JOBS_") and name not in known | INTERNAL)
    if unknown:
        message = f"Unknown setting {unknown[0]!r}. Known are: {', '.join(sorted(known))}."
        raise InvalidRequest(message, field=unknown[0])
    chosen = {**_common(merged), **{name: value for name, value in merged.items() if name in known and value != ""}}
    try:
        return Settings.model_validate(chosen)
    except InvalidRequest as error:
        raise InvalidRequest(f"Setting QUOTA_RESET_INTERVAL: {error.message}", field="QUOTA_RESET_INTERVAL") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = str(first["loc"][0])
        raise InvalidRequest(f"Setting {name}={merged.get(name)!r}: {first['msg']}.", field=name) from None


def _of_file(path: Path) -> dict[str, str]:
    try:
        values = dotenv_values(path) if path.is_file() else {}
    except OSError as error:
        message = (
            f"{str(path)!r} cannot be read: {error.strerror}. Make it a file that you can read (`chmod 600 {path}`)."
        )
        raise InvalidRequest(message, field=".env") from error
    except UnicodeDecodeError:
        message = f"{str(path)!r} is not UTF-8 text. Save it as UTF-8."
        raise InvalidRequest(message, field=".env") from None  # the cause holds the whole file, and so its secrets
    return {name: value for name, value in values.items() if value is not None}


def _common(environ: Mapping[str, str]) -> dict[str, str]:
    found = {ours: environ[common] for common, ours in _SYNONYMS.items() if environ.get(common)}
    level = found.pop("CLAUDE_JOBS_LOG_LEVEL", "").lower()
    return {**found, "CLAUDE_JOBS_LOG_LEVEL": level} if level in _LEVELS else found

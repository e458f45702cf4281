"""What each model takes of a request: what is renamed, lowered, dropped with a warning, or refused. The rules are in models.toml."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache
from importlib import resources
from typing import Any, Literal, get_args

from claude_jobs.domain.generation import Effort, GenerationRequest, Image, ModelCard, Role
from claude_jobs.errors import RequestRefused

Json = dict[str, Any]
"""A JSON object, as it comes or goes on the wire."""

Via = Literal["chat", "responses"]

_LEAST_BUDGET = 1_024
"""Anthropic's least budget of thought."""
_EFFORTS: tuple[Effort, ...] = ("none", "low", "medium", "high")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What one model can do and takes; the fields as models.toml explains them.

    Attributes:
        names: Our parameter names to the provider's, where they differ.
        effort: What each effort adds to the request; an empty value: that much cannot be asked for.
    """

    provider: str
    model: str
    names: Mapping[str, str] = field(default_factory=dict[str, str])
    context: int = 0
    max_output: int = 0
    tools: bool = True
    vision: bool = False
    thinking: bool = False
    json: Literal["schema", "object", "none"] = "schema"
    sampling: Literal["any", "one", "unthinking", "none"] = "any"
    temperature_max: float = 2.0
    seed: bool = True
    stop: int = 4
    forced_tools: Literal["any", "auto", "none"] = "any"
    prefill: bool = True
    tools_via: Via = "chat"
    json_thinks: bool = True
    effort: Mapping[str, Json] = field(default_factory=dict[str, Json])


@dataclass(frozen=True, slots=True, kw_only=True)
class Shaped:
    """A request as the model takes it.

    Attributes:
        request: What is left of it: messages, system, tools, tool_choice and output_schema are put on the wire from here.
        params: The rest under the provider's own names: output cap, sampling, stop, seed, effort. The model is not in it.
        warnings: One line for each thing renamed, lowered or dropped that can change the answer.
    """

    request: GenerationRequest
    rules: Rules
    params: Json
    warnings: tuple[str, ...]


@lru_cache(maxsize=1024)
def rules_of(provider: str, model: str, via: Via = "chat") -> Rules:
    """The rules of a model; the provider's generic ones if nobody knows it. A prefix ("models/", "qwen/") is looked over.

    Args:
        via: "responses" for a model that is asked by OpenAI's Responses API; its own table is for chat completions.
    """
    table = _table().get(provider, {})
    merged: Json = dict(table.get("rules", {}))
    name = model.lower().rpartition("/")[2]
    fits = [
        (len(prefix), family)
        for family in table.get("families", ())
        for prefix in family["match"]
        if name.startswith(prefix)
    ]
    if fits:
        family = max(fits, key=lambda fit: fit[0])[1]
        merged |= {key: value for key, value in family.items() if key not in ("match", "effort")}
        if (own := family.get("effort")) is not None:
            merged["effort"] = merged.get("effort", {}) | own if own else {}
    names: Mapping[str, str] = table.get("names", {})
    if via == "responses" and provider == "openai":
        efforts: dict[str, Json] = merged.get("effort", {})
        merged["effort"] = {
            effort: {"reasoning": {"effort": said["reasoning_effort"]}} if said else {}
            for effort, said in efforts.items()
        }
        merged |= {"stop": 0, "seed": False}
        names = {}
    return Rules(provider=provider, model=model, names=names, **merged)


def default_model(provider: str) -> str:
    """What answers where no model is named; "" if that depends on what is installed."""
    return _table().get(provider, {}).get("default", "")


def card_of(provider: str, model: str, *, name: str = "", is_live: bool = False) -> ModelCard:
    """What we know of a model. Its price is the caller's to add."""
    rules = rules_of(provider, model)
    return ModelCard(
        id=model,
        provider=provider,
        name=name,
        context_tokens=rules.context,
        max_output_tokens=rules.max_output,
        tools=rules.tools,
        vision=rules.vision,
        json_schema=rules.json != "none",
        thinking=rules.thinking,
        is_default=model == default_model(provider),
        is_live=is_live,
    )


def cards_of(provider: str) -> tuple[ModelCard, ...]:
    """The models that our table names."""
    families = _table().get(provider, {}).get("families", ())
    names = [name for family in families for name in family["match"] if not name.endswith("-")]
    return tuple(card_of(provider, name) for name in dict.fromkeys((default_model(provider), *names)) if name)


def shape(request: GenerationRequest, provider: str, rules: Rules | None = None) -> Shaped:
    """The request as its model takes it: by `rules`, or else by those of the table.

    Raises:
        RequestRefused: It asks for what the model cannot do; the message says what to change.
    """
    rules = rules or rules_of(provider, request.model)
    _refuse(request, rules)
    warnings: list[str] = []
    params: Json = {}
    if (choice := _tool_choice(request, rules, warnings)) != request.tool_choice:
        request = replace(request, tool_choice=choice)
    if request.output_schema is not None and rules.json == "object":
        warnings.append(f"output_schema is only asked for in words: {request.model} gives JSON of any shape.")
    effort = _effort(request, rules, warnings)
    params |= rules.effort[effort] if effort else {}
    for ours, value in _scalars(request, rules, effort, warnings).items():
        params[rules.names.get(ours, ours)] = value
    if "budget_tokens" in params.get("thinking", ()):
        request = _by_budget(request, rules, params, warnings)
    return Shaped(request=request, rules=rules, params=params, warnings=tuple(warnings))


@cache
def _table() -> Json:
    return tomllib.loads(resources.files("claude_jobs.providers").joinpath("models.toml").read_text("utf-8"))


def _refuse(request: GenerationRequest, rules: Rules) -> None:
    if reason := _refusal(request, rules):
        raise RequestRefused(f"{request.model!r} {reason}", provider=rules.provider, model=request.model)


def _refusal(request: GenerationRequest, rules: Rules) -> str:
    if request.tools and not rules.tools:
        return "takes no tools. Leave `tools` out, or use another model."
    if request.tools and rules.forced_tools == "none" and request.tool_choice not in ("auto", "none"):
        return "cannot be made to call a tool. Use tool_choice 'auto', or another model."
    if request.output_schema is not None and rules.json == "none":
        return "keeps to no JSON schema. Leave `output_schema` out, or use another model."
    if 0 < rules.stop < len(request.stop):
        return f"takes at most {rules.stop} stop sequences, not {len(request.stop)}. Give fewer."
    if not rules.prefill and request.messages and request.messages[-1].role is Role.ASSISTANT:
        return "does not go on with an answer begun for it. End `messages` with a user's message."
    if not rules.vision and any(isinstance(part, Image) for message in request.messages for part in message.parts):
        return "sees no images. Leave them out, or use another model."
    return ""


def _tool_choice(request: GenerationRequest, rules: Rules, warnings: list[str]) -> str:
    if rules.forced_tools == "auto" and request.tools and request.tool_choice not in ("auto", "none"):
        warnings.append(
            f"tool_choice {request.tool_choice!r} became 'auto': {request.model} cannot be made to call a tool."
        )
        return "auto"
    return request.tool_choice


def _effort(request: GenerationRequest, rules: Rules, warnings: list[str]) -> Effort:
    """The effort that is asked for, as near as the model has it; "" to say nothing."""
    wanted = request.effort
    if request.output_schema is not None and not rules.json_thinks and wanted != "none":
        if wanted:
            warnings.append(f"effort {wanted!r} became 'none': {request.model} does not think before JSON.")
        wanted = "none"
    if not wanted or rules.effort.get(wanted):
        return wanted
    there: list[Effort] = [each for each in _EFFORTS if rules.effort.get(each)]
    if not there:
        if wanted != "none" or rules.thinking:
            warnings.append(f"effort is dropped: {request.model} does not let it be set.")
        return ""
    at = _EFFORTS.index(wanted)
    nearest = min(there, key=lambda each: abs(_EFFORTS.index(each) - at))
    warnings.append(f"effort {wanted!r} became {nearest!r}, the nearest that {request.model} has.")
    return nearest


def _by_budget(request: GenerationRequest, rules: Rules, params: Json, warnings: list[str]) -> GenerationRequest:
    """A budget of thought is a part of the output cap and goes with neither sampling nor forced tools (Claude 4.5 and older)."""
    most = params.get(rules.names.get("max_output_tokens", "max_output_tokens"), rules.max_output)
    thinking = params.pop("thinking")
    if most < 2 * _LEAST_BUDGET:
        warnings.append(f"effort is dropped: {most} output tokens leave {request.model} no room to think.")
        return request
    params["thinking"] = {**thinking, "budget_tokens": min(thinking["budget_tokens"], most // 2)}
    sampling = [name for name in ("temperature", "top_p") if params.pop(name, None) is not None]
    warnings.extend(f"{name} is dropped: {request.model} takes none while it thinks." for name in sampling)
    if request.tools and request.tool_choice not in ("auto", "none"):
        warnings.append(
            f"tool_choice {request.tool_choice!r} became 'auto': {request.model} is not forced while it thinks."
        )
        request = replace(request, tool_choice="auto")
    return request


def _scalars(request: GenerationRequest, rules: Rules, effort: Effort, warnings: list[str]) -> Json:
    said: Json = {}
    if (most := request.max_output_tokens) is not None:
        said["max_output_tokens"] = most
        if 0 < rules.max_output < most:
            said["max_output_tokens"] = rules.max_output
            warnings.append(f"max_output_tokens {most} became {rules.max_output}, the most that {request.model} gives.")
    said |= _sampling(request, rules, effort, warnings)
    takes_stop = rules.stop and (rules.sampling != "unthinking" or effort == "none")
    if request.stop and takes_stop:
        said["stop"] = list(request.stop)
    elif request.stop:
        why = "takes it only with effort 'none'" if rules.stop else "takes no stop sequences"
        warnings.append(f"stop is dropped: {request.model} {why}.")
    if request.seed is not None and rules.seed:
        said["seed"] = request.seed
    elif request.seed is not None:
        warnings.append(f"seed is dropped: {request.model} takes none.")
    return said


def _sampling(request: GenerationRequest, rules: Rules, effort: Effort, warnings: list[str]) -> Json:
    said = {
        name: value
        for name, value in (("temperature", request.temperature), ("top_p", request.top_p))
        if value is not None
    }
    if not said:
        return said
    if rules.sampling == "none" or (rules.sampling == "unthinking" and effort != "none"):
        why = "takes no sampling parameters" if rules.sampling == "none" else "takes it only with effort 'none'"
        warnings.extend(f"{name} is dropped: {request.model} {why}." for name in said)
        return {}
    if rules.sampling == "one" and len(said) == 2:
        del said["top_p"]
        warnings.append(f"top_p is dropped: {request.model} takes temperature or top_p, not both.")
    if said.get("temperature", 0.0) > rules.temperature_max:
        warnings.append(
            f"temperature {said['temperature']} became {rules.temperature_max}, the highest for {request.model}."
        )
        said["temperature"] = rules.temperature_max
    return said


assert set(_EFFORTS) | {""} == set(get_args(Effort))

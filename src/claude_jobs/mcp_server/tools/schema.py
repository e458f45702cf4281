"""Parameter types the tools share, and what makes their schemas short and portable."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeVar

from fastmcp.tools import Tool
from pydantic import BaseModel, ConfigDict, Field
from pydantic.json_schema import SkipJsonSchema

T = TypeVar("T")

Maybe = T | SkipJsonSchema[None]
"""May be left out, and None is taken; the schema says nothing of null, which not every client understands."""

Prompt = Annotated[str, Field(description="The whole task: the job sees nothing of this conversation")]
Model = Annotated[str, Field(description="From list_models; empty: the default")]
Key = Annotated[str, Field(description="Idempotency key: the same key gives the same job", max_length=180)]
JobId = Annotated[str, Field(description="Like j-7k2m")]
Tools = Annotated[
    Maybe[list[str]],
    Field(description="Names or rules, e.g. Read, Bash(git log *); [] none; left out: edit files, no shell"),
]
Effort = Literal["", "low", "medium", "high", "xhigh", "max"]
State = Literal["any", "queued", "running", "blocked", "succeeded", "failed", "cancelled", "expired"]
Cost = Maybe[Annotated[float, Field(gt=0)]]


SharedOptions = Annotated[Maybe[dict[str, Any]], Field(description="As in spawn")]
"""Options of a batch: the schema says them once, in spawn; here JobRequest checks them."""


class Options(BaseModel):
    """Rare options of a job."""

    model_config = ConfigDict(extra="forbid")

    system: Annotated[Maybe[str], Field(description="Added to the system prompt")] = None
    permission_mode: Maybe[Literal["acceptEdits", "dontAsk", "plan", "bypassPermissions"]] = None
    project: Annotated[
        Maybe[Literal["none", "instructions", "full"]],
        Field(description="What of cwd's Claude files is used; default instructions (CLAUDE.md)"),
    ] = None
    priority: Annotated[Maybe[int], Field(description="-1000 to 1000; a level is 60 s of waiting")] = None
    labels: Maybe[list[str]] = None
    timeout_s: Annotated[Maybe[float], Field(description="Per attempt")] = None
    max_attempts: Maybe[int] = None
    strict: Annotated[Maybe[bool], Field(description="A denied tool fails the job")] = None
    fresh: Annotated[Maybe[bool], Field(description="Own claude process, or (false) a shared one")] = None
    depends_on: Annotated[Maybe[list[str]], Field(description="Job ids to run after")] = None
    needs: Maybe[Literal["all", "any"]] = None
    on: Maybe[Literal["success", "end"]] = None
    deadline: Annotated[Maybe[str], Field(description="2h, or 2026-11-22T10:00Z")] = None
    not_before: Maybe[str] = None
    output_schema: Annotated[Maybe[dict[str, Any]], Field(description="JSON Schema of the answer")] = None
    worktree: Annotated[Maybe[bool], Field(description="Own git worktree")] = None
    accept: Annotated[Maybe[str], Field(description="Shell check at the end; failing sends it back once")] = None
    accept_timeout_s: Maybe[float] = None
    resume: Annotated[Maybe[str], Field(description="Ended job whose session to go on with")] = None
    fork: Maybe[bool] = None
    nest: Annotated[Maybe[bool], Field(description="May spawn jobs")] = None
    org: Maybe[str] = None

    def given(self) -> dict[str, object]:
        """Only what was asked for."""
        return self.model_dump(exclude_none=True)


def portable(function: Callable[..., Any]) -> Tool:
    """The tool with a schema in which only what every client knows is left: no null, no references, no class descriptions."""
    tool = Tool.from_function(function)
    known = tool.parameters.get("$defs", {})
    parameters = {key: value for key, value in tool.parameters.items() if key != "$defs"}
    parameters["properties"] = {name: _lean(schema, known) for name, schema in parameters["properties"].items()}
    return tool.model_copy(update={"parameters": parameters, "description": " ".join((tool.description or "").split())})


_ANYTHING = ("additionalProperties", True)
"""What an object without this says anyway."""


def _lean(schema: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    """`schema` with its references written out. Ours never go round in a circle."""
    whole = {**known[schema["$ref"].removeprefix("#/$defs/")], **schema} if "$ref" in schema else schema
    lean = {
        key: value
        for key, value in whole.items()
        if key != "$ref" and not (key == "default" and value in (None, "")) and (key, value) != _ANYTHING
    }
    if "properties" in lean:
        lean.pop("description", None)
        lean["properties"] = {name: _lean(inner, known) for name, inner in lean["properties"].items()}
    if "items" in lean:
        lean["items"] = _lean(lean["items"], known)
    return lean

"""GET /openapi.json: the generation endpoints, written from the models that check requests. Agents' tools are in GET /tools."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema
from starlette.requests import Request
from starlette.responses import Response

from claude_jobs import __version__
from claude_jobs.services.generation_request import BatchRequest, GenerateRequest
from claude_jobs.web import documents as shown
from claude_jobs.web.replies import encoded
from claude_jobs.web.streams import NDJSON, SSE

_MODELS: Mapping[JsonSchemaMode, Sequence[type[BaseModel]]] = {
    "validation": (GenerateRequest, BatchRequest, shown.ChatRequest, shown.ListModels),
    "serialization": (
        *(shown.GenerateAnswer, shown.BatchAnswer, shown.TokenCount, shown.ModelsAnswer, shown.Health),
        *(shown.ErrorAnswer, shown.ChatCompletion, shown.OpenAiModels, shown.OpenAiModel, shown.OpenAiError),
    ),
}
_STATUSES = {
    "400": "The request is not usable as it stands; `field` and the message say what to change",
    "401": "No token, or a wrong one",
    "403": "Refused: another site's page, or a process of a job",
    "404": "No such model",
    "413": "The body is too long, or the prompt for the model",
    "421": "The Host is not this server's",
    "422": "The provider's safety system refused it",
    "429": "A quota, a rate or the provider's limit; Retry-After says when",
    "500": "A fault of ours",
    "502": "The provider fails, or refuses its key",
    "503": "Nobody can take it now",
    "504": "The provider was too slow",
}
Json = dict[str, Any]


async def document(request: Request) -> Response:
    """The OpenAPI document."""
    return Response(_document(), media_type="application/json")


@cache
def _document() -> bytes:
    schemas: Json = {}
    for mode, models in _MODELS.items():
        _, found = models_json_schema([(one, mode) for one in models], ref_template="#/components/schemas/{model}")
        schemas.update(found["$defs"])
    whole: Json = {
        "openapi": "3.1.0",
        "info": {"title": "claude-jobs", "version": __version__},
        "security": [{"token": []}],
        "paths": _PATHS,
        "components": {"schemas": schemas, "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
    }
    return encoded(whole)


def _content(model: type[BaseModel]) -> Json:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}}}


_EVENT: Json = {
    "type": "object",
    "properties": {
        "event": {"type": "string"},
        "data": {"type": "string", "contentMediaType": "application/json"},
    },
    "required": ["data"],
}
"""One of the events that an answer of this type is made of."""


def _operation(
    summary: str,
    answer: type[BaseModel],
    *,
    body: type[BaseModel] | None = None,
    error: type[BaseModel] = shown.ErrorAnswer,
    pieces: Sequence[str] = (),
    parameter: Json | None = None,
) -> Json:
    """An operation. `pieces` are the media types in which its answer comes bit by bit, if it was asked so."""
    streams = {name: {"schema": _EVENT if name == SSE else {"type": "string"}} for name in pieces}
    failures = {status: {"description": text, "content": _content(error)} for status, text in _STATUSES.items()}
    found: Json = {
        "summary": summary,
        "responses": {"200": {"description": "OK", "content": {**_content(answer), **streams}}, **failures},
    }
    if body is not None:
        found["requestBody"] = {"required": True, "content": _content(body)}
    if parameter is not None:
        found["parameters"] = [parameter]
    return found


_PROVIDER: Json = {"name": "provider", "in": "query", "required": False, "schema": {"type": "string"}}
_ID: Json = {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}
_PATHS: Json = {
    "/health": {"get": _operation("Whether the worker lives", shown.Health)},
    "/tools/generate": {
        "post": _operation("One answer", shown.GenerateAnswer, body=GenerateRequest, pieces=[SSE]),
    },
    "/tools/batch_generate": {
        "post": _operation("Many answers", shown.BatchAnswer, body=BatchRequest, pieces=[SSE, NDJSON]),
    },
    "/tools/count_tokens": {
        "post": _operation("Input tokens of a request", shown.TokenCount, body=GenerateRequest),
    },
    "/tools/list_models": {
        "get": _operation("The models", shown.ModelsAnswer, parameter=_PROVIDER),
        "post": _operation("The models", shown.ModelsAnswer, body=shown.ListModels),
    },
    "/v1/chat/completions": {
        "post": _operation(
            "OpenAI's chat completion",
            shown.ChatCompletion,
            body=shown.ChatRequest,
            error=shown.OpenAiError,
            pieces=[SSE],
        ),
    },
    "/v1/models": {
        "get": _operation("The models, as OpenAI lists them", shown.OpenAiModels, error=shown.OpenAiError),
    },
    "/v1/models/{id}": {
        "get": _operation("One model", shown.OpenAiModel, error=shown.OpenAiError, parameter=_ID),
    },
}

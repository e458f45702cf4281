"""What OpenAI's two dialects share, with the errors of those who speak them too: xAI and DashScope. Pure."""

from __future__ import annotations

from claude_jobs.rehearsal.call import Asked, Call, count_tokens, mapping, mappings, string
from claude_jobs.rehearsal.faults import Fault, RetryAs
from claude_jobs.rehearsal.fields import JsonObject
from claude_jobs.rehearsal.play import Turn
from claude_jobs.rehearsal.schema import instance
from claude_jobs.rehearsal.script import ToolCall
from claude_jobs.rehearsal.wires.base import Reply, json_reply, new_id, rate_headers, wait_headers, waiting_rates

MODELS = {
    "openai": ("gpt-6.1", "gpt-6.1-mini", "o4-mini", "text-embedding-3-small"),
    "grok": ("grok-4.7", "grok-4.5", "grok-code-fast-1"),
    "qwen": ("qwen3.8-max", "qwen3.8-plus", "qwen3.8-flash"),
}
_OWNERS = {"openai": "openai", "grok": "xai", "qwen": "system"}

# status, type, code, message
_Error = tuple[int, str, str | None, str]
_OPENAI: dict[Fault, _Error] = {
    Fault.RATE_LIMIT: (429, "requests", "rate_limit_exceeded", "Rate limit reached for {model} on requests per min."),
    Fault.USAGE_LIMIT: (429, "requests", "rate_limit_exceeded", "Rate limit reached for {model} on requests per day."),
    Fault.INSUFFICIENT_QUOTA: (
        *(429, "insufficient_quota", "insufficient_quota"),
        "You exceeded your current quota, please check your plan and billing details.",
    ),
    Fault.OVERLOADED: (529, "server_error", "server_is_overloaded", "Our servers are currently overloaded."),
    Fault.BUSY: (503, "server_error", "server_is_overloaded", "Our servers are currently overloaded."),
    Fault.SERVER_ERROR: (500, "server_error", None, "The server had an error while processing your request."),
    Fault.BAD_GATEWAY: (502, "server_error", None, "Bad gateway."),
    Fault.UNAVAILABLE: (503, "server_error", None, "Service unavailable."),
    Fault.GATEWAY_TIMEOUT: (504, "server_error", None, "Gateway time-out."),
    Fault.TIMED_OUT: (408, "server_error", "request_timeout", "Request timed out."),
    Fault.UNAUTHORIZED: (401, "invalid_request_error", "invalid_api_key", "Incorrect API key provided (rehearsed)."),
    Fault.BAD_KEY: (401, "invalid_request_error", "invalid_api_key", "Incorrect API key provided (rehearsed)."),
    Fault.FORBIDDEN: (
        *(403, "request_forbidden", "unsupported_country_region_territory"),
        "Country, region, or territory not supported",
    ),
    Fault.BAD_REQUEST: (400, "invalid_request_error", None, "Bad request (rehearsed)."),
    Fault.BLOCKED: (
        *(400, "invalid_request_error", "content_policy_violation"),
        "Your request was rejected by our safety system.",
    ),
    Fault.NOT_FOUND: (
        *(404, "invalid_request_error", "model_not_found"),
        "The model `{model}` does not exist or you do not have access to it.",
    ),
    Fault.TOO_LARGE: (413, "invalid_request_error", "request_too_large", "Maximum content size limit exceeded."),
    Fault.PROMPT_TOO_LONG: (
        *(400, "invalid_request_error", "context_length_exceeded"),
        "This model's maximum context length is 128000 tokens. However, your messages resulted in 250000 tokens.",
    ),
}
# DashScope's compatible mode: OpenAI's form, its own codes.
_QWEN: dict[Fault, _Error] = {
    Fault.RATE_LIMIT: (
        *(429, "limit_requests", "limit_requests"),
        "You exceeded your current requests limit (rehearsed).",
    ),
    Fault.INSUFFICIENT_QUOTA: (
        *(400, "Arrearage", "Arrearage"),
        "Access denied, please make sure your account is in good standing.",
    ),
    Fault.BLOCKED: (
        *(400, "data_inspection_failed", "data_inspection_failed"),
        "<400> InternalError.Algo.DataInspectionFailed: Input text data may contain inappropriate content.",
    ),
    Fault.PROMPT_TOO_LONG: (
        *(400, "invalid_request_error", "invalid_parameter_error"),
        "<400> InternalError.Algo.InvalidParameter: Range of input length should be [1, 129024]",
    ),
    Fault.BUSY: (503, "service_unavailable", "ModelServingError", "Too many requests. The service is overloaded."),
}
# xAI: {"code": words, "error": text}, and a wrong key is a 400.
_GROK: dict[Fault, tuple[int, str, str]] = {
    Fault.BAD_KEY: (400, "Client specified an invalid argument", "Incorrect API key provided: sk***1. (rehearsed)"),
    Fault.BLOCKED: (403, "The caller does not have permission", "Content violates usage guidelines."),
    Fault.INSUFFICIENT_QUOTA: (
        *(429, "Some resource has been exhausted"),
        "Your team has either used all available credits or reached its monthly spending limit.",
    ),
    Fault.PROMPT_TOO_LONG: (
        *(400, "Client specified an invalid argument"),
        "This model's maximum prompt length is 131072 but the request contains 250000 tokens.",
    ),
}
_GROK_CODES = {
    400: "Client specified an invalid argument",
    401: "Unauthenticated",
    403: "The caller does not have permission to execute the specified operation",
    404: "Some requested entity was not found",
    429: "Some resource has been exhausted",
    503: "The service is currently unavailable",
}


def error(fault: Fault, turn: Turn, call: Call) -> Reply | None:
    """The error answer of the call's provider, None for what is no HTTP error."""
    fault = Fault.INSUFFICIENT_QUOTA if fault is Fault.CREDIT else fault
    if fault not in _OPENAI:
        return None
    headers = wait_headers(turn, RetryAs.SECONDS) | rate_headers(waiting_rates(turn))
    status, kind, code, message = (_QWEN if call.provider == "qwen" else {}).get(fault) or _OPENAI[fault]
    if call.provider == "grok":
        status, words, message = _GROK.get(fault, (status, _GROK_CODES.get(status, "Internal error"), message))
        return _grok(status, words, message.replace("{model}", call.model), headers)
    param = "model" if fault is Fault.NOT_FOUND else "messages" if fault is Fault.PROMPT_TOO_LONG else None
    return _reply(status, kind, code, message.replace("{model}", call.model), headers, param=param)


def complain(status: int, message: str, *, provider: str = "openai") -> Reply:
    """An error about the request itself."""
    if provider == "grok":
        return _grok(status, _GROK_CODES.get(status, "Internal error"), message, {})
    code = {401: "invalid_api_key", 404: "not_found"}.get(status)
    return _reply(status, "invalid_request_error", code, message, {})


def headers(turn: Turn) -> dict[str, str]:
    return rate_headers(turn.rate)


def overload() -> JsonObject:
    """What a stream says when it ends in an error."""
    return {"message": "Our servers are currently overloaded.", "type": "server_error", "code": "server_is_overloaded"}


def forced(tools: object, choice: object) -> ToolCall | None:
    """The tool that must be called, with the least it takes."""
    named = string(mapping(mapping(choice).get("function")).get("name")) or string(mapping(choice).get("name"))
    if not named and choice != "required":
        return None
    for tool in mappings(tools):
        function = mapping(tool.get("function")) or tool
        if not named or function.get("name") == named:
            arguments = mapping(instance(mapping(function.get("parameters"))))
            return ToolCall(name=string(function.get("name")), input=arguments)
    return None


def look_up(asked: Asked, method: str) -> Reply | None:
    """Models and counts; None for what is not here."""
    if method == "POST" and asked.path == "/v1/responses/input_tokens":
        return json_reply({"object": "response.input_tokens", "input_tokens": count_tokens(asked.body)})
    if method != "GET":
        return None
    names = MODELS.get(asked.provider, ())
    if asked.path == "/v1/models":
        return json_reply({"object": "list", "data": [_model(name, asked.provider) for name in names]})
    name = asked.path.removeprefix("/v1/models/")
    return json_reply(_model(name, asked.provider)) if name in names else None


def _model(name: str, provider: str) -> JsonObject:
    return {"id": name, "object": "model", "created": 1_767_225_600, "owned_by": _OWNERS[provider]}


def _reply(
    status: int, kind: str, code: str | None, message: str, headers: dict[str, str], *, param: str | None = None
) -> Reply:
    body: JsonObject = {"error": {"message": message, "type": kind, "param": param, "code": code}}
    return json_reply(body, status=status, headers={"x-request-id": new_id("req_"), **headers})


def _grok(status: int, words: str, message: str, headers: dict[str, str]) -> Reply:
    return json_reply({"code": words, "error": message}, status=status, headers=headers)

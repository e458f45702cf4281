"""How an answer can go wrong, and the words around it. Closed sets only."""

from __future__ import annotations

from enum import StrEnum


class Fault(StrEnum):
    """What is played instead of the answer. A number is the HTTP status; each dialect says it in its own words."""

    RATE_LIMIT = "429"
    USAGE_LIMIT = "usage_limit"
    OVERLOADED = "529"
    SERVER_ERROR = "500"
    BAD_GATEWAY = "502"
    UNAVAILABLE = "503"
    GATEWAY_TIMEOUT = "504"
    UNAUTHORIZED = "401"
    FORBIDDEN = "403"
    BAD_REQUEST = "400"
    NOT_FOUND = "404"
    TIMED_OUT = "408"
    TOO_LARGE = "413"
    PROMPT_TOO_LONG = "prompt_too_long"
    CREDIT = "credit"
    INSUFFICIENT_QUOTA = "insufficient_quota"  # money or a plan is used up: no retry helps
    BAD_KEY = "bad_key"  # with the status each API really uses for it
    BUSY = "busy"  # overloaded, with the status each API really uses for it
    BLOCKED = "blocked"  # the prompt is refused by a policy
    DROP = "drop"  # closed without an answer
    CUT = "cut"  # closed in the middle of the stream
    TRUNCATED = "truncated"  # half of the stream, then a good end of the HTTP answer
    SILENCE = "silence"  # accepted, never answered
    STALL = "stall"  # half of the stream, then nothing
    KEEP_ALIVE = "keep_alive"  # signs of life, never an answer
    STALL_ALIVE = "stall_alive"  # half of the stream, then only signs of life
    STREAM_ERROR = "stream_error"  # overloaded, said inside a 200 stream
    STREAM_ERROR_FLAT = (
        "stream_error_flat"  # as the Responses API documents it, not as it sends it; elsewhere as stream_error
    )
    RESPONSE_FAILED = "response_failed"  # the Responses API's own end of a failed answer; elsewhere as stream_error
    BAD_EVENT = "bad_event"  # an event that is no JSON inside a 200 stream
    HTML = "html"
    HTML_502 = "html_502"
    MALFORMED = "malformed"
    OTHER_JSON = "other_json"  # 200 and JSON, but not of this API
    EMPTY = "empty"
    REFUSAL = "refusal"
    CONTENT_FILTER = "content_filter"
    MAX_TOKENS = "max_tokens"
    NO_USAGE = "no_usage"
    ZERO_USAGE = "zero_usage"
    NEGATIVE_USAGE = "negative_usage"
    ABSURD_USAGE = "absurd_usage"


BREAKS = frozenset(
    {
        *(Fault.CUT, Fault.TRUNCATED, Fault.STALL, Fault.STALL_ALIVE, Fault.BAD_EVENT),
        *(Fault.STREAM_ERROR, Fault.STREAM_ERROR_FLAT, Fault.RESPONSE_FAILED),
    }
)
"""Those that end a stream in its middle."""


class LimitWindow(StrEnum):
    """Which limit of a subscription is used up."""

    FIVE_HOUR = "five_hour"
    SEVEN_DAY = "seven_day"
    SEVEN_DAY_OPUS = "seven_day_opus"


class RetryAs(StrEnum):
    """In which words a wait is told."""

    SECONDS = "seconds"  # retry-after: 7
    DATE = "date"  # retry-after: Sat, 21 Nov 2026 10:00:00 GMT
    MS = "ms"  # retry-after-ms: 7000
    REQUESTS_RESET = "requests_reset"  # x-ratelimit-reset-requests: 7s, or Anthropic's stamp
    TOKENS_RESET = "tokens_reset"
    RETRY_INFO = "retry_info"  # google.rpc.RetryInfo in the body
    NONE = "none"

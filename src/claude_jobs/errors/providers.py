"""Errors of providers. None carries a secret."""

from __future__ import annotations

from claude_jobs.errors.jobs import ClaudeJobsError


class ProviderError(ClaudeJobsError):
    """A provider did not answer as it should. The message holds no secret in any form, and no URL with one.

    Attributes:
        provider: As users name it ("openai", "claude").
        model: As it was asked for, "" if the call is about none.
        status: HTTP status, None if there was none.
        retry_after_s: What the provider asks for, a minimum; None if it said nothing.
        job_id: The job that goes on or failed, of the provider claude-cli.
        input_tokens, output_tokens: What the provider had reported as used when it failed, 0 if nothing.
        is_provider_fault: Whether it counts against the circuit breaker: 5xx, 408, time-outs, cuts, nonsense; never 4xx.
    """

    code = "provider_error"
    is_provider_fault = False
    job_id = ""
    input_tokens = 0
    output_tokens = 0

    def __init__(
        self,
        message: str,
        *,
        provider: str,
        model: str = "",
        status: int | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.provider = provider
        self.model = model
        self.status = status
        self.retry_after_s = retry_after_s


class RateLimited(ProviderError):
    """429: the key must wait, not the provider. With `is_exhausted` waiting does not help: the account's money is used up."""

    code = "rate_limited"
    retryable = True
    is_exhausted = False


class Overloaded(ProviderError):
    """503 or 529 with that meaning: the provider has no capacity now."""

    code = "overloaded"
    retryable = True
    is_provider_fault = True


class ModelNotFound(ProviderError):
    """The provider does not know the model, or this key may not use it."""

    code = "model_not_found"


class AuthenticationFailed(ProviderError):
    """401, 402 or 403: the key is wrong, expired, without money or rights. With `is_key_refused` for any model, whatever the status."""

    code = "authentication_failed"
    is_key_refused = False


class ContextTooLong(ProviderError):
    """The prompt does not fit into the model's context window."""

    code = "context_too_long"


class ContentRefused(ProviderError):
    """A safety system of the provider refused the request before it answered anything."""

    code = "content_refused"


class RequestRefused(ProviderError):
    """400, 413, 422 for another reason: the request itself is not accepted."""

    code = "request_refused"


class ProviderTimeout(ProviderError):
    """No first or next piece of the answer in time."""

    code = "provider_timeout"
    retryable = True
    is_provider_fault = True


class ProviderUnavailable(ProviderError):
    """5xx, no connection, or a connection that broke."""

    code = "provider_unavailable"
    retryable = True
    is_provider_fault = True


class BadResponse(ProviderError):
    """The answer is not what the provider's protocol says: HTML, broken JSON, no answer in it."""

    code = "bad_response"
    retryable = True
    is_provider_fault = True

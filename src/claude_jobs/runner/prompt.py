"""What is written to the CLI's stdin: user messages and control lines, defused. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping

from claude_jobs.errors import InvalidRequest

MAX_PROMPT_BYTES = 8_000_000
"""As UTF-8. Larger than any model's context by far; what is below and too large, the CLI refuses by name."""
CONTINUE = "Continue."
INTERRUPT_ID = "interrupt"


def check_prompt(prompt: str) -> None:
    """Refuse what no attempt could run.

    Raises:
        InvalidRequest: Empty, whitespace only, or too large to store.
    """
    if not prompt.strip():
        raise InvalidRequest("The prompt is empty. Say what the job should do.", field="prompt")
    size = len(prompt.encode("utf-8", "surrogatepass"))
    if size > MAX_PROMPT_BYTES:
        message = (
            f"The prompt has {size:,} bytes, the limit is {MAX_PROMPT_BYTES:,}. "
            "Put the material into a file and name it in the prompt."
        )
        raise InvalidRequest(message, field="prompt")


def defused(prompt: str) -> str:
    """The prompt as the model shall see it, and the CLI's own command parser shall not.

    A leading slash would run a local command of the CLI ("/compact"); one newline before it makes it text.
    (`@file` is disarmed by CLAUDE_CODE_DISABLE_FILE_MENTIONS, see command.py.)
    Characters that no JSON reader agrees on become U+FFFD.
    """
    text = prompt.encode("utf-16", "surrogatepass").decode("utf-16", "replace").replace("\0", "\ufffd")
    return "\n" + text if text.startswith("/") else text


def user_line(text: str, *, message_id: str = "") -> bytes:
    """One user message.

    Args:
        message_id: UUID that the transcript names it by; "" lets the CLI choose.
    """
    message: dict[str, object] = {"type": "user", "message": {"role": "user", "content": defused(text)}}
    return _line({**message, "uuid": message_id} if message_id else message)


def system_line(text: str) -> bytes:
    """Text for the end of the system prompt. Over stdin, so that `ps` does not show it and no length limit applies."""
    clean = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").replace("\0", "\ufffd")
    return control_line("initialize", {"subtype": "initialize", "appendSystemPrompt": clean})


def control_line(request_id: str, request: Mapping[str, object]) -> bytes:
    """A request to the CLI itself; a `control_response` with the id will answer it."""
    return _line({"type": "control_request", "request_id": request_id, "request": request})


def clear_line() -> bytes:
    """The CLI's own command for a new conversation; the one message that is not defused."""
    return _line({"type": "user", "message": {"role": "user", "content": "/clear"}})


def token_line(secret: str) -> bytes:
    """Another subscription token for the running process."""
    change = {"type": "update_environment_variables", "variables": {"CLAUDE_CODE_OAUTH_TOKEN": secret}}
    return _line(change)


def _line(message: Mapping[str, object]) -> bytes:
    return json.dumps(message, ensure_ascii=True, separators=(",", ":")).encode() + b"\n"

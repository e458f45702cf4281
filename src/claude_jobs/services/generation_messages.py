"""Messages as a caller writes them, checked and turned into our values: roles, texts, images, tool calls and their results."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, JsonValue, Tag

from claude_jobs.domain.generation import Image, Message, Part, Role, Text, Thinking, ToolResult, ToolUse
from claude_jobs.errors import InvalidRequest
from claude_jobs.policy import pictures

MAX_IMAGES = 20
MAX_IMAGE_BYTES = 5 * 1024 * 1024
"""Decoded, each. The least that a provider takes (Anthropic: 5 MB)."""

_MEDIA_TYPES = ("image/png", "image/jpeg", "image/gif", "image/webp")
_DATA_URL = re.compile(r"data:([\w.+/-]*);base64,")


class Wire(BaseModel):
    """What comes in as JSON: nothing unknown, nothing converted."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True, allow_inf_nan=False)


class TextPart(Wire):
    """Text."""

    type: Literal["text"]
    text: str


class ImagePart(Wire):
    """A picture: `media_type` with `data` in base64, or a data URL of both. Addresses on the network are not fetched."""

    type: Literal["image"]
    media_type: Annotated[str, Field(max_length=100)] = ""
    data: str = ""
    url: str = ""


class ToolUsePart(Wire):
    """A call that the model asked for, as an answer's `parts` have it."""

    type: Literal["tool_use"]
    id: Annotated[str, Field(max_length=500)]
    name: Annotated[str, Field(min_length=1, max_length=200)]
    arguments: dict[str, JsonValue]
    signature: str = ""


class ToolResultPart(Wire):
    """What a tool gave for the call with that id."""

    type: Literal["tool_result"]
    id: Annotated[str, Field(max_length=500)]
    text: str
    is_error: bool = False


class ThinkingPart(Wire):
    """What the model thought, as an answer's `parts` have it: give it back unchanged."""

    type: Literal["thinking"]
    text: str
    signature: str = ""


AnyPart = TextPart | ImagePart | ToolUsePart | ToolResultPart | ThinkingPart
PARTS: Mapping[str, type[AnyPart]] = {
    "text": TextPart,
    "image": ImagePart,
    "tool_use": ToolUsePart,
    "tool_result": ToolResultPart,
    "thinking": ThinkingPart,
}


def _kind(value: object) -> str | None:
    kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    return f"({kind})" if isinstance(kind, str) else None


def _form(value: object) -> str:
    return "(plain)" if isinstance(value, str) else "(parts)"


# The tags stand in pydantic's error locations; the brackets let `where` leave them out.
WirePart = Annotated[
    Annotated[TextPart, Tag("(text)")]
    | Annotated[ImagePart, Tag("(image)")]
    | Annotated[ToolUsePart, Tag("(tool_use)")]
    | Annotated[ToolResultPart, Tag("(tool_result)")]
    | Annotated[ThinkingPart, Tag("(thinking)")],
    Discriminator(
        _kind,
        custom_error_type="unknown_part",
        custom_error_message=f"A part is an object whose `type` is one of {', '.join(PARTS)}",
    ),
]
Content = Annotated[
    Annotated[str, Tag("(plain)")] | Annotated[list[WirePart], Tag("(parts)")],
    Discriminator(_form),
]


class WireMessage(Wire):
    """One message. One with the role `tool` names the call that its text answers; `system` texts are joined."""

    role: Literal["user", "assistant", "system", "tool"]
    content: Content
    tool_call_id: Annotated[str, Field(max_length=500)] = ""
    is_error: bool = False


def where(location: Sequence[int | str]) -> str:
    """A place in the body for people: "messages.0.content.1.text"."""
    return ".".join(str(step) for step in location if not (isinstance(step, str) and step.startswith("(")))


def conversation(messages: Iterable[WireMessage]) -> tuple[str, tuple[Message, ...]]:
    """(system text, the other messages).

    Raises:
        InvalidRequest: A part that its role does not have, a result for no call, a message or conversation without
            content, an image that is too large or none.
    """
    system: list[str] = []
    found: list[Message] = []
    calls: dict[str, str] = {}
    images = 0
    for index, message in enumerate(messages):
        place = f"messages.{index}.content"
        parts = _parts(message, place, calls)
        images += sum(isinstance(part, Image) for part in parts)
        if images > MAX_IMAGES:
            raise InvalidRequest(f"{place}: more than {MAX_IMAGES} images. Send fewer at once.", field=place)
        if message.role == "system":
            system.append("".join(part.text for part in parts if isinstance(part, Text)))
        elif message.role == "tool" and found and _are_results(found[-1]):
            found[-1] = Message(role=Role.USER, parts=(*found[-1].parts, *parts))  # APIs want all results in one
        else:
            found.append(Message(role=Role.ASSISTANT if message.role == "assistant" else Role.USER, parts=parts))
    if not found:
        raise InvalidRequest("`messages` has no message of the user. Say what is asked.", field="messages")
    return "\n\n".join(system), tuple(found)


def plain(prompt: str) -> tuple[Message, ...]:
    """The conversation of one prompt.

    Raises:
        InvalidRequest: It is blank.
    """
    if not prompt.strip():
        raise InvalidRequest("The prompt is empty. Say what is asked.", field="prompt")
    return (Message(role=Role.USER, parts=(Text(text=prompt),)),)


def _are_results(message: Message) -> bool:
    return all(isinstance(part, ToolResult) for part in message.parts)


_ALLOWED = {
    "system": ("text",),
    "user": ("text", "image", "tool_result"),
    "assistant": ("text", "tool_use", "thinking"),
    "tool": ("text", "tool_result"),
}


def _parts(message: WireMessage, place: str, calls: dict[str, str]) -> tuple[Part, ...]:
    """Its parts; notes the calls in it under their ids."""
    content = message.content
    given: list[AnyPart] = [TextPart(type="text", text=content)] if isinstance(content, str) else list(content)
    for at, part in enumerate(given):
        if part.type not in _ALLOWED[message.role]:
            names = ", ".join(_ALLOWED[message.role])
            text = f"{place}.{at}: a message of the role {message.role!r} has no {part.type!r}, only {names}."
            raise InvalidRequest(text, field=f"{place}.{at}.type")
        if isinstance(part, ToolUsePart):
            calls[part.id] = part.name
    if message.role == "tool" and not any(isinstance(part, ToolResultPart) for part in given):
        text = "".join(part.text for part in given if isinstance(part, TextPart))
        given = [ToolResultPart(type="tool_result", id=message.tool_call_id, text=text, is_error=message.is_error)]
    elif message.tool_call_id or message.is_error:
        raise InvalidRequest(
            f"{place}: `tool_call_id` and `is_error` belong to a text of the role 'tool'.", field=place
        )
    parts = tuple(_part(part, f"{place}.{at}", calls) for at, part in enumerate(given))
    if not any(not isinstance(part, Text) or part.text.strip() for part in parts):
        raise InvalidRequest(f"{place} is empty. Leave the message out, or say something in it.", field=place)
    return tuple(part for part in parts if not isinstance(part, Text) or part.text)


def _part(part: AnyPart, place: str, calls: dict[str, str]) -> Part:
    match part:
        case TextPart():
            return Text(text=part.text)
        case ImagePart():
            return _image(part, place)
        case ToolUsePart():
            return ToolUse(id=part.id, name=part.name, arguments=part.arguments, signature=part.signature)
        case ThinkingPart():
            return Thinking(text=part.text, signature=part.signature)
        case ToolResultPart():
            if part.id not in calls:
                text = (
                    f"{place}: no tool_use before it has the id {part.id!r}. Give back the message with the call, too."
                )
                raise InvalidRequest(text, field=f"{place}.id")
            return ToolResult(id=part.id, name=calls[part.id], text=part.text, is_error=part.is_error)


def _image(part: ImagePart, place: str) -> Image:
    media_type, data = _image_source(part, place)
    media_type = {"image/jpg": "image/jpeg"}.get(media_type.lower(), media_type.lower())
    if media_type not in _MEDIA_TYPES:
        text = f"{place}: {media_type!r} is no type of image that is taken. Send one of {', '.join(_MEDIA_TYPES)}."
        raise InvalidRequest(text, field=f"{place}.media_type")
    if len(data) * 3 // 4 > MAX_IMAGE_BYTES + 2:
        raise _too_large(place, len(data) * 3 // 4)
    try:
        content = base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidRequest(f"{place}: `data` is not base64 (the standard alphabet).", field=f"{place}.data") from None
    if len(content) > MAX_IMAGE_BYTES:
        raise _too_large(place, len(content))
    found = pictures.media_type(content)
    if found != media_type:
        seems = f"they are {found}" if found else f"they begin with {content[:8]!r}"
        text = f"{place}: the bytes are not {media_type}: {seems}. Name the type that it is."
        raise InvalidRequest(text, field=f"{place}.media_type")
    return Image(media_type=media_type, data=data)


def _image_source(part: ImagePart, place: str) -> tuple[str, str]:
    """(media type, base64)."""
    if not part.url:
        if not part.data:
            message = f"{place}: an image needs `media_type` and `data`, or a data URL in `url`."
            raise InvalidRequest(message, field=f"{place}.data")
        return part.media_type, part.data
    match = _DATA_URL.match(part.url)
    if match is None:
        message = f'{place}: images are not fetched. Send the bytes: "data:image/png;base64,…".'
        raise InvalidRequest(message, field=f"{place}.url")
    if part.data or part.media_type not in ("", match[1]):
        raise InvalidRequest(f"{place}: give `url`, or `media_type` and `data`, not both.", field=f"{place}.url")
    return match[1], part.url[match.end() :]


def _too_large(place: str, size: int) -> InvalidRequest:
    message = f"{place}: the image has {size:,} bytes, the limit is {MAX_IMAGE_BYTES:,}. Scale it down."
    return InvalidRequest(message, field=f"{place}.data")

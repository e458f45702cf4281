"""Which kind of picture bytes are, by their beginning. Pure."""

from __future__ import annotations


def media_type(content: bytes) -> str:
    """image/png, image/jpeg, image/gif or image/webp; "" for nothing that providers take."""
    if content.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if content.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if content.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    if content.startswith(b"RIFF") and content[8:12] == b"WEBP":
        return "image/webp"
    return ""

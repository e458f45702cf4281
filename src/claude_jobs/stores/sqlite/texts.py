"""Long texts in files beside the database: written, synced and renamed before the row that names them commits."""

from __future__ import annotations

import os
import uuid
from collections.abc import Collection, Iterable
from pathlib import Path

from claude_jobs.stores.base import INLINE_TEXT_BYTES
from claude_jobs.stores.codec import Doc, Json
from claude_jobs.stores.lifecycle import LISTED_PROMPT_CHARS

FILE = "$file"
HEAD = "$head"


class Texts:
    """The directory `texts/`; only its owner may read it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def pack(self, doc: Doc) -> tuple[Doc, list[str]]:
        """`doc` with its long texts moved to files, and their names."""
        names: list[str] = []
        packed = dict(doc)
        for key, text in doc.items():
            if isinstance(text, str) and _is_long(text):
                names.append(self._write(text.encode("utf-8", "surrogatepass")))
                packed[key] = {FILE: names[-1], HEAD: text[:LISTED_PROMPT_CHARS]}
        if names:
            _sync_directory(self._directory)
        return packed, names

    def unpack(self, doc: Doc, *, whole: bool) -> Doc:
        """`doc` with its long texts back in place; only their beginnings unless `whole`."""
        return {key: self._text(item, whole) if _is_place(item) else item for key, item in doc.items()}

    def names(self, doc: Doc) -> list[str]:
        """The files that a packed document names."""
        return [item[FILE] for item in doc.values() if _is_place(item)]

    def _text(self, place: Doc, whole: bool) -> str:
        if not whole:
            return place[HEAD]
        return (self._directory / place[FILE]).read_bytes().decode("utf-8", "surrogatepass")

    def _write(self, content: bytes) -> str:
        self._directory.mkdir(mode=0o700, exist_ok=True)
        name = f"{uuid.uuid4().hex}.txt"
        draft = self._directory / f"{name}.part"
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.rename(self._directory / name)
        return name

    def remove(self, names: Iterable[str]) -> None:
        """Delete files; those already gone are fine."""
        for name in names:
            (self._directory / name).unlink(missing_ok=True)

    def orphans(self, named: Collection[str]) -> list[str]:
        """Files that no row names. Only meaningful under the lock, where no row is about to."""
        if not self._directory.is_dir():
            return []
        return sorted({entry.name for entry in self._directory.iterdir()} - set(named))


def _is_place(item: Json) -> bool:
    return isinstance(item, dict) and FILE in item


def _is_long(text: str) -> bool:
    return len(text) > INLINE_TEXT_BYTES // 4 and len(text.encode("utf-8", "surrogatepass")) > INLINE_TEXT_BYTES


def _sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

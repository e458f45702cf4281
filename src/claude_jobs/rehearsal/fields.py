"""Reading hand-written JSON strictly: every value has a type, and a key that nobody reads is an error."""

from __future__ import annotations

from typing import cast

from claude_jobs.errors import InvalidRequest

JsonObject = dict[str, object]


class Fields:
    """The keys of one JSON object, taken one by one; `done` complains about what was not taken."""

    def __init__(self, data: object, *, where: str) -> None:
        if not isinstance(data, dict):
            raise InvalidRequest(f"{where} must be a JSON object, got {type(data).__name__}.", field=where)
        self._left: JsonObject = {str(key): value for key, value in cast("JsonObject", data).items()}
        self._where = where

    def text(self, key: str) -> str | None:
        value = self._left.pop(key, None)
        if value is None or isinstance(value, str):
            return value
        raise self._wrong(key, "a string", value)

    def word(self, key: str) -> str | None:
        """A string or a number, as text: `529` and `"529"` are the same."""
        value = self._left.pop(key, None)
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        if value is None or isinstance(value, str):
            return value
        raise self._wrong(key, "a string or a whole number", value)

    def number(self, key: str, default: float) -> float:
        value = self.number_or_none(key)
        return default if value is None else value

    def number_or_none(self, key: str) -> float | None:
        value = self._left.pop(key, None)
        if value is None:
            return None
        if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0:
            return float(value)
        raise self._wrong(key, "a number >= 0", value)

    def integer(self, key: str) -> int | None:
        value = self._left.pop(key, None)
        if value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 0):
            return value
        raise self._wrong(key, "a whole number >= 0", value)

    def flag(self, key: str) -> bool:
        value = self._left.pop(key, False)
        if isinstance(value, bool):
            return value
        raise self._wrong(key, "true or false", value)

    def object(self, key: str) -> JsonObject | None:
        value = self._left.pop(key, None)
        if value is None or isinstance(value, dict):
            return cast("JsonObject | None", value)
        raise self._wrong(key, "an object", value)

    def list(self, key: str) -> list[object]:
        value = self._left.pop(key, None)
        if value is None:
            return []
        if isinstance(value, list):
            return cast("list[object]", value)
        raise self._wrong(key, "a list", value)

    def done(self, *known: str) -> None:
        """Raises InvalidRequest if a key is left that nobody took."""
        if self._left:
            raise InvalidRequest(
                f"{self._where}: unknown key {min(self._left)!r}. Known: {', '.join(known)}.", field=self._where
            )

    def _wrong(self, key: str, wanted: str, got: object) -> InvalidRequest:
        return InvalidRequest(f"{self._where}: {key!r} must be {wanted}, got {got!r}.", field=f"{self._where}.{key}")

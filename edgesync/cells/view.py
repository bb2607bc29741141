"""Where a keyspace keeps its rows: one ordered map of bytes, whoever stores it."""

from typing import Protocol


class View(Protocol):
    """An ordered map; keys compare as bytes."""

    def get(self, key: bytes, /) -> bytes | None: ...

    def put(self, key: bytes, value: bytes, /) -> None: ...

    def delete(self, key: bytes, /) -> None:
        """Delete a row; a missing one is no error."""

    def scan(
        self, start: bytes, stop: bytes, /, *, limit: int, reverse: bool = False
    ) -> list[tuple[bytes, bytes]]:
        """Return up to `limit` rows of [start, stop) in order, or the last ones backwards."""

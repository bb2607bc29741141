"""A view in memory, with the one thing a disk has beyond a dictionary: a last commit to fall to."""

from bisect import bisect_left, insort


class MemoryView:
    def __init__(self) -> None:
        self._rows: dict[bytes, bytes] = {}
        self._order: list[bytes] = []
        self._undo: list[tuple[bytes, bytes | None]] = []

    def get(self, key: bytes) -> bytes | None:
        return self._rows.get(key)

    def put(self, key: bytes, value: bytes) -> None:
        self._set(key, value)

    def delete(self, key: bytes) -> None:
        self._set(key, None)

    def scan(
        self, start: bytes, stop: bytes, *, limit: int, reverse: bool = False
    ) -> list[tuple[bytes, bytes]]:
        low, high = bisect_left(self._order, start), bisect_left(self._order, stop)
        if reverse:
            names = self._order[max(low, high - limit) : high][::-1]
        else:
            names = self._order[low : min(high, low + limit)]
        return [(name, self._rows[name]) for name in names]

    def commit(self) -> None:
        self._undo.clear()

    def crash(self) -> None:
        """What was not committed has not happened."""
        for key, value in reversed(list(self._undo)):
            self._set(key, value)
        self._undo.clear()

    def rows(self) -> dict[bytes, bytes]:
        return dict(self._rows)

    def _set(self, key: bytes, value: bytes | None) -> None:
        before = self._rows.get(key)
        self._undo.append((key, before))
        if value is None:
            if before is not None:
                del self._rows[key]
                del self._order[bisect_left(self._order, key)]
            return
        if before is None:
            insort(self._order, key)
        self._rows[key] = value

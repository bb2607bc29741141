"""Memory of nodes, and the times at which they want to be woken.   [sans-IO]

A value is one row: its key is made of the node's id and the name, so a swap of the chain and a
restart of the edge find it again. Changes are collected until they are committed together with the
effects of the messages that caused them (I2); a commit that failed takes them back.
"""

import hashlib
import heapq
import logging
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import msgspec

from edgesync.rules.node import NodeFailure, Now

log = logging.getLogger(__name__)

# Entities of which one node may remember something, and bytes of one of them (I7).
NAMES_MAX: Final = 20_000
VALUE_BYTES_MAX: Final = 256 * 1024
WAKE: Final = "\0wake\0"

Rows = dict[bytes, bytes | None]
Wake = tuple[int, int]  # when, in ns since 1970, and how long after it was asked for


class Stored(msgspec.Struct, frozen=True, array_like=True):
    node: str
    name: str
    value: Any


def row_key(node: str, name: str) -> bytes:
    """Return the key of a row: 16 bytes for the node, 16 for the name."""
    first = hashlib.blake2b(node.encode(), digest_size=16).digest()
    return first + hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16).digest()


class State:
    """See the module. `due` has times of the monotonic clock."""

    def __init__(self) -> None:
        self._values: dict[str, dict[str, Any]] = {}
        # What has changed since the last commit: as it was, and as it is to be stored.
        self._before: dict[tuple[str, str], Any] = {}
        self._raw: dict[tuple[str, str], bytes | None] = {}
        self._damaged: list[bytes] = []  # keys of rows, which go with the next commit
        self._due: list[tuple[int, int, str, str]] = []
        self._wakes: dict[tuple[str, str], int] = {}  # the number of the entry that counts
        self._number = 0

    def restore(self, rows: Iterable[tuple[bytes, bytes]], now: Now) -> None:
        """Take what an earlier life has stored; a damaged row goes with the next commit (I14)."""
        for key, raw in rows:
            try:
                stored = msgspec.msgpack.decode(raw, type=Stored)
                wake = stored.name.startswith(WAKE) and msgspec.convert(stored.value, Wake)
            except (ValueError, msgspec.MsgspecError) as error:
                log.error("a node forgets what is in a damaged row: key=%s %s", key.hex(), error)
                self._damaged.append(key)
                continue
            self._values.setdefault(stored.node, {})[stored.name] = stored.value
            if wake:
                due_ns, period_ns = wake
                # The wall clock may have been set meanwhile: no later than a period from now.
                left_ns = min(max(due_ns - now.wall_ns, 0), period_ns)
                name = stored.name.removeprefix(WAKE)
                self._schedule(stored.node, name, now.monotonic_ns + left_ns)

    # -- values ----------------------------------------------------------------------------------

    def get(self, node: str, name: str) -> Any:
        return self._values.get(node, {}).get(name)

    def names(self, node: str) -> list[str]:
        return [name for name in self._values.get(node, {}) if not name.startswith(WAKE)]

    def put(self, node: str, name: str, value: Any) -> None:
        values = self._values.setdefault(node, {})
        if value is not None and name not in values and len(values) >= NAMES_MAX:
            raise NodeFailure(f"remembers {NAMES_MAX} entities already; that is the most")
        raw = None if value is None else msgspec.msgpack.encode(Stored(node, name, value))
        if raw is not None and len(raw) > VALUE_BYTES_MAX:
            raise NodeFailure(f"would remember {len(raw)} bytes; {VALUE_BYTES_MAX} are the most")
        self._before.setdefault((node, name), values.get(name))
        self._raw[(node, name)] = raw
        if value is None:
            values.pop(name, None)
        else:
            values[name] = value

    def all_of(self, node: str) -> Mapping[str, Any]:
        return self._values.get(node, {})

    # -- times -----------------------------------------------------------------------------------

    def wake(self, node: str, name: str, in_s: float, now: Now) -> None:
        period_ns = round(in_s * 1e9)
        self.put(node, WAKE + name, [now.wall_ns + period_ns, period_ns])
        self._schedule(node, name, now.monotonic_ns + period_ns)

    def forget_wake(self, node: str, name: str) -> None:
        if self.get(node, WAKE + name) is not None:
            self.put(node, WAKE + name, None)
        self._wakes.pop((node, name), None)

    def _schedule(self, node: str, name: str, due_ns: int) -> None:
        self._number += 1
        self._wakes[(node, name)] = self._number
        heapq.heappush(self._due, (due_ns, self._number, node, name))

    def take_due(self, monotonic_ns: int, limit: int) -> list[tuple[str, str]]:
        """Return nodes and names whose time has come, the earliest first, and forget the times."""
        found: list[tuple[str, str]] = []
        while self._due and self._due[0][0] <= monotonic_ns and len(found) < limit:
            _, number, node, name = heapq.heappop(self._due)
            if self._wakes.get((node, name)) == number:
                self.forget_wake(node, name)
                found.append((node, name))
        return found

    @property
    def next_due_ns(self) -> int | None:
        while self._due and self._wakes.get(self._due[0][2:]) != self._due[0][1]:
            heapq.heappop(self._due)
        return self._due[0][0] if self._due else None

    # -- commits ---------------------------------------------------------------------------------

    def changes(self) -> Rows:
        """Return the rows that differ from what is stored."""
        rows: Rows = dict.fromkeys(self._damaged)
        return rows | {row_key(*place): raw for place, raw in self._raw.items()}

    def confirm(self) -> None:
        """The changes are stored."""
        self._damaged.clear()
        self._before.clear()
        self._raw.clear()

    def withdraw(self, now: Now) -> None:
        """The changes are not stored: nothing of them has happened."""
        for (node, name), value in self._before.items():
            values = self._values.setdefault(node, {})
            if value is None:
                values.pop(name, None)
            else:
                values[name] = value
            if name.startswith(WAKE):
                own = name.removeprefix(WAKE)
                self._wakes.pop((node, own), None)
                if value is not None:
                    due_ns, period_ns = value
                    left_ns = min(max(due_ns - now.wall_ns, 0), period_ns)
                    self._schedule(node, own, now.monotonic_ns + left_ns)
        self._before.clear()
        self._raw.clear()

    def drop_others(self, nodes: Iterable[str]) -> None:
        """Forget what nodes remember that are none of these."""
        kept = set(nodes)
        for node in [one for one in self._values if one not in kept]:
            for name in list(self._values[node]):
                if name.startswith(WAKE):
                    self.forget_wake(node, name.removeprefix(WAKE))
                else:
                    self.put(node, name, None)

    def __iter__(self) -> Iterator[tuple[str, str, Any]]:
        for node, values in self._values.items():
            for name, value in values.items():
                yield node, name, value

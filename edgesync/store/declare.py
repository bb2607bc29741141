"""Declares the series of this edge and their metadata again to a hub that has lost them.

A declaration travels once, and its record may be trimmed long since. So the hub's generation is
kept, and a note that all is to be declared, until it has been.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Final, TypeVar

import msgspec

from edgesync._native import event
from edgesync._native.write import Write
from edgesync.model import Action, EntityType, EventType, Lane, RecordKind
from edgesync.store.commit import Tails
from edgesync.store.journal import META, EdgeStore
from edgesync.store.series import Series

T = TypeVar("T")

HUB_KEY: Final = b"hub"
POINTS: Final = "points"  # edgesync/store/points.py
DECLARED_A_WRITE: Final = 500


class HubNotes(msgspec.Struct, frozen=True):
    """Notes about the hub that outlive a start.

    generation   of its store, when a session was begun last
    is_owed      all series are to be declared, for it has lost some
    """

    generation: bytes = b""
    is_owed: bool = False


def hub_notes(store: EdgeStore) -> HubNotes:
    raw = store.store.get(META, HUB_KEY)
    return msgspec.msgpack.decode(raw, type=HubNotes) if raw else HubNotes()


async def note_hub(store: EdgeStore, generation: bytes, *, is_owed: bool) -> None:
    """Remember that, on disk."""
    notes = HubNotes(generation, is_owed)
    if hub_notes(store) != notes:
        write = Write()
        write.put(META, HUB_KEY, msgspec.msgpack.encode(notes), essential=True)
        await store.submit(write)


async def declare_all(
    store: EdgeStore, clock_ns: Callable[[], int], on_grown: Callable[[Tails], None]
) -> int:
    """Declare all series again, and their metadata; returns how many series there are.

    In steps: a write of other records waits for one of them at most.
    """
    known = store.series.all()
    for part in _parts(known.values()):
        write = Write()
        for series in part:
            store.series.declare(write, Lane.BULK, series, clock_ns())
        on_grown(await store.submit(write))
    for told in _parts(_metadata(store)):
        write = Write()
        for number, metadata in told:
            if number in known:
                add_metadata(write, known[number], metadata, clock_ns())
        on_grown(await store.submit(write))
    return len(known)


def add_metadata(write: Write, series: Series, metadata: dict[str, str], now_ns: int) -> None:
    """Add to `write` what the hub is told of a series' metadata."""
    body = msgspec.json.encode({"key": series.key, "attributes": metadata})
    record = event.encode(
        EventType.ATTRIBUTES, Action.ATTRIBUTES_UPDATED, EntityType.DEVICE, series.entity, body,
        now_ns, now_ns, 0,
    )  # fmt: skip
    write.append(Lane.NORMAL, RecordKind.EVENT, record)


def _metadata(store: EdgeStore) -> Iterator[tuple[int, dict[str, str]]]:
    start = b"m"
    while rows := store.store.scan(POINTS, start, b"n", limit=DECLARED_A_WRITE):
        for key, raw in rows:
            yield int.from_bytes(key[1:], "big"), msgspec.msgpack.decode(raw, type=dict[str, str])
        start = rows[-1][0] + b"\0"


def _parts(items: Iterable[T]) -> Iterator[list[T]]:
    rest = iter(items)
    while part := list(islice(rest, DECLARED_A_WRITE)):
        yield part

"""Listings of objects as an edge reads them, and reports as a hub does."""

import hashlib

from edgesync.errors import RecordError
from edgesync.objects.model import (
    OBJECTS_MAX,
    ObjectRef,
    ObjectState,
    Standing,
    listing_of,
    pack_states,
    read_listing,
    read_states,
)
from tests.fuzz.fuzz import Target

REFS = [ObjectRef(f"n{n}", hashlib.sha256(b"%d" % n).hexdigest(), 1 << n) for n in range(20)]
STATES = [
    ObjectState(ref.name, ref.sha256, ref.size, 1, standing, "why" * n)
    for n, (ref, standing) in enumerate(zip(REFS, Standing, strict=False))
]


def listing(body: bytes) -> None:
    found = read_listing(body)
    assert len(found.wanted) <= OBJECTS_MAX
    assert not any("/" in ref.sha256 or "/" in ref.name for ref in found.wanted)
    assert read_listing(found.pack()) == found


def states(body: bytes) -> None:
    found = read_states(body)
    assert len(found) <= 2 * OBJECTS_MAX
    assert read_states(pack_states(found)) == found


LISTINGS = (listing_of([]), listing_of(REFS, ["old"]), listing_of([], ["a", "b"]))
TARGETS = [
    Target("listings of objects", tuple(x.pack() for x in LISTINGS), listing, (RecordError,)),
    Target("reports of objects", (pack_states([]), pack_states(STATES)), states, (RecordError,)),
]

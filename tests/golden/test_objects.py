"""Payloads of listings and reports of objects, as they were first sent: read for ever."""

import hashlib
import json
from pathlib import Path

import pytest

from edgesync.objects.model import (
    ObjectRef,
    ObjectState,
    Standing,
    listing_of,
    pack_states,
    read_listing,
    read_states,
)

pytestmark = pytest.mark.feature("S22")

KEPT = json.loads((Path(__file__).parent / "objects-1.json").read_text())
SHA256 = hashlib.sha256(b"model").hexdigest()
LISTING = listing_of([ObjectRef("model", SHA256, 64 << 20)], ["old", "a.b_c-d"])
STATES = tuple(
    ObjectState("model", SHA256, 64 << 20, n, standing, "why" * n)
    for n, standing in enumerate(Standing)
)


def test_a_listing_is_what_it_was() -> None:
    raw = bytes.fromhex(KEPT["listing"])
    assert (read_listing(raw), LISTING.pack(), LISTING.digest()) == (LISTING, raw, KEPT["digest"])


def test_a_report_is_what_it_was() -> None:
    raw = bytes.fromhex(KEPT["report"])
    assert (read_states(raw), pack_states(STATES)) == (STATES, raw)

"""The hand-written event record against pycapnp, which is the oracle, both ways."""

import struct
from pathlib import Path
from typing import Any

import capnp
import pytest
from hypothesis import given
from hypothesis import strategies as st

import edgesync_transport
from edgesync._native import event
from edgesync.errors import RecordError

U16 = st.integers(0, 2**16 - 1)
I64 = st.integers(-(2**63), 2**63 - 1)
NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40)
FIELDS = st.tuples(
    U16, U16, U16, NAMES, st.binary(max_size=200), I64, I64, st.integers(0, 2**64 - 1)
)
SAMPLE = (2, 1, 2, "meter0", b'{"key":"ActivePower"}', 1_700_000_000_000_000_000, 5, 2**63)


def schema() -> Any:
    folder = Path(edgesync_transport.__file__).parent / "schema"
    return capnp.load(str(folder / "event.capnp")).Event


EVENT = schema()


def by_pycapnp(fields: tuple[Any, ...]) -> bytes:
    message = EVENT.new_message()
    (message.type, message.action, message.entityType, message.entityId, message.body) = fields[:5]
    (message.timeNs, message.createdNs, message.hlc) = fields[5:]
    return bytes(message.to_bytes())


@given(FIELDS)
def test_what_we_write_reads_the_same_with_pycapnp(fields: tuple[Any, ...]) -> None:
    with EVENT.from_bytes(event.encode(*fields)) as got:
        assert fields == (
            *(got.type, got.action, got.entityType, got.entityId, bytes(got.body)),
            *(got.timeNs, got.createdNs, got.hlc),
        )


@given(FIELDS)
def test_what_pycapnp_writes_we_read(fields: tuple[Any, ...]) -> None:
    assert event.decode(by_pycapnp(fields)) == fields


@given(FIELDS)
def test_round_trip(fields: tuple[Any, ...]) -> None:
    assert event.decode(event.encode(*fields)) == fields


def test_trailing_defaults_may_be_cut_and_a_newer_schema_may_add() -> None:
    """An all-default event is a null root; a longer struct keeps its first words' meaning."""
    assert event.decode(struct.pack("<IIQ", 0, 1, 0)) == (0, 0, 0, "", b"", 0, 0, 0)
    words = [5 << 32 | 3 << 48, 7 | 8 << 16 | 9 << 32, 10, 11, 12, 0xFFFF, 0, 0, 0]
    newer = struct.pack(f"<II{len(words)}Q", 0, len(words), *words)
    assert event.decode(newer) == (7, 8, 9, "", b"", 10, 11, 12)
    shorter = struct.pack("<IIQQ", 0, 2, 1 << 32, 7)
    assert event.decode(shorter) == (7, 0, 0, "", b"", 0, 0, 0)


@pytest.mark.parametrize(
    ("word", "value", "problem"),
    [
        (0, 1 | 11 << 32, "one segment"),
        (0, 99 << 32, "one segment"),
        (1, 2 | 4 << 32, "not a struct"),
        (1, 0xFFFFFFFC & (-9 << 2) | 4 << 32, "leaves"),
        (1, 4 << 32 | 0xFFFF << 48, "leaves"),
        (6, 2 | 1 << 32, "entityId"),
        (6, 1 | 2 << 32 | (2**29 - 1) << 35, "entityId"),
        (6, 1 | 5 << 32 | 1 << 35, "entityId"),
        (6, 1 | 2 << 32, "NUL"),
        (7, 3, "body"),
        (7, 0xFFFFFFFC & (-40 << 2) | 1 | 2 << 32 | 1 << 35, "body"),
    ],
)
def test_hostile_pointers_are_refused(word: int, value: int, problem: str) -> None:
    data = bytearray(event.encode(*SAMPLE))
    struct.pack_into("<Q", data, 8 * word, value)
    with pytest.raises(RecordError, match=problem):
        event.decode(bytes(data))


def test_a_text_that_is_not_utf8_is_refused() -> None:
    data = event.encode(*SAMPLE).replace(b"meter0", b"meter\xff")
    with pytest.raises(RecordError, match="UTF-8"):
        event.decode(data)


def test_every_truncation_is_refused() -> None:
    data = event.encode(*SAMPLE)
    for size in range(len(data)):
        with pytest.raises(RecordError):
            event.decode(data[:size])


def test_a_number_too_large_for_its_field_is_refused() -> None:
    with pytest.raises(OverflowError):
        event.encode(65536, 0, 0, "", b"", 0, 0, 0)

"""Messages and frames: what goes in comes out, and everything else is a WireError."""

import re
import zlib
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgesync_transport import messages, wire
from edgesync_transport.messages import Bye, Codec, Message, RefuseCode
from edgesync_transport.wire import UnknownMessage, WireError, WireLimits, decode, encode
from tests.transport.samples import (
    ACK,
    BATCH,
    BYE,
    GAP,
    HELLO,
    NACK,
    PULL,
    REFUSED,
    SAMPLES,
    WELCOME,
)

pytestmark = pytest.mark.feature("K3")


def build(kind: str, **fields: Any) -> bytes:
    """Return a control frame with `fields` as a hostile or newer peer might set them."""
    control = wire._schema().Control.new_message()
    body = control.init(kind)
    for name, value in fields.items():
        setattr(body, name, value)
    return bytes(control.to_bytes())


@pytest.mark.parametrize("name", SAMPLES)
def test_what_is_encoded_is_decoded(name: str) -> None:
    assert decode(encode(SAMPLES[name])) == SAMPLES[name]


def test_every_message_has_a_sample() -> None:
    assert {type(sample) for sample in SAMPLES.values()} == set(wire.KINDS)


def test_schema_and_messages_have_the_same_fields() -> None:
    schema = Path(wire.__file__).parent / "schema" / "link.capnp"
    structs = dict(re.findall(r"^struct (\w+) \{(.*?)^\}", schema.read_text(), re.M | re.S))
    classes: list[type[msgspec.Struct]] = [messages.LaneOffer, messages.LaneFloor, messages.Limits]
    for cls in [*wire.KINDS, *classes]:
        name = "Page" if issubclass(cls, messages.Page) else cls.__name__
        found = set(re.findall(r"^  (\w+) @", structs[name], re.M))
        expected = {wire._camel(name) for name in cls.__struct_fields__}
        if "payload" in cls.__struct_fields__:
            expected = (expected - {"payload"}) | {"payloadBytes", "payloadCrc32"}
        assert found == expected


def test_only_what_has_a_payload_has_a_second_frame() -> None:
    frames = {name: len(encode(sample)) for name, sample in SAMPLES.items()}
    two = {name for name, count in frames.items() if count == 2}
    assert two == {
        "batch", "batch_dead", "delta_sync", "delta_sync_grant", "conflict_report", "pull",
        "pull_start", "pull_grant", "tunnel_data", "object_report", "object_listing",
        "object_part",
    }  # fmt: skip


def test_a_part_beyond_the_last_is_refused() -> None:
    with pytest.raises(WireError, match="fullSync: part 2 of 2"):
        encode(msgspec.structs.replace(SAMPLES["full_sync"], part=2, parts=2))


def test_the_payload_frame_is_the_payload_itself() -> None:
    assert encode(BATCH)[1] is BATCH.payload


def test_the_largest_payload_passes_and_one_byte_more_does_not() -> None:
    limit = wire.DEFAULT_LIMITS.payload_bytes
    largest = msgspec.structs.replace(BATCH, payload=bytes(limit))
    assert decode(encode(largest)) == largest
    with pytest.raises(WireError, match="payload of 524289 bytes, limit 524288"):
        encode(msgspec.structs.replace(BATCH, payload=bytes(limit + 1)))
    with pytest.raises(WireError, match="payload of 524289 bytes, limit 524288"):
        decode([encode(BATCH)[0], bytes(limit + 1)])


def test_limits_are_the_callers() -> None:
    small = WireLimits(control_bytes=64, payload_bytes=4)
    with pytest.raises(WireError, match="control frame of 272 bytes, limit 64"):
        decode(encode(HELLO), small)
    with pytest.raises(WireError, match="payload of 14 bytes, limit 4"):
        encode(BATCH, small)


@pytest.mark.parametrize(
    ("frames", "problem"),
    [
        ([], "0 frames"),
        ([b"", b"", b""], "3 frames"),
        ([b""], "not a single Cap'n Proto segment"),
        ([b"\0" * 8], "not a single Cap'n Proto segment"),
        ([b"\1" + b"\0" * 31], "not a single Cap'n Proto segment"),
        ([b"\0\0\0\0\2\0\0\0" + b"\0" * 8], "of 16 bytes claims 2 words"),
        ([b"\0\0\0\0\xff\xff\xff\xff" + b"\0" * 8], "claims 4294967295 words"),
        ([b"\0" * (64 * 1024 + 8)], "limit 65536"),
        ([b"\0\0\0\0\1\0\0\0" + b"\xff" * 8], "control frame: "),
    ],
)
def test_frames_that_hold_no_control_message(frames: list[bytes], problem: str) -> None:
    with pytest.raises(WireError, match=problem):
        decode(frames)


def test_a_kind_of_a_later_version_is_told_apart() -> None:
    frame = bytearray(encode(BYE)[0])
    assert frame[16] == 8, "the discriminant of `bye` is the first data word"
    frame[16] = 200
    with pytest.raises(UnknownMessage):
        decode([bytes(frame)])


@pytest.mark.parametrize(
    ("frame", "problem"),
    [
        (build("ack", incarnation=b"x" * 15), "ack.incarnation: 15 bytes, must be 16"),
        (build("ack", incarnation=b"x" * 17), "ack.incarnation: 17 bytes, must be 16"),
        (build("ack", incarnation=b"x" * 16, lane=3), "ack.lane: 3 is no Lane"),
        (build("nack", incarnation=b"x" * 16, code=0), "nack.code: 0 is no NackCode"),
        (
            build("pull", keyspace=b"x" * 16, wants=[b"k"] * 65),
            "pull.wants: 65 keys, limit 64",
        ),
        (
            build("pull", keyspace=b"x" * 16, wants=[b"k", b"k" * 513]),
            "pull.wants: a key of 513 bytes, limit 512",
        ),
        (build("bye", reason="x" * 1025), "bye.reason: text over 1024 bytes"),
        (build("bye", reason="é" * 513), "bye.reason: text over 1024 bytes"),
        (build("refused", retryAfterS=-1.0), "refused.retryAfterS: -1.0 is no duration"),
        (build("refused", retryAfterS=float("nan")), "nan is no duration"),
        (build("refused", retryAfterS=float("inf")), "inf is no duration"),
        (build("batch", incarnation=b"x" * 16, first=2, last=1), "records 2 .. 1"),
        (build("batch", incarnation=b"x" * 16, first=0, last=1), "records 0 .. 1"),
        (build("hello", incarnation=b"x" * 16, lanes=[{}] * 2), "hello.lanes: 2 lanes, must be 3"),
        (build("hello", incarnation=b"x" * 16, lanes=[{}] * 4), "hello.lanes: 4 lanes, must be 3"),
        (build("hello", incarnation=b"x" * 16, lanes=[{}] * 3), "protocols 0 .. 0"),
        (
            build(
                "hello",
                incarnation=b"x" * 16,
                lanes=[{}] * 3,
                protocolOldest=2,
                protocolNewest=1,
            ),
            "protocols 2 .. 1",
        ),
    ],
)
def test_values_no_message_may_hold(frame: bytes, problem: str) -> None:
    with pytest.raises(WireError, match=re.escape(problem)):
        decode([frame])


def test_as_many_wants_as_there_may_be_fit() -> None:
    limits = wire.DEFAULT_LIMITS
    most = msgspec.structs.replace(PULL, wants=(b"k" * limits.key_bytes,) * limits.keys)
    assert decode(encode(most)) == most
    with pytest.raises(WireError, match="65 keys, limit 64"):
        encode(msgspec.structs.replace(PULL, wants=(b"k",) * 65))


def test_one_blob_that_every_key_points_at_is_not_read_again_and_again() -> None:
    """A frame is read as often as it is long: many pointers may lead to the same bytes."""
    keys = (b"k" * 512, *[b"x"] * 63)
    frame, payload = encode(msgspec.structs.replace(PULL, wants=keys))
    words = [int.from_bytes(frame[at : at + 8], "little") for at in range(0, len(frame), 8)]
    # A pointer to a list of bytes: kind 1, its distance in words; size 2, its length.
    first = next(nth for nth, word in enumerate(words) if word >> 32 == 2 | 512 << 3)
    blob = first + 1 + (words[first] & 0xFFFF_FFFF) // 4
    for nth in range(1, 64):
        words[first + nth] = (blob - first - nth - 1) << 2 | 1 | (2 | 512 << 3) << 32
    with pytest.raises(WireError, match="wants"):
        decode([b"".join(word.to_bytes(8, "little") for word in words), payload])


def test_a_pull_from_before_there_were_wants() -> None:
    frame = build("pull", keyspace=bytes(16), base=5)
    found = decode([frame])
    assert isinstance(found, messages.Pull)
    assert (found.base, found.wants) == (5, ())


def test_text_that_is_not_utf8() -> None:
    frame = encode(Bye(epoch=1, reason="reason"))[0].replace(b"reason", b"rea\xffon")
    with pytest.raises(WireError, match=r"bye\.reason: .*utf-8"):
        decode([frame])


def test_a_list_that_claims_more_than_the_frame_holds() -> None:
    frame = bytearray(encode(HELLO)[0])
    words = [int.from_bytes(frame[at : at + 8], "little") for at in range(8, len(frame), 8)]
    # The list pointer of `lanes` is a composite list (code 7); claim 2^29 - 1 words for it.
    at = next(i for i, word in enumerate(words) if word & 3 == 1 and word >> 32 & 7 == 7)
    words[at] |= (2**29 - 1) << 35
    hostile = bytes(frame[:8]) + b"".join(word.to_bytes(8, "little") for word in words)
    with pytest.raises(WireError, match=r"hello\.lanes"):
        decode([hostile])


def test_a_payload_that_is_not_the_one_announced() -> None:
    control, payload = encode(BATCH)
    with pytest.raises(WireError, match="CRC-32"):
        decode([control, payload[:-1] + b"S"])
    with pytest.raises(WireError, match="payload of 13 bytes, claimed 14"):
        decode([control, payload[:-1]])
    with pytest.raises(WireError, match="payload of 0 bytes, claimed 14"):
        decode([control])
    with pytest.raises(WireError, match="payload of 0 bytes, claimed 0"):
        decode([encode(GAP)[0], b""])
    with pytest.raises(WireError, match="a second frame, which this kind never has"):
        decode([encode(ACK)[0], b"more"])


def test_a_gap_carries_no_payload() -> None:
    with pytest.raises(WireError, match="a GAP has no payload"):
        encode(msgspec.structs.replace(BATCH, codec=Codec.GAP))
    frame = build(
        "batch",
        incarnation=b"x" * 16,
        first=1,
        last=1,
        codec=int(Codec.GAP),
        payloadBytes=2,
        payloadCrc32=zlib.crc32(b"no"),
    )
    with pytest.raises(WireError, match="a GAP has no payload"):
        decode([frame, b"no"])


def test_what_only_a_hub_has_in_its_log_is_on_no_wire() -> None:
    with pytest.raises(WireError, match="only the log of a hub has"):
        encode(msgspec.structs.replace(BATCH, codec=Codec.PROPOSAL))
    frame = build(
        "batch", incarnation=b"x" * 16, first=1, last=1, codec=int(Codec.PROPOSAL),
        payloadBytes=2, payloadCrc32=zlib.crc32(b"no"),
    )  # fmt: skip
    with pytest.raises(WireError, match="only the log of a hub has"):
        decode([frame, b"no"])


def test_a_refusal_with_a_code_of_a_later_version_still_refuses() -> None:
    decoded = decode([build("refused", nonce=7, code=999, reason="because")])
    assert decoded == msgspec.structs.replace(
        REFUSED, code=RefuseCode.UNAVAILABLE, reason="because", retry_after_s=0.0
    )


def test_a_long_text_is_cut_at_a_whole_character() -> None:
    decoded = decode(encode(msgspec.structs.replace(NACK, reason="x" + "é" * 2000)))
    assert isinstance(decoded, messages.Nack)
    assert decoded.reason == "x" + "é" * 511


def test_a_text_python_cannot_encode_does_not_stop_the_message() -> None:
    decoded = decode(encode(Bye(epoch=1, reason="file \udcff.db")))
    assert decoded == Bye(epoch=1, reason="file ?.db")


@pytest.mark.parametrize(
    "bad",
    [
        Bye(epoch=-1),
        Bye(epoch=2**64),
        msgspec.structs.replace(ACK, incarnation=b"short"),
        msgspec.structs.replace(WELCOME, heartbeat_s=float("nan")),
        msgspec.structs.replace(WELCOME, clock_ns=2**63),
        msgspec.structs.replace(HELLO, lanes=HELLO.lanes[:2]),
        msgspec.structs.replace(HELLO, protocol_newest=65_536),
        msgspec.structs.replace(BATCH, first=0),
    ],
)
def test_a_message_that_only_a_bug_can_make_is_refused_before_it_leaves(bad: Message) -> None:
    with pytest.raises(WireError):
        encode(bad)


def test_a_longer_struct_of_a_later_version_is_read(tmp_path: Path) -> None:
    """New fields at the end of a struct are skipped, as the schema's comment promises."""
    import capnp

    text = (Path(wire.__file__).parent / "schema" / "link.capnp").read_text()
    later = tmp_path / "later.capnp"
    text = text.replace("@0xe2b6a1f0c53d9487", "@0xe2b6a1f0c53d9488")
    last = next(line for line in text.splitlines() if "spreadS @2" in line)
    later.write_text(text.replace(last, f"{last}\n  more @3 :Text;\n  n @4 :UInt64;"))
    control = capnp.load(str(later)).Control.new_message()
    body = control.init("bye")
    body.epoch, body.reason, body.more, body.n = 41, BYE.reason, "what comes later", 5
    assert decode([bytes(control.to_bytes())]) == BYE

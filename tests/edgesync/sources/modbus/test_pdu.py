"""Frames and answers: hand-made bytes, the checks against the request, and noise."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgesync.sources.modbus.pdu import (
    BadAnswer,
    DeviceException,
    Frame,
    FrameReader,
    Garbage,
    Request,
    decode_answer,
    decode_request,
    encode_answer,
    encode_exception,
    encode_request,
)
from tests.fuzz.fuzz import attack
from tests.fuzz.targets_modbus import TARGETS

READ = Request(unit_id=17, table="holding", address=0x6B, count=3)


@pytest.mark.parametrize(
    ("request_", "pdu"),
    [
        # The examples of the Modbus Application Protocol V1.1b3, 6.1 to 6.4.
        (Request(17, "coil", 0x13, 0x13), "0100130013"),
        (Request(17, "discrete", 0xC4, 0x16), "0200C40016"),
        (READ, "03006B0003"),
        (Request(17, "input", 8, 1), "0400080001"),
    ],
)
@pytest.mark.feature("K4")
def test_requests_are_those_of_the_specification(request_: Request, pdu: str) -> None:
    frame = encode_request(request_, 0x1234)
    assert frame == bytes.fromhex("1234 0000 0006 11" + pdu)
    [read] = FrameReader().feed(frame)
    assert decode_request(read) == request_


def answer(pdu: str, unit_id: int = 17) -> Frame:
    return Frame(1, unit_id, bytes.fromhex(pdu))


def test_answers_are_those_of_the_specification() -> None:
    assert decode_answer(answer("0306022B00000064"), READ) == [0x022B, 0, 0x64]
    coils = Request(17, "coil", 0x13, 0x13)
    bits = decode_answer(answer("0103CD6B05"), coils)
    assert bits == [1, 0, 1, 1, 0, 0, 1, 1, 1, 1, 0, 1, 0, 1, 1, 0, 1, 0, 1]


@pytest.mark.parametrize(
    "pdu",
    [
        "0406022B00000064",  # another function
        "0304022B0000",  # too few registers
        "0308022B000000640000",  # too many
        "0306022B0000",  # announced more than sent
        "0306022B0000006400",  # sent more than announced
        "840200",  # an exception of another function
    ],
)
@pytest.mark.feature("C17")
def test_an_answer_to_something_else_is_refused(pdu: str) -> None:
    with pytest.raises(BadAnswer):
        decode_answer(answer(pdu), READ)


def test_another_units_answer_is_refused_unless_the_profile_allows_it() -> None:
    good = answer("0306022B00000064", unit_id=1)
    with pytest.raises(BadAnswer, match="unit 1 answered for unit 17"):
        decode_answer(good, READ)
    assert decode_answer(good, READ, any_unit_id=True) == [0x022B, 0, 0x64]


def test_an_exception_keeps_its_code_and_name() -> None:
    with pytest.raises(DeviceException, match=r"exception 6 \(device busy\)") as caught:
        decode_answer(answer("8306"), READ)
    assert caught.value.code == 6
    [frame] = FrameReader().feed(encode_request(READ, 5))
    [refused] = FrameReader().feed(encode_exception(frame, 2))
    assert (refused.transaction, refused.unit_id, refused.pdu) == (5, 17, b"\x83\x02")


@pytest.mark.parametrize(
    "header", ["0001 0001 0006 11 0306", "0001 0000 0002 11 03", "0001 0000 00FF 11 0306"]
)
def test_an_impossible_header_is_garbage(header: str) -> None:
    with pytest.raises(Garbage):
        list(FrameReader().feed(bytes.fromhex(header)))


@pytest.mark.parametrize(
    ("pdu", "code"),
    [("0600010002", 1), ("0300000000", 3), ("030000007E", 3), ("03000000", 3), ("0100010FFF", 3)],
)
def test_a_server_refuses_what_no_request_may_ask(pdu: str, code: int) -> None:
    with pytest.raises(DeviceException) as caught:
        decode_request(answer(pdu))
    assert caught.value.code == code


@given(st.lists(st.integers(0, 65535), min_size=1, max_size=125), st.integers(1, 65535))
def test_registers_survive_the_way_there_and_back(words: list[int], transaction: int) -> None:
    request = Request(9, "input", 5, len(words))
    [frame] = FrameReader().feed(encode_answer(request, words, transaction))
    assert frame.transaction == transaction
    assert decode_answer(frame, request) == words


@given(st.lists(st.integers(0, 1), min_size=1, max_size=2000))
def test_bits_survive_the_way_there_and_back(bits: list[int]) -> None:
    request = Request(9, "coil", 5, len(bits))
    [frame] = FrameReader().feed(encode_answer(request, bits, 1))
    assert decode_answer(frame, request) == bits


@given(st.lists(st.integers(0, 65535), min_size=1, max_size=20), st.randoms())
@settings(max_examples=50)
def test_frames_are_found_however_the_stream_is_cut(
    words: list[int], chance: random.Random
) -> None:
    request = Request(9, "input", 5, len(words))
    stream = b"".join(encode_answer(request, words, n) for n in range(1, 6))
    reader, found = FrameReader(), []
    while stream:
        cut = chance.randrange(1, 9)
        found += list(reader.feed(stream[:cut]))
        stream = stream[cut:]
    assert [frame.transaction for frame in found] == [1, 2, 3, 4, 5]
    assert all(decode_answer(frame, request) == words for frame in found)


@pytest.mark.parametrize("extra", [b"", b"\0"])
def test_an_exception_has_two_bytes_whatever_its_header_says(extra: bytes) -> None:
    too_long = bytes.fromhex("0007 0000 0004 11 83 02") + extra
    following = encode_answer(READ, [1, 2, 3], 8)
    reader = FrameReader()
    [refused] = reader.feed(too_long)
    assert (refused.transaction, refused.pdu) == (7, b"\x83\x02")
    assert [frame.transaction for frame in reader.feed(following)] == [8]


@pytest.mark.parametrize(
    ("came", "says"),
    [
        ("11 03 06 022B 0000 0064 C8BA", "RTU over TCP"),
        ("11 83 02 C134 11 83 02 C134", "RTU over TCP"),
        (b"login: admin\r\n".hex(), "text came instead of Modbus TCP: 'login: admin'"),
        ("0001 042A 302E 11 0306", "protocol 1066 and length 12334"),
    ],
)
def test_what_is_no_modbus_tcp_is_described(came: str, says: str) -> None:
    with pytest.raises(Garbage, match=says):
        list(FrameReader().feed(bytes.fromhex(came)))


def test_twenty_thousand_hostile_answers_are_all_named() -> None:
    tally = attack(TARGETS[0], 20_000, seed=1)
    assert tally.accepted > 1000
    assert tally.refused > 1000

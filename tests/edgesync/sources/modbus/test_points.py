"""Registers to values, by hand-made vectors: types, byte orders, markers, exact decimals."""

import math
import struct
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesync.model import Value
from edgesync.sources.modbus.layout import resolve
from edgesync.sources.modbus.points import Point, byte_order, decode_point, encode_point
from edgesync.sources.modbus.settings import ModbusDeviceSettings, PointSettings


def point(**fields: object) -> Point:
    """Resolve one point as a device's settings would."""
    settings = PointSettings(name="X", address=0, **fields)  # type: ignore[arg-type]
    device = ModbusDeviceSettings(name="d", host="h", points=(settings,))
    return resolve(device, None).points[0]


def value(words: list[int], **fields: object) -> Value | None:
    data = struct.pack(f">{len(words)}H", *words)
    [(key, found)] = decode_point(point(**fields), data, 0)
    assert key == "X"
    return found


@pytest.mark.parametrize(
    ("kind", "words", "expected"),
    [
        ("int16", [0xFFFE], -2), ("uint16", [0xFFFE], 65534),
        ("int32", [0xFFFF, 0xFFFE], -2), ("uint32", [0x0001, 0x0002], 65538),
        ("int64", [0xFFFF] * 4, -1), ("uint64", [0, 0, 1, 2], 65538),
        ("uint64", [0x8000, 0, 0, 0], None),  # past the largest a series can hold
        ("float16", [0x3C00], 1.0), ("float16", [0x4D29], 20.64),
        ("float32", [0x4366, 0x199A], 230.1), ("float32", [0x42F6, 0xE979], 123.456),
        ("float64", [0x406C, 0xC333, 0x3333, 0x3333], 230.1),
        ("bool", [0], False), ("bool", [0x0100], True),
        ("bcd", [0x1234], 1234), ("bcd", [0x123A], None),
        ("bits", [0x8001], 0x8001), ("enum", [7], "7"),
    ],
)  # fmt: skip
def test_each_type_is_read_as_its_definition_says(
    kind: str, words: list[int], expected: Value | None
) -> None:
    found = value(words, type=kind)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("order", "shown"),
    [
        ({}, "ABCD"),
        ({"word_order": "little"}, "CDAB"),
        ({"byte_order": "little"}, "BADC"),
        ({"word_order": "little", "byte_order": "little"}, "DCBA"),
    ],
)
@pytest.mark.feature("C17")
def test_all_four_orders_of_32_bits(order: dict[str, str], shown: str) -> None:
    words = struct.unpack(">2H", bytes(ord(c) - ord("A") + 1 for c in shown))
    assert value(list(words), type="uint32", **order) == 0x01020304


@pytest.mark.parametrize(
    ("order", "shown"),
    [
        ({}, "ABCDEFGH"),
        ({"word_order": "little"}, "GHEFCDAB"),
        ({"byte_order": "little"}, "BADCFEHG"),
        ({"word_order": "little", "byte_order": "little"}, "HGFEDCBA"),
        ({"dword_order": "little", "word_order": "big"}, "EFGHABCD"),
        ({"dword_order": "big", "word_order": "little"}, "CDABGHEF"),
        ({"dword_order": "little", "word_order": "big", "byte_order": "little"}, "FEHGBADC"),
        ({"dword_order": "big", "word_order": "little", "byte_order": "little"}, "DCBAHGFE"),
    ],
)
@pytest.mark.feature("C17")
def test_all_orders_of_64_bits(order: dict[str, str], shown: str) -> None:
    words = struct.unpack(">4H", bytes(ord(c) - ord("A") + 1 for c in shown))
    assert value(list(words), type="uint64", **order) == 0x0102030405060708


@pytest.mark.parametrize(
    ("raw", "scale", "offset", "expected"),
    [
        (2301, 0.1, None, 230.1), (3, 0.1, None, 0.3), (1, 0.001, None, 0.001),
        (65534, 0.01, None, 655.34), (7, 0.1, 0.2, 0.9), (2301, None, -273.15, 2027.85),
        (5, 10.0, None, 50), (5, 2.0, 1.0, 11), (1, 1 / 3, None, 1 / 3),
    ],
)  # fmt: skip
def test_scaled_values_are_the_exact_decimal(
    raw: int, scale: float | None, offset: float | None, expected: float
) -> None:
    found = value([raw], scale=scale, offset=offset)
    assert found == expected
    assert repr(found) == repr(expected)


@given(st.integers(0, 65535), st.sampled_from([1, 2, 3, 4]))
def test_a_scale_of_a_power_of_ten_prints_as_the_shifted_digits(raw: int, digits: int) -> None:
    found = value([raw], scale=10.0**-digits)
    assert found == float(f"{raw}e-{digits}")


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("int16", [0x8000]), ("uint16", [0xFFFF]), ("int32", [0x8000, 0]),
        ("uint32", [0xFFFF, 0xFFFF]), ("int64", [0x8000, 0, 0, 0]), ("uint64", [0xFFFF] * 4),
        ("float32", [0x7FC0, 0]), ("float32", [0x7F80, 0]), ("float64", [0x7FF8, 0, 0, 0]),
        ("float16", [0x7E00]), ("enum", [0xFFFF]), ("bits", [0xFFFF]),
    ],
)  # fmt: skip
@pytest.mark.feature("C17")
def test_not_implemented_has_no_value(kind: str, words: list[int]) -> None:
    assert value(words, type=kind, invalid="sunspec") is None


def test_a_sleeping_inverter_shows_no_6553_volts() -> None:
    assert value([0xFFFF], scale=0.1, invalid=(0xFFFF,)) is None
    assert value([0xFFFF], scale=0.1) == 6553.5, "only the profile can know"


def test_markers_may_be_given_signed_or_unsigned() -> None:
    assert value([0x8000], type="int16", invalid=(-32768,)) is None
    assert value([0x8000], type="int16", invalid=(0x8000,)) is None
    assert value([0x7FFF, 0xFFFF], type="int32", invalid=(0x7FFFFFFF,)) is None


def test_a_value_outside_its_range_has_none() -> None:
    assert value([1001], scale=0.1, min=0.0, max=100.0) is None
    assert value([1000], scale=0.1, min=0.0, max=100.0) == 100.0


def test_a_string_ends_at_zero_and_is_none_when_all_zero() -> None:
    words = list(struct.unpack(">4H", b"AB-12 \0x"))
    assert value(words, type="string", length=4) == "AB-12"
    assert value([0] * 4, type="string", length=4) is None
    swapped = list(struct.unpack(">2H", b"BADC"))
    assert value(swapped, type="string", length=2, byte_order="little") == "ABCD"
    assert value([0xFFFF] * 4, type="string", length=4) is None
    assert value([0x47FC, 0x6E00], type="string", length=2) == "Gün"


def test_an_enum_is_its_name_and_an_unknown_number_is_kept() -> None:
    names = {"0": "off", "0x10": "running"}
    assert value([16], type="enum", enum=names) == "running"
    assert value([5], type="enum", enum=names) == "5"


def test_named_bits_are_one_series_each() -> None:
    flags = point(type="bits", length=2, bits={"0": "A", "17": "B"})
    found = list(decode_point(flags, bytes.fromhex("00020000"), 0))
    assert found == [("X.A", False), ("X.B", True)]
    assert flags.series() == ("X.A", "X.B")


def test_a_bit_of_a_register_is_a_view() -> None:
    assert value([0b1000], type="bool", bit=3) is True
    assert value([0b0111], type="bool", bit=3) is False


@pytest.mark.parametrize(
    ("factor", "expected"),
    [(0, 2301.0), (0xFFFF, 230.1), (0xFFFE, 23.01), (2, 230100.0), (0x8000, None), (11, None)],
)
@pytest.mark.feature("C17")
def test_a_scale_factor_register_is_an_exponent_of_ten(factor: int, expected: float | None) -> None:
    scaled, exponent = point(sf=None), point(type="int16")
    data = struct.pack(">HH", 2301, factor)
    at_one = Point(name="Sf", table="holding", address=1, words=1, type="int16", group="slow")
    found = dict(decode_point(scaled, data, 0, at_one))
    assert found == {"X": expected}
    assert exponent.type == "int16"


NUMBERS = st.sampled_from(["int16", "uint16", "int32", "uint32", "int64", "uint64"])
ORDERS = st.sampled_from(["big", "little"])


@given(NUMBERS, ORDERS, ORDERS, ORDERS, st.data())
def test_encoding_is_the_inverse_of_decoding(
    kind: str, word: str, byte: str, dword: str, data: st.DataObject
) -> None:
    bits = int(kind.lstrip("uint"))
    low, high = (0, 2**bits) if kind[0] == "u" else (-(2 ** (bits - 1)), 2 ** (bits - 1))
    number = data.draw(st.integers(low, min(high, 2**63) - 1))
    fields = {"type": kind, "word_order": word, "byte_order": byte}
    if bits == 64:
        fields["dword_order"] = dword
    assert value(encode_point(point(**fields), number), **fields) == number


@given(st.floats(width=32, allow_nan=False, allow_infinity=False), ORDERS)
def test_a_float32_becomes_its_shortest_decimal_and_back(number: float, word: str) -> None:
    words = encode_point(point(type="float32", word_order=word), number)
    found = value(words, type="float32", word_order=word)
    assert isinstance(found, float)
    assert struct.pack(">f", found) == struct.pack(">f", number)
    digits = [len(Decimal(repr(one)).normalize().as_tuple().digits) for one in (found, number)]
    assert digits[0] <= digits[1]


def test_the_largest_float32_stays_finite() -> None:
    found = value([0x7F7F, 0xFFFF], type="float32")
    assert isinstance(found, float)
    assert math.isfinite(found)


def test_a_product_beyond_all_floats_has_no_value() -> None:
    assert value([0x7FEF, 0xFFFF, 0xFFFF, 0xFFFF], type="float64", scale=10.0) is None
    assert value([0xFFFF] * 4, type="uint64", scale=1e15) is None


@pytest.mark.parametrize("words", [1, 2, 4])
def test_every_order_is_a_permutation_of_the_bytes(words: int) -> None:
    for word in ("big", "little"):
        for byte in ("big", "little"):
            for dword in ("big", "little"):
                order = byte_order(words, word=word, dword=dword, byte=byte)
                assert order == () or sorted(order) == list(range(2 * words))


def test_a_scale_is_kept_as_the_decimal_that_was_written() -> None:
    assert point(scale=0.1).scale == Fraction(1, 10)

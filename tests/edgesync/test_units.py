"""Durations and sizes: what is read, and what a typo is told."""

import msgspec
import pytest

from edgesync.units import Bytes, Period, Seconds, dec_hook, enc_hook, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("500ms", 0.5), ("100ms", 0.1), ("30s", 30.0), ("5m", 300.0), ("5 min", 300.0),
        ("1h", 3600.0), ("7d", 604800.0), ("1.5 s", 1.5), (2, 2.0), (0.25, 0.25), ("0s", 0.0),
    ],
)  # fmt: skip
def test_a_duration_is_text_with_a_unit_or_seconds(text: str | float, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "size"),
    [("128mb", 128_000_000), ("64 MiB", 64 << 20), ("2g", 2 << 30), ("10KB", 10_000), (7, 7)],
)
def test_a_size_counts_in_thousands_or_in_1024(text: str | int, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "bad", ["", "s", "5", "5 parsec", "-1s", "1s 2ms", "1e3s", -1, True, "9999d"]
)
def test_a_wrong_duration_is_refused(bad: str | float) -> None:
    with pytest.raises(ValueError, match=r"duration|unit of time"):
        parse_duration(bad)


@pytest.mark.parametrize("bad", ["", "mb", "5", "5 parsec", "-1kb", -1, True, 1.5, "99999 tb"])
def test_a_wrong_size_is_refused(bad: str | int) -> None:
    with pytest.raises(ValueError, match=r"size|unit of size"):
        parse_size(bad)


class Sample(msgspec.Struct, frozen=True):
    every: Period
    wait: Seconds = Seconds("100ms")
    limit: Bytes = Bytes("1 MiB")


def test_a_struct_reads_and_writes_them() -> None:
    sample = msgspec.convert({"every": "1s", "limit": "2kb"}, Sample, dec_hook=dec_hook)
    assert sample == Sample(every=Period(1), limit=Bytes(2000))
    assert msgspec.to_builtins(sample, enc_hook=enc_hook) == {
        "every": 1.0, "wait": 0.1, "limit": 2000,
    }  # fmt: skip


def test_a_wrong_unit_is_refused_with_the_path_of_the_field() -> None:
    with pytest.raises(msgspec.ValidationError, match=r"known unit of time.*\$\.every"):
        msgspec.convert({"every": "1 parsec"}, Sample, dec_hook=dec_hook)
    with pytest.raises(msgspec.ValidationError, match=r"too short to repeat.*\$\.every"):
        msgspec.convert({"every": 0}, Sample, dec_hook=dec_hook)

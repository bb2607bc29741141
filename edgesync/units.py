"""Durations and sizes as people write them: "500ms", "5m", "7d"; "128mb", "64 MiB".

A settings struct declares a field as `Seconds`, `Period` or `Bytes` and is read with
`msgspec.convert(..., dec_hook=units.dec_hook)`; then text and plain numbers are both accepted and
a wrong unit is refused with the field's path. A plain number is seconds, or bytes.
"""

import re
from typing import Any, Final, Self

# A year of seconds and a pebibyte: larger numbers are a unit forgotten, not an intention.
SECONDS_MAX: Final = 366 * 86400.0
BYTES_MAX: Final = 1 << 50

_NUMBER = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Zµ]*)\s*")

_DURATIONS: Final = {
    "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0,
    "h": 3600.0, "d": 86400.0, "w": 604800.0,
}  # fmt: skip

_SIZES: Final = {
    "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
    "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40,
    "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40,
}  # fmt: skip


def parse_duration(value: float | str) -> float:
    """Return seconds. Raises ValueError naming the units that are allowed."""
    if isinstance(value, str):
        number, unit = _split(value, "a duration", '"500ms", "30s", "5m", "1h", "7d"')
        unit = unit.lower()
        if unit not in _DURATIONS:
            raise ValueError(f"{value!r} has no known unit of time; allowed: {_list(_DURATIONS)}")
        # Dividing by 1000 keeps "100ms" equal to 0.1, multiplying by 0.001 need not.
        scale = _DURATIONS[unit]
        value = number / round(1 / scale) if scale < 1 else number * scale
    elif isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError('a duration is text like "500ms", "30s", "5m" or a number of seconds')
    seconds = float(value)
    if not 0 <= seconds <= SECONDS_MAX:
        raise ValueError(f"{value} is out of range; a duration lies between 0 and 366d")
    return seconds


def parse_size(value: int | str) -> int:
    """Return bytes. "mb" counts in thousands, "MiB" and "M" in 1024. Raises ValueError."""
    if isinstance(value, str):
        number, unit = _split(value, "a size", '"128mb", "64 MiB", "2g"')
        if unit.lower() not in _SIZES:
            raise ValueError(f"{value!r} has no known unit of size; allowed: {_list(_SIZES)}")
        value = round(number * _SIZES[unit.lower()])
    elif isinstance(value, bool) or not isinstance(value, int):
        raise ValueError('a size is text like "128mb", "64 MiB" or a whole number of bytes')
    if not 0 <= value <= BYTES_MAX:
        raise ValueError(f"{value} is out of range; a size lies between 0 and 1024 TiB")
    return value


def _split(text: str, what: str, examples: str) -> tuple[float, str]:
    match = _NUMBER.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not {what}; write it like {examples}")
    return float(match[1]), match[2]


def _list(units: dict[str, Any]) -> str:
    return ", ".join(units)


class Seconds(float):
    """A duration in seconds, zero or more; made from "500ms", "5m" or a number of seconds."""

    def __new__(cls, value: float | str) -> Self:
        return super().__new__(cls, parse_duration(value))


class Period(Seconds):
    """A duration of at least a millisecond: something that repeats."""

    def __new__(cls, value: float | str) -> Self:
        period = super().__new__(cls, value)
        if period < 0.001:
            raise ValueError(f"{value!r} is too short to repeat; the least is 1ms")
        return period


class Bytes(int):
    """A size in bytes; made from "128mb", "64 MiB" or a whole number."""

    def __new__(cls, value: int | str) -> Self:
        return super().__new__(cls, parse_size(value))


def dec_hook(kind: type[Any], value: Any) -> Any:
    """Let msgspec read the types above."""
    if issubclass(kind, Seconds | Bytes):
        return kind(value)
    raise NotImplementedError(kind)


def enc_hook(value: Any) -> Any:
    """Let msgspec write the types above, as plain numbers."""
    if isinstance(value, Seconds):
        return float(value)
    if isinstance(value, Bytes):
        return int(value)
    raise NotImplementedError(type(value))

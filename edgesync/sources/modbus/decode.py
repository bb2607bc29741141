"""A block's reply into values, compiled once and run every poll.   [sans-IO]

Most points are whole numbers in the usual order with a constant scale: one `struct` call reads all
of a block, and each costs a multiplication and a division. What needs more (floats, strings, scale
factors, other orders) is decoded by `points.decode_point`, which says what the value is.
"""

import itertools
import math
import struct
from collections.abc import Iterable, Mapping
from typing import Final

from edgesync.model import Value
from edgesync.sources.modbus.points import INTEGERS, Point, decode_bit, decode_point

_I64_MAX: Final = (1 << 63) - 1


class BlockReader:
    """Reads the points of one request, in their order; see the module.

    keys   the series that `read` gives values of
    """

    def __init__(
        self, address: int, count: int, points: Iterable[tuple[Point, Point | None]]
    ) -> None:
        self._start = address
        self._end = address + count
        self._points = tuple(points)
        self.keys = tuple(key for point, _ in self._points for key in point.series())
        self.is_plain = bool(self._points) and all(_is_plain(*one) for one in self._points)
        if self.is_plain:
            self._compile([point for point, _ in self._points])

    def __eq__(self, other: object) -> bool:
        """Readers follow from the blocks they belong to, which are compared instead."""
        return isinstance(other, BlockReader)

    def __hash__(self) -> int:
        return 0

    def read(self, data: bytes, far: Mapping[str, bytes]) -> list[Value | None]:
        """Return a value for each of `keys`, None where the device has none.

        data   the data bytes of the whole reply
        far    the registers of scale factors that other requests brought
        """
        if not self.is_plain:
            return self._read_each(data, far)
        values: list[Value | None] = list(
            map(_linear, self._unpack(data), self._factors, self._shifts, self._divisors)
        )
        for index, markers, low, high in self._checks:
            raw = self._raw(data, index)
            value = values[index]
            assert isinstance(value, int | float)
            if raw in markers or not low <= value <= high:
                values[index] = None
        return values

    def _compile(self, points: list[Point]) -> None:
        self._structs = [
            (struct.Struct(INTEGERS[point.type]), (point.address - self._start) * 2)
            for point in points
        ]
        linears = [point.linear or (1, 0, 1) for point in points]
        self._factors = [factor for factor, _, _ in linears]
        self._shifts = [shift for _, shift, _ in linears]
        self._divisors = [divisor for _, _, divisor in linears]
        in_order = all(a.end <= b.address for a, b in itertools.pairwise(points))
        self._whole = struct.Struct(_format(points, self._start)) if in_order else None
        self._checks: list[tuple[int, frozenset[int], float, float]] = []
        for index, point in enumerate(points):
            is_whole = self._divisors[index] == 1
            low = (-_I64_MAX - 1 if is_whole else -math.inf) if point.low is None else point.low
            high = (_I64_MAX if is_whole else math.inf) if point.high is None else point.high
            if point.invalid or point.low is not None or point.high is not None or _may_pass(point):
                patterns = frozenset(m for m in point.invalid if isinstance(m, int))
                self._checks.append((index, patterns, low, high))

    def _unpack(self, data: bytes) -> Iterable[int]:
        if self._whole is not None:
            return self._whole.unpack_from(data)
        return [one.unpack_from(data, at)[0] for one, at in self._structs]

    def _raw(self, data: bytes, index: int) -> int:
        one, at = self._structs[index]
        return int.from_bytes(data[at : at + one.size], "big")

    def _read_each(self, data: bytes, far: Mapping[str, bytes]) -> list[Value | None]:
        values: list[Value | None] = []
        for point, factor in self._points:
            if point.is_bit_table:
                values.append(decode_bit(point, data, self._start)[1])
                continue
            raw = None
            if factor is not None and not self._holds(point, factor):
                raw = far.get(factor.name)
                if raw is None:
                    values.extend(None for _ in point.series())
                    continue
            found = decode_point(point, data, self._start, factor, raw)
            values.extend(value for _, value in found)
        return values

    def _holds(self, point: Point, factor: Point) -> bool:
        is_here = self._start <= factor.address and factor.end <= self._end
        return is_here and factor.table == point.table


def _linear(raw: int, factor: int, shift: int, divisor: int) -> int | float:
    # The type of a series must not depend on its value: only the constants decide it.
    return (raw * factor + shift) / divisor if divisor != 1 else raw * factor + shift


def _is_plain(point: Point, factor: Point | None) -> bool:
    return point.type in INTEGERS and factor is None and not point.order and not point.is_bit_table


def _may_pass(point: Point) -> bool:
    """Tell whether whole values of `point` may be beyond 64 bits."""
    factor, shift, divisor = point.linear or (1, 0, 1)
    if divisor != 1:
        return False
    most = (1 << 16 * point.words) - 1
    return most * abs(factor) + abs(shift) > _I64_MAX


def _format(points: list[Point], start: int) -> str:
    parts, at = [">"], start
    for point in points:
        parts.append("xx" * (point.address - at) + INTEGERS[point.type][1:])
        at = point.end
    return "".join(parts)

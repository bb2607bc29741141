"""Columns of readings, and the rows they are kept in: raw, or some hundred as an ESB1 block.

A row is `is it a block u8 | 3 bytes | readings u32 | earliest i64 | latest i64`, and either the
block, or the times and then the values.
"""

import array
import struct
from collections.abc import Iterable
from typing import Final, cast

from edgesync._native import block
from edgesync._native.points import Part, parts

PIECE: Final = struct.Struct("<BxxxIqq")

Times = array.array  # of "q"
Values = array.array  # of "d"


def joined(found: Iterable[Part]) -> tuple["Times[int]", "Times[int]", "Values[float]"]:
    """Return places, times and values of all of them, for `parts`."""
    places, times, values = array.array("I"), array.array("q"), array.array("d")
    for part in found:
        places.extend([part.place] * len(part))
        times += part.times
        values += part.values
    return places, times, values


def part_of(times: "Times[int]", values: "Values[float]") -> Part:
    """Return readings of one series as a part, of the place 0."""
    return parts(array.array("I", bytes(4 * len(times))), times, values, 1)[0]


def packed(part: Part) -> bytes:
    """Return the row of some raw readings."""
    head = PIECE.pack(0, len(part), part.earliest, part.latest)
    return head + part.times.tobytes() + part.values.tobytes()


def unpacked(row: bytes) -> tuple["Times[int]", "Values[float]"]:
    """Return the times and values of a row of either kind."""
    is_block, points, _, _ = PIECE.unpack_from(row)
    data = row[PIECE.size :]
    if is_block:
        _, _, found_times, found_values = block.decode(data)
        return found_times, cast("Values[float]", found_values)
    times: Times[int] = array.array("q")
    values: Values[float] = array.array("d")
    times.frombytes(data[: 8 * points])
    values.frombytes(data[8 * points :])
    return times, values


def newest_of(
    newest: tuple[int, float] | None, times: "Times[int]", values: "Values[float]"
) -> tuple[int, float] | None:
    """Return the newest of a reading and some more; of one time, the later one in the row."""
    part = part_of(times, values)
    if newest is None or part.latest >= newest[0]:
        return part.latest, part.values[part.newest]
    return newest


def split(part: Part, newest_ns: int) -> tuple[Part | None, Part]:
    """Those up to that time, and those beyond it."""
    is_ahead = array.array("I", [time_ns > newest_ns for time_ns in part.times])
    found = parts(is_ahead, part.times, part.values, 2)
    return (found[0] if len(found) == 2 else None), found[-1]

"""ESB1 read in plain Python, from docs/block-format.md and nothing else: the oracle."""

import struct
from collections.abc import Iterator
from typing import NamedTuple

from tests.native.rowsmith import MASK, crc32c

MINI = 128


class Points(NamedTuple):
    series: int
    vtype: int
    times: list[int]
    values: list[int] | list[bytes]  # the 64 bits of numbers
    stats: tuple[int, tuple[float, ...]] | None


def signed(v: int) -> int:
    v &= MASK
    return v - (1 << 64) if v >> 63 else v


def unzigzag(v: int) -> int:
    return (v >> 1) ^ -(v & 1)


def bits(data: bytes, n: int, width: int) -> list[int]:
    whole = int.from_bytes(data[: (n * width + 7) // 8], "little")
    return [whole >> (j * width) & ((1 << width) - 1) for j in range(n)]


def minis(n: int) -> Iterator[int]:
    for at in range(0, n, MINI):
        yield min(MINI, n - at)


def section(data: bytes, n: int) -> list[int]:
    out: list[int] = []
    for k, count in enumerate(minis(n)):
        base, offset, width, mode, pad = struct.unpack_from("<qIBBH", data, 16 * k)
        assert pad == 0
        area = data[offset:]
        if mode == 0:
            out += [base + u for u in bits(area, count, width)]
            continue
        out.append(base)
        dmin = 0
        if mode == 2:
            dmin = int.from_bytes(area[:8], "little", signed=True)
            area = area[8:]
        for u in bits(area, count - 1, width):
            out.append(out[-1] + (unzigzag(u) if mode == 1 else dmin + u))
    return [signed(x) for x in out]


def varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at


def unlz4(data: bytes) -> bytes:
    """The LZ4 block format: literals, then a match of at least 4 bytes, again and again."""

    def length(nibble: int, at: int) -> tuple[int, int]:
        if nibble == 15:
            while data[at] == 255:
                nibble, at = nibble + 255, at + 1
            nibble, at = nibble + data[at], at + 1
        return nibble, at

    out, at = bytearray(), 0
    while at < len(data):
        token = data[at]
        literals, at = length(token >> 4, at + 1)
        out += data[at : at + literals]
        at += literals
        if at >= len(data):
            break
        back = int.from_bytes(data[at : at + 2], "little")
        size, at = length(token & 15, at + 2)
        for _ in range(size + 4):
            out.append(out[-back])
    return bytes(out)


def unpack(data: bytes) -> bytes:
    size, at = varint(data, 0)
    packed, at = varint(data, at)
    raw = unlz4(data[at : at + packed]) if packed else data[at : at + size]
    assert len(raw) == size
    return raw


def xor(data: bytes, n: int) -> list[int]:
    out: list[int] = []
    for k, count in enumerate(minis(n)):
        value, offset = struct.unpack_from("<QI", data, 16 * k)
        stream, bit = int.from_bytes(data[offset:], "little"), 0
        length = trail = 0
        out.append(value)
        for _ in range(count - 1):
            if stream >> bit & 1:
                if stream >> (bit + 1) & 1:
                    lead = stream >> (bit + 2) & 31
                    length = (stream >> (bit + 7) & 63) + 1
                    trail, bit = 64 - lead - length, bit + 13
                else:
                    bit += 2
                value ^= (stream >> bit & ((1 << length) - 1)) << trail
                bit += length
            else:
                bit += 1
            out.append(value)
    return out


def runs(data: bytes, n: int) -> list[int]:
    out: list[int] = []
    value, at = data[0], 1
    while len(out) < n:
        run, at = varint(data, at)
        out += [value] * run
        value ^= 1
    return out


def numbers(codec: int, data: bytes, n: int, exponent: int, vtype: int) -> list[int]:
    match codec:
        case 0:
            return list(struct.unpack(f"<{n}Q", data))
        case 1:
            return [*struct.unpack("<Q", data)] * n
        case 2:
            whole = section(data, n)
            if vtype:
                return [m & MASK for m in whole]
            return [struct.unpack("<Q", struct.pack("<d", m / 10**exponent))[0] for m in whole]
        case 3:
            (count,) = struct.unpack_from("<H", data)
            words = struct.unpack_from(f"<{count}Q", data, 2)
            return [words[i] for i in bits(data[2 + 8 * count :], n, (count - 1).bit_length())]
        case 4:
            return xor(data, n)
        case 5:
            planes = unpack(data)
            return [int.from_bytes(planes[i::n], "little") for i in range(n)]
        case 6:
            return list(struct.unpack(f"<{n}Q", unpack(data)))
        case 7:
            return bits(data, n, 1)
        case _:
            return runs(data, n)


def texts(codec: int, data: bytes, n: int) -> list[bytes]:
    out: list[bytes] = []
    if codec == 3:
        count, at = varint(data, 0)
        words = []
        for _ in range(count):
            size, at = varint(data, at)
            words.append(data[at : at + size])
            at += size
        return [words[i] for i in bits(data[at:], n, (count - 1).bit_length())]
    size, at = varint(data, 0)
    run, start = unpack(data[at + size :]), 0
    for length in section(data[at : at + size], n):
        out.append(run[start : start + length])
        start += length
    return out


def times_of(codec: int, data: bytes, n: int, first: int, step: int, power: int) -> list[int]:
    match codec:
        case 0:
            return list(struct.unpack(f"<{n}q", data))
        case 1:
            return [signed(first + i * step) for i in range(n)]
        case 2:
            unit = 10**power
            return [first + unit * (i * step // unit + r) for i, r in enumerate(section(data, n))]
        case _:
            return [first + step * q for q in section(data, n)]


def decode(block: bytes) -> Points:
    (
        magic,
        version,
        vtype,
        tcodec,
        vcodec,
        n,
        exponent,
        flags,
        power,
        zero,
        series,
        first,
        step,
        tsize,
        vsize,
        exceptions,
        size,
        body_crc,
        head_crc,
    ) = struct.unpack("<4s4BI4BQqq6I", block[:64])
    assert (magic, version, zero, size) == (b"ESB1", 1, 0, len(block))
    assert (head_crc, body_crc) == (crc32c(block[:60]), crc32c(block[64:]))
    times = times_of(tcodec, block[64 : 64 + tsize], n, first, step, power)
    at = 64 + tsize + vsize
    data = block[64 + tsize : at]
    if vtype == 3:
        return Points(series, vtype, times, texts(vcodec, data, n), None)
    values = numbers(vcodec, data, n, exponent, vtype)
    for _ in range(exceptions):
        index, value = struct.unpack_from("<HQ", block, at)
        values[index] = value
        at += 10
    stats = None
    if flags & 16:
        last, *moments = struct.unpack("<q8d", block[at:])
        stats = (last, tuple(moments))
    return Points(series, vtype, times, values, stats)

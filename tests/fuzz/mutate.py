"""Inputs nobody would send, from inputs somebody did: the usual mutations, from one seed."""

import random
from collections.abc import Sequence

# Edges of the widths that lengths, counts and offsets have.
NUMBERS = [0, 1, 2, 7, 8, 63, 64, 127, 128, 129, 255, 256, 1024, 8191, 8192, 8193, 0x7FFF, 0xFFFF]
NUMBERS += [0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**63 - 1, 2**63, 2**64 - 1]


def flip(data: bytearray, rng: random.Random) -> None:
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def set_byte(data: bytearray, rng: random.Random) -> None:
    data[rng.randrange(len(data))] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))


def set_number(data: bytearray, rng: random.Random) -> None:
    size = rng.choice((1, 2, 4, 8))
    at = rng.randrange(len(data))
    raw = (rng.choice(NUMBERS) & (1 << 8 * size) - 1).to_bytes(size, "little")
    data[at : at + size] = raw[: len(data) - at]


def nudge(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data))
    data[at] = (data[at] + rng.choice((-2, -1, 1, 2))) % 256


def cut(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data))
    del data[at : at + rng.choice((1, 2, 8, len(data)))]


def repeat(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data))
    data[at:at] = data[at : at + rng.randrange(1, 33)]


def insert(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data) + 1)
    data[at:at] = rng.randbytes(rng.randrange(1, 9))


STEPS = (flip, flip, set_byte, set_byte, set_number, set_number, nudge, nudge, cut, repeat, insert)


def mutate(corpus: Sequence[bytes], rng: random.Random) -> bytes:
    """Return a mutated member of the corpus, two of them joined, or (one in 16) plain noise."""
    if rng.randrange(16) == 0:
        return rng.randbytes(rng.randrange(200))
    data = bytearray(rng.choice(corpus))
    if rng.randrange(16) == 0:
        other = rng.choice(corpus)
        data[rng.randrange(len(data) + 1) :] = other[rng.randrange(len(other) + 1) :]
    for _ in range(rng.choice((1, 1, 1, 2, 3, 5))):
        if data:
            rng.choice(STEPS)(data, rng)
    return bytes(data)

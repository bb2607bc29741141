"""Whatever a peer sends, `wire.decode` answers with a message or a WireError, fast and small.

The suite runs 10,000 inputs; EDGESYNC_FUZZ=1000000 asks for more, EDGESYNC_FUZZ_SEED for others.
Inputs are mutated valid messages (three of four) and frames that are random but framed rightly.
"""

import contextlib
import os
import random
import struct

import pytest

from edgesync_transport import wire
from edgesync_transport.messages import Message
from edgesync_transport.wire import WireError, decode, encode
from tests.faults.memory import peak
from tests.transport.samples import SAMPLES

INPUTS = int(os.environ.get("EDGESYNC_FUZZ", "10000"))
SEED = int(os.environ.get("EDGESYNC_FUZZ_SEED", "1"))

# Numbers a length, an offset or a count is likely to be compared with.
ODD_WORDS = [0, 1, 2**16, 2**29 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1]

VALID = [encode(sample) for sample in SAMPLES.values()]


def framed(body: bytes) -> bytes:
    """Put the right header before `body`: what fails then fails behind the first check."""
    body += bytes(-len(body) % 8)
    return struct.pack("<II", 0, len(body) // 8) + body


def mutate(rng: random.Random, frames: list[bytes]) -> list[bytes]:
    frames = list(frames)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        at = rng.randrange(len(frames))
        frames[at] = _mutate_frame(rng, bytearray(frames[at]))
    if rng.random() < 0.05:
        frames.insert(rng.randrange(len(frames) + 1), rng.randbytes(rng.randrange(64)))
    if rng.random() < 0.05:
        frames.pop(rng.randrange(len(frames)))
    return frames


def _mutate_frame(rng: random.Random, frame: bytearray) -> bytes:
    if not frame:
        return rng.randbytes(8)
    at = rng.randrange(len(frame))
    match rng.randrange(6):
        case 0:
            frame[at] ^= 1 << rng.randrange(8)
        case 1:
            frame[at] = rng.randrange(256)
        case 2:
            frame[at & ~7 : (at & ~7) + 8] = struct.pack("<Q", rng.choice(ODD_WORDS))
        case 3:
            del frame[at:]
        case 4:
            body = bytearray(frame[8:])
            cut = rng.randrange(len(body) + 1)
            body[cut:cut] = rng.randbytes(8 * rng.randrange(1, 4))
            return framed(bytes(body))
        case 5:
            # Pointers at each other: loops and overlaps.
            words = [frame[i : i + 8] for i in range(8, len(frame), 8)]
            if words:
                words[rng.randrange(len(words))] = rng.choice(words)
            return framed(b"".join(words))
    return bytes(frame)


def one_input(rng: random.Random) -> list[bytes]:
    if rng.random() < 0.75:
        return mutate(rng, rng.choice(VALID))
    return [framed(rng.randbytes(8 * rng.randrange(1, 64)))]


@pytest.mark.slow
@pytest.mark.feature("K3")
@pytest.mark.timeout(7200)
def test_decode_is_total() -> None:
    rng = random.Random(SEED)
    accepted = decode_many(rng, INPUTS // 10)
    with peak() as memory:
        accepted += decode_many(rng, INPUTS - INPUTS // 10)
    assert memory.grown_kib < 32 * 1024, "memory grows with the number of inputs"
    assert 0 < accepted < INPUTS


def decode_many(rng: random.Random, count: int) -> int:
    """Decode made-up frames; returns how many were messages."""
    accepted = 0
    for number in range(count):
        frames = one_input(rng)
        try:
            message = decode(frames)
        except WireError:
            continue
        except Exception as error:
            shown = [frame.hex() for frame in frames]
            pytest.fail(f"input {number} of seed {SEED}: {error!r}: {shown}")
        accepted += 1
        check_accepted(message)
    return accepted


def check_accepted(message: Message) -> None:
    """What decode let through is a message we could have sent ourselves."""
    assert decode(encode(message)) == message


@pytest.mark.feature("K3")
def test_the_largest_hostile_frame_is_read_in_bounded_time_and_memory() -> None:
    """64 KiB that claim to be half a billion lanes, and 64 KiB of nested pointers."""
    size = wire.DEFAULT_LIMITS.control_bytes - 8
    hello = bytearray(encode(SAMPLES["hello"])[0][8:])
    with peak() as memory:
        for start in range(0, len(hello), 8):
            for word in ODD_WORDS:
                hostile = bytearray(hello + bytes(size - len(hello)))
                hostile[start : start + 8] = struct.pack("<Q", word)
                with contextlib.suppress(WireError):
                    decode([framed(bytes(hostile))])
    assert memory.grown_kib < 16 * 1024

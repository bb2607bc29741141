"""Hostile Modbus answers: every one ends in a named outcome, in bounded memory.

python -m tests.fuzz.modbus_answers 1000000 [SEED]
"""

import random
import sys
import tracemalloc
from collections import Counter

from edgesync.sources.modbus.pdu import (
    BadAnswer,
    DeviceException,
    FrameReader,
    Garbage,
    Request,
    decode_answer,
    encode_answer,
    encode_request,
)
from edgesync.sources.modbus.planner import Block, Planner
from edgesync.sources.modbus.profile import bundled_profiles, load_layout
from edgesync.sources.modbus.settings import ModbusDeviceSettings

MEMORY_BYTES_MAX = 4 << 20


def _blocks() -> list[Block]:
    devices = [
        ModbusDeviceSettings(name=name, host="-", profile=name) for name in bundled_profiles()
    ]
    return [
        block for device in devices for block in Planner(load_layout(device)).plan(["fast", "slow"])
    ]


def _damaged(good: bytes, chance: random.Random) -> bytes:
    data = bytearray(good)
    match chance.randrange(7):
        case 0:
            for _ in range(chance.randrange(1, 6)):
                data[chance.randrange(len(data))] = chance.randrange(256)
        case 1:
            del data[chance.randrange(len(data)) :]
        case 2:
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        case 3:
            data += chance.randbytes(chance.randrange(1, 30))
        case 4:
            return chance.randbytes(chance.randrange(1, 300))
        case 5:
            # A sound header over noise reaches the checks behind it.
            pdu = bytes([chance.choice((1, 2, 3, 4, 0x83, 0x81, 0xFF))]) + chance.randbytes(
                chance.randrange(1, 253)
            )
            return bytes(good[:4]) + (len(pdu) + 1).to_bytes(2, "big") + good[6:7] + pdu
        case _:
            # Any register content in a sound answer.
            data[9:] = chance.randbytes(len(data) - 9)
    return bytes(data)


def one(block: Block, chance: random.Random) -> str:
    """Decode one hostile answer to `block`'s request and name what came of it."""
    request = Request(1, block.table, block.address, block.count)
    assert len(encode_request(request, 1)) == 12
    words = [chance.randrange(2) for _ in range(block.count)]
    data = _damaged(encode_answer(request, words, 1), chance)
    reader = FrameReader()
    cut = chance.randrange(len(data) + 1)
    try:
        frames = [*reader.feed(data[:cut]), *reader.feed(data[cut:])]
        if not frames:
            return "incomplete"
        values = decode_answer(frames[0], request)
    except Garbage:
        return "garbage"
    except BadAnswer:
        return "bad answer"
    except DeviceException:
        return "exception"
    decoded = block.decode(values)
    assert len(decoded) == sum(len(p.series()) for item in block.items for p in item.points)
    return "answer"


def run(inputs: int, seed: int) -> Counter[str]:
    """Run `inputs` hostile answers from `seed` and count the outcomes."""
    chance = random.Random(seed)
    blocks = _blocks()
    return Counter(one(chance.choice(blocks), chance) for _ in range(inputs))


def main() -> None:
    inputs, seed = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0
    run(1000, seed)  # what is built once is not growth
    tracemalloc.start()
    outcomes = run(min(inputs, 50_000), seed)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < MEMORY_BYTES_MAX, f"{peak} bytes"
    outcomes += run(max(inputs - 50_000, 0), seed + 1)
    print(f"seed {seed}: {sum(outcomes.values())} inputs, {dict(outcomes)}, peak {peak} bytes")


if __name__ == "__main__":
    main()

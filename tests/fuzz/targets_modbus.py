"""What comes from a Modbus device, and the profiles users write."""

import random

from edgesync.errors import ConfigError
from edgesync.sources.modbus.layout import resolve
from edgesync.sources.modbus.pdu import (
    BadAnswer,
    DeviceException,
    FrameReader,
    Garbage,
    Request,
    answer_data,
    encode_answer,
    encode_exception,
)
from edgesync.sources.modbus.planner import Block, Planner
from edgesync.sources.modbus.profile import bundled_profiles, load_layout, parse_profile
from edgesync.sources.modbus.settings import ModbusDeviceSettings
from tests.fuzz.fuzz import Target

HEADER_BYTES = 6


class IncompleteError(Exception):
    """The answer goes on in bytes that did not come."""


def _blocks() -> list[Block]:
    devices = [
        ModbusDeviceSettings(name=name, host="-", profile=name) for name in bundled_profiles()
    ]
    return [
        block for device in devices for block in Planner(load_layout(device)).plan(["fast", "slow"])
    ]


BLOCKS = _blocks()


def _request(index: int) -> tuple[Block, Request]:
    block = BLOCKS[index % len(BLOCKS)]
    return block, Request(1, block.table, block.address, block.count)


def answers() -> list[bytes]:
    """Return a sound answer to every request; its transaction says to which."""
    rng = random.Random(1)
    found = []
    for index in range(len(BLOCKS)):
        block, request = _request(index)
        bits = block.table in ("coil", "discrete")
        words = [rng.randrange(2 if bits else 65536) for _ in range(block.count)]
        sound = encode_answer(request, words, index)
        [frame] = FrameReader().feed(sound)
        found += [sound, encode_exception(frame, 2)]
    return found


def read_answer(data: bytes) -> None:
    """Read `data` in two pieces and decode the values of its first frame."""
    reader = FrameReader()
    cut = len(data) // 3
    frames = [*reader.feed(data[:cut]), *reader.feed(data[cut:])]
    if not frames:
        raise IncompleteError
    block, request = _request(frames[0].transaction)
    decoded = block.decode(answer_data(frames[0], request))
    assert len(decoded) == sum(len(p.series()) for item in block.items for p in item.points)


def sound_header(data: bytes, rng: random.Random) -> bytes:
    """Announce the length there is, so that the checks behind it are reached."""
    if len(data) < HEADER_BYTES + 3:
        return data
    transaction = rng.randrange(len(BLOCKS)).to_bytes(2, "big")
    length = min(len(data) - HEADER_BYTES, 254)
    body = data[HEADER_BYTES : HEADER_BYTES + length]
    return transaction + b"\0\0" + length.to_bytes(2, "big") + b"\1" + body[1:]


PROFILES = [
    b'profile = "p"\n[limits]\nmax_gap = 3\ntimeout = "2s"\n[[points]]\nname = "A"\naddress = 1\n',
    b'profile = "p"\n[poll_groups.fast]\nevery = "1s"\npoints = ["A"]\n[[points]]\nname = "A"\n'
    b'address = 1\ntype = "int32"\nscale = 0.1\noffset = -5\nmin = 0\nmax = 1e6\ninvalid = [-1]\n',
    b'profile = "p"\nword_order = "little"\n[[points]]\nname = "A"\naddress = 1\ntype = "enum"\n'
    b'enum = { 0 = "x", 7 = "y" }\n[[points]]\nname = "B"\naddress = 2\ntype = "int16"\nsf = "C"\n'
    b'invalid = "sunspec"\n[[points]]\nname = "C"\naddress = 3\ntype = "int16"\n',
    b'profile = "p"\n[[points]]\nname = "A"\naddress = 1\ntype = "bits"\nbits = { 3 = "x" }\n'
    b'deadband = "2%"\nmax_age = "5m"\natomic_with = ["B"]\n[[points]]\nname = "B"\naddress = 9\n'
    b'type = "string"\nlength = 8\n',
]
DEVICE = ModbusDeviceSettings(name="d", host="h")


def read_profile(data: bytes) -> None:
    """Read a profile and plan its reads, as a start of the edge does."""
    found = resolve(DEVICE, parse_profile(data, "p.toml"))
    Planner(found).plan([group for group, _ in found.periods])


TARGETS = [
    Target(
        "modbus answers",
        answers(),
        read_answer,
        (Garbage, BadAnswer, DeviceException, IncompleteError),
        sound_header,
    ),
    Target("modbus profiles", PROFILES, read_profile, (ConfigError,)),
]

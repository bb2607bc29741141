"""The bytes of protocol 1, kept for ever: a peer of any later version must still read them.

A file that is missing is written and the test fails once; a file that is there is never
rewritten. A message that has grown is kept anew, as `NAME.2.bin`, beside what it was, and both are
read. One file holds one message: each frame as `u32 length (little endian) | bytes`.
"""

from pathlib import Path

import pytest

from edgesync_transport.wire import decode, encode
from tests.transport.samples import SAMPLES

GOLDEN = Path(__file__).parents[1] / "golden" / "wire" / "v1"

pytestmark = pytest.mark.feature("K3")


def pack(frames: list[bytes]) -> bytes:
    return b"".join(len(frame).to_bytes(4, "little") + frame for frame in frames)


def unpack(raw: bytes) -> list[bytes]:
    frames = []
    while raw:
        size = int.from_bytes(raw[:4], "little")
        frames.append(raw[4 : 4 + size])
        raw = raw[4 + size :]
    return frames


def kept(name: str) -> list[Path]:
    """The files of a message, the first as it was written first."""
    return sorted(GOLDEN.glob(f"{name}.bin")) + sorted(GOLDEN.glob(f"{name}.[0-9].bin"))


@pytest.mark.parametrize("name", SAMPLES)
def test_protocol_1_is_read_as_it_was(name: str) -> None:
    path = GOLDEN / f"{name}.bin"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pack(encode(SAMPLES[name])))
        pytest.fail(f"{path} was missing and has been written: look at it, then commit it")
    for path in kept(name):
        assert decode(unpack(path.read_bytes())) == SAMPLES[name]


@pytest.mark.parametrize("name", SAMPLES)
def test_protocol_1_is_written_as_it_was(name: str) -> None:
    assert pack(encode(SAMPLES[name])) == kept(name)[-1].read_bytes()


def test_every_golden_file_has_a_sample() -> None:
    assert {path.name.split(".")[0] for path in GOLDEN.glob("*.bin")} == set(SAMPLES)

"""What a disk may hold after a power cut that no loop device ever shows: reordered and torn pages.

The appender's system calls are recorded (strace). Between two syncs a disk may have written any of
the pages handed to it, in any order, the last of them torn at a sector; each such image must open
and hold everything acknowledged by then. The control forgets the syncs and must lose something.
"""

import random
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec
import pytest

from edgesync._native.journal import DamagedRecord
from edgesync.errors import StoreError
from tests.crash.survivors import APPENDER, check

PAGE: Final = 4096
SECTOR: Final = 512
COMMITS: Final = 60
IMAGES: Final = 400

CALL = re.compile(r"^(\w+)\((\d+)(?:<([^>]*)>)?(.*)\)\s*= (-?\d+)")
STRING = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')


class Wrote(msgspec.Struct, frozen=True):
    """Bytes handed to the disk; `through` when the call returns only after they are there."""

    at: int
    data: bytes
    through: bool


class Synced(msgspec.Struct, frozen=True):
    pass


class Acknowledged(msgspec.Struct, frozen=True):
    tail: int


Step = Wrote | Synced | Acknowledged


def record(folder: Path) -> list[Step]:
    """Run the appender for some commits; return what it asked of the disk, in order."""
    log = folder / "calls"
    command = ["strace", "-y", "-v", "-xx", "-s", "4000000", "-o", str(log), "-e"]
    command += ["trace=openat,lseek,pwrite64,writev,write,fdatasync"]
    command += [sys.executable, str(APPENDER), str(folder / "store"), "always", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for _ in range(COMMITS):
            assert process.stdout.readline(), "strace or the appender ended early"
        process.kill()
    return list(parse(log.read_text().splitlines()))


def parse(lines: list[str]) -> Iterator[Step]:
    through: set[str] = set()
    position: dict[str, int] = {}
    for line in lines:
        if line.startswith("openat(") and "data.mdb" in plain(line):
            fd = line.rpartition("= ")[2].partition("<")[0].strip()
            (through.add if "O_DSYNC" in line else through.discard)(fd)
            continue
        call = CALL.match(line)
        if call is None or call[5].startswith("-"):
            continue
        name, fd, path, rest = call[1], call[2], plain(call[3] or ""), call[4]
        if name == "write" and fd == "1":
            yield Acknowledged(int(strings(rest)))
        elif not path.endswith("data.mdb"):
            continue
        elif name == "lseek":
            position[fd] = int(call[5])
        elif name == "pwrite64":
            yield Wrote(int(rest.rsplit(", ", 1)[1]), strings(rest), fd in through)
        elif name == "writev":
            yield Wrote(position[fd], strings(rest), fd in through)
            position[fd] += int(call[5])
        elif name == "fdatasync":
            yield Synced()


def plain(text: str) -> str:
    """Undo -xx in a path."""
    return re.sub(r"\\x([0-9a-f]{2})", lambda found: chr(int(found[1], 16)), text)


def strings(text: str) -> bytes:
    return b"".join(bytes.fromhex(part.replace("\\x", "")) for part in STRING.findall(text))


def image_after(steps: list[Step], chance: random.Random, *, syncs: bool) -> tuple[bytes, int]:
    """A legal content of the disk after `steps`, and the tail acknowledged by then."""
    disk = bytearray()
    waiting: list[tuple[int, bytes]] = []
    tail = 0
    for step in steps:
        match step:
            case Wrote(at, data, True) if syncs:
                put(disk, at, data)
            case Wrote(at, data, _):
                waiting += [
                    (at + start, data[start : start + PAGE]) for start in range(0, len(data), PAGE)
                ]
            case Synced() if syncs:
                for at, data in waiting:
                    put(disk, at, data)
                waiting.clear()
            case Acknowledged(acknowledged):
                tail = acknowledged
    chance.shuffle(waiting)
    keep = waiting[: chance.randrange(len(waiting) + 1)]
    for number, (at, data) in enumerate(keep):
        torn = number == len(keep) - 1 and len(data) > SECTOR
        put(disk, at, data[: chance.randrange(SECTOR, len(data), SECTOR)] if torn else data)
    return bytes(disk), tail


def put(disk: bytearray, at: int, data: bytes) -> None:
    if len(disk) < at:
        disk += bytes(at - len(disk))  # a hole, or reserved and never written
    disk[at : at + len(data)] = data


def lost(folder: Path, image: bytes, tail: int) -> int:
    """How many acknowledged records the image does not hold."""
    store = folder / "image"
    shutil.rmtree(store, ignore_errors=True)
    store.mkdir()
    (store / "data.mdb").write_bytes(image)
    try:
        return max(0, tail - check(store))
    except (StoreError, DamagedRecord, AssertionError):
        return max(1, tail)


def born(steps: list[Step]) -> int:
    """Index of the step after which the store stands under its name (a rename, not in the log)."""
    return next(n for n, step in enumerate(steps) if isinstance(step, Acknowledged))


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> list[Step]:
    if not shutil.which("strace"):
        pytest.fail("needs strace to record what the store asks of the disk")
    return record(tmp_path_factory.mktemp("recorded"))


@pytest.mark.slow
@pytest.mark.feature("S2")
def test_every_order_of_writes_keeps_what_was_acknowledged(
    steps: list[Step], tmp_path: Path
) -> None:
    assert sum(isinstance(step, Synced) for step in steps) >= COMMITS
    chance = random.Random(4)
    for _ in range(IMAGES):
        upto = chance.randrange(born(steps), len(steps)) + 1
        image, tail = image_after(steps[:upto], chance, syncs=True)
        assert lost(tmp_path, image, tail) == 0, f"after step {upto} of {len(steps)}"


@pytest.mark.slow
def test_the_method_sees_that_syncs_matter(steps: list[Step], tmp_path: Path) -> None:
    chance = random.Random(5)
    images = (image_after(steps, chance, syncs=False) for _ in range(30))
    assert any(lost(tmp_path, image, tail) for image, tail in images)

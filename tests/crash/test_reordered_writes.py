"""What a disk may hold after a power cut that no loop device ever shows: reordered and torn pages.

The system calls of a process that writes are recorded (strace). Between two syncs of a file, a disk
may have written any of the pages handed to it, in any order, the last of them torn at a sector;
each such image must open and hold everything acknowledged by then. The control forgets the syncs
and must lose something.
"""

import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

import msgspec
import pytest

from edgesync._native.journal import DamagedRecord
from edgesync.errors import StoreError
from edgesync.store.directory import DATA, WAL
from edgesync.store.logged_cells import WAL_BYTES_MIN
from tests.crash import key_writer
from tests.crash.survivors import APPENDER, check

PAGE: Final = 4096
SECTOR: Final = 512
COMMITS: Final = 60
IMAGES: Final = 400

THREAD = re.compile(r"^(\d+) +(.*)$")
CALL = re.compile(r"^(\w+)\((\d+)(?:<([^>]*)>)?(.*)\)\s*= (-?\d+)")
STRING = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')


class Wrote(msgspec.Struct, frozen=True):
    """Bytes handed to the disk; `through` when the call returns only after they are there."""

    file: str
    at: int
    data: bytes
    through: bool


class Synced(msgspec.Struct, frozen=True):
    file: str


class Acknowledged(msgspec.Struct, frozen=True):
    tail: int


Step = Wrote | Synced | Acknowledged


class Writer(msgspec.Struct, frozen=True):
    """A process that writes, and what finds out how much of it is there."""

    program: list[str]
    check: Callable[[Path], int]


WRITERS: Final = {
    "records": Writer([str(APPENDER), "{store}", "always", "0"], check),
    "keys": Writer([str(key_writer.__file__), "{store}"], key_writer.check_keys),
}


def record(writer: Writer, folder: Path) -> list[Step]:
    """Let it run for some commits; return what it asked of the disk, in order."""
    log = folder / "calls"
    command = ["strace", "-f", "-y", "-v", "-xx", "-s", "4000000", "-o", str(log), "-e"]
    command += ["trace=openat,lseek,pwrite64,writev,write,fdatasync", sys.executable]
    command += [part.format(store=folder / "store") for part in writer.program]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for _ in range(COMMITS):
            assert process.stdout.readline(), "strace or the writer ended early"
        process.kill()
    return list(parse(whole_calls(log.read_text().splitlines())))


def whole_calls(lines: Iterable[str]) -> Iterator[str]:
    """Put together calls that those of other threads have interrupted; each where it ended."""
    begun: dict[str, str] = {}
    for line in lines:
        found = THREAD.match(line)
        if found is None:
            continue
        thread, call = found[1], found[2]
        if call.endswith("<unfinished ...>"):
            begun[thread] = call.removesuffix("<unfinished ...>").rstrip()
        elif call.startswith("<..."):
            yield begun.pop(thread) + call.partition("resumed>")[2]
        else:
            yield call


def parse(calls: Iterable[str]) -> Iterator[Step]:
    through: set[str] = set()
    position: dict[str, int] = {}
    for line in calls:
        if line.startswith("openat(") and DATA in plain(line):
            fd = line.rpartition("= ")[2].partition("<")[0].strip()
            (through.add if "O_DSYNC" in line else through.discard)(fd)
            continue
        call = CALL.match(line)
        if call is None or call[5].startswith("-"):
            continue
        name, fd, file, rest = call[1], call[2], Path(plain(call[3] or "")).name, call[4]
        if name == "write" and fd == "1":
            if (said := strings(rest).strip()).isdigit():  # not that of a helper it has started
                yield Acknowledged(int(said))
        elif file not in (DATA, WAL):
            continue
        elif name == "lseek":
            position[fd] = int(call[5])
        elif name == "pwrite64":
            yield Wrote(file, int(rest.rsplit(", ", 1)[1]), strings(rest), fd in through)
        elif name == "writev":
            yield Wrote(file, position[fd], strings(rest), fd in through)
            position[fd] += int(call[5])
        elif name == "fdatasync":
            yield Synced(file)


def plain(text: str) -> str:
    """Undo -xx in a path."""
    return re.sub(r"\\x([0-9a-f]{2})", lambda found: chr(int(found[1], 16)), text)


def strings(text: str) -> bytes:
    return b"".join(bytes.fromhex(part.replace("\\x", "")) for part in STRING.findall(text))


Image = dict[str, bytearray]


def image_after(steps: list[Step], chance: random.Random, *, syncs: bool) -> tuple[Image, int]:
    """A legal content of the disk after `steps`, and what was acknowledged by then."""
    # The log is there in its full size before the first entry.
    disk: Image = {DATA: bytearray(), WAL: bytearray(WAL_BYTES_MIN)}
    waiting: list[tuple[str, int, bytes]] = []
    tail = 0
    for step in steps:
        match step:
            case Wrote(file, at, data, True) if syncs:
                put(disk[file], at, data)
            case Wrote(file, at, data, _):
                ends = range(0, len(data), PAGE)
                waiting += [(file, at + start, data[start : start + PAGE]) for start in ends]
            case Synced(file) if syncs:
                for written, at, data in waiting:
                    if written == file:
                        put(disk[file], at, data)
                waiting = [one for one in waiting if one[0] != file]
            case Acknowledged(acknowledged):
                tail = acknowledged
    chance.shuffle(waiting)
    keep = waiting[: chance.randrange(len(waiting) + 1)]
    for number, (file, at, data) in enumerate(keep):
        torn = number == len(keep) - 1 and len(data) > SECTOR
        put(disk[file], at, data[: chance.randrange(SECTOR, len(data), SECTOR)] if torn else data)
    return disk, tail


def put(disk: bytearray, at: int, data: bytes) -> None:
    if len(disk) < at:
        disk += bytes(at - len(disk))  # a hole, or reserved and never written
    disk[at : at + len(data)] = data


def lost(writer: Writer, folder: Path, image: Image, tail: int) -> int:
    """How much of what was acknowledged the image does not hold."""
    store = folder / "image"
    shutil.rmtree(store, ignore_errors=True)
    store.mkdir()
    for name, content in image.items():
        if content:
            (store / name).write_bytes(content)
    try:
        return max(0, tail - writer.check(store))
    except (StoreError, DamagedRecord, AssertionError):
        return max(1, tail)


def born(steps: list[Step]) -> int:
    """Index of the step after which the store stands under its name (a rename, not in the log)."""
    return next(n for n, step in enumerate(steps) if isinstance(step, Acknowledged))


@pytest.fixture(scope="module", params=WRITERS)
def recorded(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Writer, list[Step]]:
    if not shutil.which("strace"):
        pytest.fail("needs strace to record what the store asks of the disk")
    writer = WRITERS[request.param]
    return writer, record(writer, tmp_path_factory.mktemp("recorded"))


@pytest.mark.slow
@pytest.mark.feature("S2")
def test_every_order_of_writes_keeps_what_was_acknowledged(
    recorded: tuple[Writer, list[Step]], tmp_path: Path
) -> None:
    writer, steps = recorded
    assert sum(isinstance(step, Synced) for step in steps) >= COMMITS
    if writer is WRITERS["keys"]:
        assert 10 <= steps.count(Synced(DATA)) <= COMMITS // 2 <= steps.count(Synced(WAL))
    chance = random.Random(4)
    for _ in range(IMAGES):
        upto = chance.randrange(born(steps), len(steps)) + 1
        image, tail = image_after(steps[:upto], chance, syncs=True)
        assert lost(writer, tmp_path, image, tail) == 0, f"after step {upto} of {len(steps)}"


@pytest.mark.slow
def test_the_method_sees_that_syncs_matter(
    recorded: tuple[Writer, list[Step]], tmp_path: Path
) -> None:
    writer, steps = recorded
    chance = random.Random(5)
    images = (image_after(steps, chance, syncs=False) for _ in range(30))
    assert any(lost(writer, tmp_path, image, tail) for image, tail in images)

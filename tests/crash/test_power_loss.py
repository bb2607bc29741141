"""The power goes: an ext4 file system on a loop device is shut down under a running appender.

EXT4_IOC_SHUTDOWN without flushing the log drops what no sync has made durable, as a power cut
does; mounting again replays the real journal. The control shows that the method sees a missing
sync: a store opened without one must lose records.
"""

import contextlib
import fcntl
import os
import random
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgesync._native.journal import DamagedRecord
from edgesync.errors import StoreError
from tests.crash.survivors import Victim, check

EXT4_IOC_SHUTDOWN = 0x8004587D
WITHOUT_LOG_FLUSH = 2
CUTS = 25


def run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")


class Disk:
    """A small disk whose power can be cut."""

    def __init__(self, folder: Path) -> None:
        self.image = folder / "disk.img"
        self.place = folder / "mounted"
        self.place.mkdir()
        with self.image.open("wb") as file:
            file.truncate(96 << 20)
        run("mkfs.ext4", "-q", "-F", str(self.image))
        self.mount()

    def mount(self) -> None:
        run("mount", "-o", "loop", str(self.image), str(self.place))

    def cut_power(self) -> None:
        fd = os.open(self.place, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, EXT4_IOC_SHUTDOWN, struct.pack("I", WITHOUT_LOG_FLUSH))
        finally:
            os.close(fd)

    def sync(self) -> None:
        """Make durable what was made and removed."""
        fd = os.open(self.place, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def power_on(self) -> None:
        """Mount what the disk holds, as another machine would.

        Not the disk itself: a process with a mount namespace of its own (`unshare`) may hold the
        mount that was cut, and whoever mounts the same image again is given that one, dead.
        """
        run("umount", str(self.place))
        copy = self.image.with_suffix(".copy")
        run("cp", "--sparse=always", str(self.image), str(copy))
        copy.replace(self.image)
        self.mount()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    if not shutil.which("mkfs.ext4"):
        # Not skipped: a suite that is green without this test would say what nobody has seen. An
        # ordinary user is told so at the end of the run; test_reordered_writes.py needs no root.
        pytest.fail("needs mkfs.ext4 (e2fsprogs) to make a disk whose power can be cut")
    disk = Disk(tmp_path)
    yield disk
    with contextlib.suppress(RuntimeError):
        run("umount", "-l", str(disk.place))


def cut(disk: Disk, report: Path, *, sync: str, commits: int, pause_ms: float = 0) -> int:
    """Append, cut the power after so many commits; returns how many acknowledged ones are gone.

    Of a store without syncs all are gone when it cannot be read any more.
    """
    store = disk.place / "store"
    victim = Victim(store, report, sync=sync, pause_ms=pause_ms)
    victim.wait_for_commits(commits)
    disk.cut_power()
    victim.kill()
    acknowledged = victim.acknowledged()
    disk.power_on()
    try:
        return acknowledged - check(store)
    except (StoreError, DamagedRecord, AssertionError):
        if sync == "always":
            raise
        return acknowledged


@pytest.mark.root
def test_a_cut_that_another_namespace_holds_ends_with_the_power_on(
    disk: Disk, tmp_path: Path
) -> None:
    holding = "echo; exec sleep 1000"
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", holding]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
        try:
            assert holder.stdout is not None
            holder.stdout.readline()
            assert cut(disk, tmp_path / "report", sync="always", commits=5) <= 0
        finally:
            holder.kill()


@pytest.mark.slow
@pytest.mark.root
@pytest.mark.feature("S2")
def test_nothing_acknowledged_is_lost_by_power_cuts(disk: Disk, tmp_path: Path) -> None:
    chance = random.Random(2)
    for _ in range(CUTS):
        commits = chance.randrange(2, 120)
        lost = cut(disk, tmp_path / "report", sync="always", commits=commits)
        assert lost <= 0
    assert check(disk.place / "store") > CUTS


@pytest.mark.slow
@pytest.mark.root
def test_the_method_sees_a_missing_sync(disk: Disk, tmp_path: Path) -> None:
    lost = [
        cut(disk, tmp_path / "report", sync="none", commits=commits) for commits in (40, 80, 120)
    ]
    assert max(lost) > 0


@pytest.mark.slow
@pytest.mark.root
def test_the_method_sees_a_header_that_is_not_synced(disk: Disk, tmp_path: Path) -> None:
    lost = [
        cut(disk, tmp_path / "report", sync="meta", commits=commits, pause_ms=20)
        for commits in (20, 30, 40)
    ]
    assert max(lost) > 0


@pytest.mark.slow
@pytest.mark.root
def test_a_first_start_cut_short_leaves_a_whole_store_or_none(disk: Disk, tmp_path: Path) -> None:
    """F4: no half-made store, and none that is taken for new after something was acknowledged."""
    chance = random.Random(3)
    for number in range(10):
        store = disk.place / f"store{number}"
        victim = Victim(store, tmp_path / "report", sync="always")
        while not store.exists() and victim.process.poll() is None:
            pass
        for _ in range(chance.randrange(20_000)):
            pass  # some point of the creation, no clock would hit it better
        disk.cut_power()
        victim.kill()
        acknowledged = victim.acknowledged()
        disk.power_on()
        assert check(store) >= acknowledged
        # An open store takes its room at once, and the disk is small: the next cut must not bring
        # this one back.
        shutil.rmtree(store)
        disk.sync()


OPENER = """
import sys
from edgesync._native.store import Store
from edgesync.errors import StoreError
try:
    Store(sys.argv[1], databases=()).close()
except StoreError as error:
    print(error)
"""


@pytest.mark.root
def test_a_first_start_on_a_full_disk_is_an_error(disk: Disk) -> None:
    """LMDB maps its lock file: without room for it the process would end by SIGBUS."""
    filler, said = disk.place / "filler", []
    for left_kib in range(0, 96, 3):
        store = disk.place / f"store{left_kib}"
        store.mkdir()
        with filler.open("wb") as file:
            room = os.statvfs(disk.place)
            size = room.f_bfree * room.f_frsize
            while size > 0:
                try:
                    os.posix_fallocate(file.fileno(), 0, size)
                    break
                except OSError:
                    size -= room.f_frsize  # not all that is free may be had
            file.truncate(size - (left_kib << 10))
        done = subprocess.run(
            [sys.executable, "-c", OPENER, str(store)], capture_output=True, text=True
        )
        assert done.returncode == 0, (left_kib, done.stderr)
        said.append(done.stdout)
        filler.unlink()
        shutil.rmtree(store)
    assert any("No space left" in one for one in said), said
    assert said[-1] == ""

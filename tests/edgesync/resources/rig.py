"""A real edge whose memory or disk gets short, and ways to make it so.

Disks are real ones. Memory is that of a control group where this process may make one with a limit;
where it may not, a tree of files stands in, and the end of the run names that (`stand_in`).
"""

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import redis

from edgesync.demo.site import free_ports
from edgesync.resources.cgroup import folders
from edgesync.resources.kernel import read_number
from tests.edgesync.resources.trees import MIB, grow, meminfo, v2

PATIENCE_S = 120.0
GROUP_BYTES = 256 * MIB

# Joins a control group, then is an edge that takes /proc and /sys from a folder. It leaves a level
# after three calm seconds instead of ten (test_levels.py has the ten).
EDGE = """
import os, sys, trio
from pathlib import Path
from edgesync import EdgeNode, daemon
from edgesync.resources import levels
levels.CALM_S = 3.0
config, system, join = sys.argv[1:]
if join:
    Path(join).write_text(str(os.getpid()))
trio.run(daemon.run, lambda: EdgeNode(config, system=Path(system)))
"""

# Joins a control group, then holds as many bytes as it is told.
HOLDER = """
import os, sys
from pathlib import Path
Path(sys.argv[1]).write_text(str(os.getpid()))
print("ready", flush=True)
for line in sys.stdin:
    held = None
    held = bytearray(int(line))
    for at in range(0, len(held), 4096):
        held[at] = 1
    print("held", flush=True)
"""


class Edge:
    """The daemon in a process of its own, asked as any client asks."""

    def __init__(
        self, folder: Path, *, data: Path, system: Path = Path("/"), join: str = "", more: str = ""
    ) -> None:
        (port,) = free_ports(1)
        config, script = folder / "edge.toml", folder / "edge.py"
        config.write_text(
            f'[edge]\ndata_dir = "{data}"\n[http]\nport = 0\n[store]\nlimit = "64MiB"\n'
            f'[cells]\nport = {port}\n[resources]\ninterval = "100ms"\n{more}'
        )
        script.write_text(EDGE)
        self.log = folder / "edge.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(script), str(config), str(system), join],
                stdout=log,
                stderr=log,
            )
        self.client: Any = redis.Redis(port=port, decode_responses=True)
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until:
            with contextlib.suppress(redis.ConnectionError):
                self.client.ping()
                return
            time.sleep(0.05)
        raise AssertionError(self.log.read_text())

    def close(self) -> None:
        self.client.close()
        self.process.kill()
        self.process.wait()

    def resource(self, name: str) -> dict[str, Any]:
        reply: Any = self.client.execute_command("EDGE.RESOURCES")
        return dict(as_map(as_map(reply)[name]))

    def level(self) -> str:
        return str(as_map(self.client.execute_command("EDGE.STATUS"))["resource_level"])

    def watch(self, name: str, until: str) -> list[str]:
        """Return the levels a resource goes through until it is at one."""
        seen: list[str] = []
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            level = self.resource(name)["level"]
            if seen[-1:] != [level]:
                seen.append(level)
            if level == until:
                return seen
            time.sleep(0.05)
        raise AssertionError(f"{name}: {seen}, {self.resource(name)}\n{self.log.read_text()}")


def as_map(reply: Any) -> dict[str, Any]:
    """A map of RESP 3, or the flat list of RESP 2."""
    if isinstance(reply, dict):
        return reply
    return dict(zip(reply[::2], reply[1::2], strict=True))


class Group:
    """A control group of our own below our own, and a process in it that holds memory."""

    how = "a control group with a limit"

    def __init__(self, folder: Path, procs: Path) -> None:
        self._folder = folder
        self.join = str(procs)
        self.system = Path("/")
        self._holder = subprocess.Popen(
            [sys.executable, "-c", HOLDER, self.join],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == "ready\n"

    def reach(self, edge: Edge, percent: float) -> None:
        """Hold so much that the group's memory is at this percent, by the edge's own figures."""
        assert self._holder.stdin is not None
        assert self._holder.stdout is not None
        self._hold(0)
        free = edge.resource("memory")
        self._hold(max(int(free["limit"] * percent / 100 - free["value"]), 0))

    def _hold(self, nbytes: int) -> None:
        assert self._holder.stdin is not None
        assert self._holder.stdout is not None
        self._holder.stdin.write(f"{nbytes}\n")
        self._holder.stdin.flush()
        assert self._holder.stdout.readline() == "held\n"
        time.sleep(0.5)  # several looks of the monitor

    def close(self) -> None:
        self._holder.kill()
        self._holder.communicate()
        for _ in range(100):
            with contextlib.suppress(OSError):
                self._folder.rmdir()
                return
            time.sleep(0.05)
        raise AssertionError(f"{self._folder} is still in use")


class Tree:
    """A tree of files that says what a control group would."""

    how = "a tree of files: "
    join = ""

    def __init__(self, folder: Path, why: str) -> None:
        self.how += why
        self.system = folder
        grow(folder, meminfo(16 << 30, 12 << 30) | {"proc/self/cgroup": "0::/edge\n"})
        grow(folder, {"sys/fs/cgroup/cgroup.controllers": "memory\n"})
        self._say(10.0)

    def reach(self, edge: Edge, percent: float) -> None:
        self._say(percent)
        time.sleep(0.5)

    def _say(self, percent: float) -> None:
        grow(self.system, v2("/edge", f"{GROUP_BYTES}\n", int(GROUP_BYTES * percent / 100)))

    def close(self) -> None:
        pass


@contextlib.contextmanager
def short_memory(folder: Path) -> Iterator[Group | Tree]:
    """Yield a way to make memory short: for real where that is allowed."""
    found = make_group()
    made = Tree(folder, found) if isinstance(found, str) else Group(*found)
    try:
        yield made
    finally:
        made.close()


def make_group() -> tuple[Path, Path] | str:
    """Return a new control group with a limit and where to join it, or why there is none."""
    version, paths = folders(Path("/"), "memory")
    if not paths:
        return "there are no control groups"
    group = paths[0] / f"edgesync-test-{os.getpid()}"
    limit = "memory.max" if version == 2 else "memory.limit_in_bytes"
    try:
        group.mkdir()
    except OSError as error:
        return f"no group can be made: {error}"
    try:
        (group / limit).write_text(str(GROUP_BYTES))
        assert read_number(group / limit) == GROUP_BYTES
        command = [sys.executable, "-c", HOLDER, str(group / "cgroup.procs")]
        subprocess.run(command, stdin=subprocess.DEVNULL, check=True, capture_output=True)
    except (OSError, AssertionError, subprocess.CalledProcessError) as error:
        group.rmdir()
        return f"a group that cannot be limited or joined: {error}"
    return group, group / "cgroup.procs"


class OwnDisk:
    """A small file system, filled up by a file that is none of the edge's."""

    def __init__(self, place: Path, how: str) -> None:
        self.data, self.how = place, how

    def reach(self, edge: Edge, percent: float) -> None:
        ballast = self.data / "ballast"
        ballast.unlink(missing_ok=True)
        usage = os.statvfs(self.data)
        used = (usage.f_blocks - usage.f_bfree) * usage.f_frsize
        total = used + usage.f_bavail * usage.f_frsize
        with ballast.open("wb") as file:
            file.write(bytes(max(int(total * percent / 100) - used, 0)))
            file.flush()
            os.fsync(file.fileno())
        time.sleep(0.5)


@contextlib.contextmanager
def short_disk(folder: Path) -> Iterator[OwnDisk]:
    """Yield a way to make the disk short: a disk in a file where there are loop devices, or else
    one in memory, which an ordinary user may mount in a namespace (`mounts`).
    """
    place = folder / "disk"
    place.mkdir()
    try:
        mount_image(folder / "image", place)
        how = "a disk in a file"
    except (OSError, subprocess.CalledProcessError):
        mount_memory(place)
        how = "a disk in memory"
    try:
        yield OwnDisk(place, how)
    finally:
        run("umount", "-l", str(place))


def mount_image(image: Path, place: Path) -> None:
    with image.open("wb") as file:
        file.truncate(96 * MIB)
    run(shutil.which("mkfs.ext4") or "/sbin/mkfs.ext4", "-q", "-F", str(image))
    run("mount", "-o", "loop", str(image), str(place))


def mount_memory(place: Path) -> None:
    run("mount", "-t", "tmpfs", "-o", "size=96m", "tmpfs", str(place))


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def eventually(holds: Callable[[], bool]) -> bool:
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        if holds():
            return True
        time.sleep(0.05)
    return False

"""Room on the disk: of the file system, and of the store inside it."""

import os
from pathlib import Path

import msgspec

from edgesync.resources.levels import Sample
from edgesync.resources.pressure import read_stall


class Disk(msgspec.Struct, frozen=True):
    used: int
    limit: int

    @property
    def percent(self) -> float:
        return min(100.0 * self.used / self.limit, 100.0) if self.limit > 0 else 100.0


def read_filesystem(folder: Path) -> Disk | None:
    """Return the file system of a folder as `df` counts it: without what only root may use."""
    try:
        found = os.statvfs(folder)
    except (OSError, ValueError):
        return None
    used = (found.f_blocks - found.f_bfree) * found.f_frsize
    limit = used + found.f_bavail * found.f_frsize
    return Disk(used, limit) if limit > 0 else None


def store_room(
    used_bytes: int, intake_bytes: int, configured: int = 0, *, copied_bytes: int = 0
) -> Disk:
    """Return how full the store is: of what it may take, or of `storage_limit` if less.

    copied_bytes   what a commit needs beside what is used: with large pages, or in a small store,
                   that is what there is too little of first
    """
    rooms = [Disk(used_bytes + copied_bytes, intake_bytes)]
    if configured:
        rooms.append(Disk(used_bytes, configured))
    return max(rooms, key=lambda room: room.percent)


def sample_disk(store: Disk, filesystem: Disk | None) -> Sample:
    """Return the fuller of the two."""
    worse = max((one for one in (store, filesystem) if one), key=lambda one: one.percent)
    return Sample(value=worse.used, limit=worse.limit, percent=worse.percent, strain=worse.percent)


def sample_io(root: Path = Path("/")) -> Sample | None:
    """Return the percent of time in which all work has waited for disks."""
    stall = read_stall(root, "io", "full")
    if stall is None:
        return None
    return Sample(value=stall, limit=100, percent=stall, strain=stall)

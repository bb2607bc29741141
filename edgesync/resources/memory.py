"""Memory that cannot be given back without losing something, and its limit.

A database's map shows up as resident and as page cache, though its clean pages are free to go: what
counts is what is *not* reclaimable. And in a container the machine's memory says nothing: the limit
that counts is that of the control group, or of one above it.
"""

from pathlib import Path

import msgspec

from edgesync.resources.cgroup import folders
from edgesync.resources.kernel import read_limit, read_number, read_table
from edgesync.resources.levels import Sample
from edgesync.resources.pressure import read_stall

KERNEL = ("kernel_stack", "pagetables", "percpu", "sock", "slab_unreclaimable")


class Memory(msgspec.Struct, frozen=True):
    """used is bytes that are not reclaimable, in whatever has the limit: `where`."""

    used: int
    limit: int
    where: str


def read_memory(root: Path = Path("/"), configured: int = 0) -> Memory | None:
    """Return the memory with the smallest limit; None where nothing can be known.

    configured   bytes this process may take; 0 for no such limit
    """
    found = [
        one
        for one in (_process(root, configured), *_groups(root), _machine(root))
        if one is not None
    ]
    return min(found, key=lambda one: one.limit, default=None)


def sample_memory(root: Path = Path("/"), configured: int = 0) -> Sample | None:
    found = read_memory(root, configured)
    if found is None:
        return None
    percent = 100.0 * found.used / found.limit
    return Sample(
        value=found.used,
        limit=found.limit,
        percent=percent,
        strain=percent,
        stall=read_stall(root, "memory"),
    )


def _process(root: Path, configured: int) -> Memory | None:
    status = read_table(root / "proc/self/status")
    if not configured or "RssAnon" not in status:
        return None
    used = status["RssAnon"] + status.get("RssShmem", 0) + status.get("VmSwap", 0)
    return Memory(used, configured, "process")


def _groups(root: Path) -> list[Memory]:
    """Every group above us that has a limit, with what all in it use."""
    version, paths = folders(root, "memory")
    found = []
    for path in paths:
        if version == 2:
            limits = [read_limit(path / "memory.max"), read_limit(path / "memory.high")]
        else:
            limits = [read_limit(path / "memory.limit_in_bytes")]
        limit = min((one for one in limits if one is not None), default=None)
        if limit is None:
            continue
        used = _used_v2(path) if version == 2 else _used_v1(path)
        if used is not None:
            found.append(Memory(used, limit, f"cgroup v{version}"))
    return found


def _used_v2(path: Path) -> int | None:
    stat = read_table(path / "memory.stat")
    if "anon" not in stat:
        return None
    if "kernel" in stat:
        kernel = max(stat["kernel"] - stat.get("slab_reclaimable", 0), 0)
    else:  # before Linux 5.18
        kernel = sum(stat.get(one, 0) for one in KERNEL)
    dirty = stat.get("file_dirty", 0) + stat.get("file_writeback", 0)
    return stat["anon"] + stat.get("shmem", 0) + kernel + dirty


def _used_v1(path: Path) -> int | None:
    stat = read_table(path / "memory.stat")
    if "total_rss" not in stat:
        return None
    # v1 does not tell what of the kernel's memory is reclaimable; it is never more than all used.
    kernel = read_number(path / "memory.kmem.usage_in_bytes") or 0
    parts = ("total_rss", "total_shmem", "total_dirty", "total_writeback")
    used = sum(stat.get(one, 0) for one in parts) + kernel
    usage = read_number(path / "memory.usage_in_bytes")
    return used if usage is None else min(used, usage)


def _machine(root: Path) -> Memory | None:
    table = read_table(root / "proc/meminfo")
    total, available = table.get("MemTotal", 0), table.get("MemAvailable")
    if total <= 0 or available is None:
        return None
    return Memory(max(total - available, 0), total, "machine")

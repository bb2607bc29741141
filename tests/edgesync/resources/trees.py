"""Trees of files as the kernel shows them, for machines that are not at hand."""

from collections.abc import Mapping
from pathlib import Path

MIB = 1 << 20
GIB = 1 << 30
NONE_V1 = "9223372036854771712\n"


def grow(root: Path, files: Mapping[str, str]) -> Path:
    """Write files as the kernel shows them: whoever reads one sees all of it, before or after."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f"{path.name}.new")
        new.write_text(text)
        new.replace(path)
    return root


def meminfo(total: int, available: int) -> dict[str, str]:
    return {
        "proc/meminfo": f"MemTotal:  {total // 1024} kB\nMemFree: 12 kB\n"
        f"MemAvailable:   {available // 1024} kB\nHugePages_Total:       0\n"
    }


def v2(path: str, limit: str, anon: int, *, mount: str = "sys/fs/cgroup") -> dict[str, str]:
    """One group of version 2: `anon` bytes of programs, and 40 MiB that may go."""
    folder = f"{mount}{path}".rstrip("/")
    return {
        f"{folder}/memory.max": limit,
        f"{folder}/memory.stat": f"anon {anon}\nfile {40 * MIB}\nkernel {MIB}\nshmem 0\n"
        f"file_dirty 4096\nfile_writeback 0\ninactive_file {40 * MIB}\n"
        f"slab_reclaimable {MIB // 2}\n",
    }


def v1(path: str, limit: str, rss: int) -> dict[str, str]:
    folder = f"sys/fs/cgroup/memory{path}".rstrip("/")
    return {
        f"{folder}/memory.limit_in_bytes": limit,
        f"{folder}/memory.usage_in_bytes": f"{rss + 40 * MIB}\n",
        f"{folder}/memory.kmem.usage_in_bytes": f"{MIB}\n",
        f"{folder}/memory.stat": f"cache {40 * MIB}\nrss 4096\ntotal_rss {rss}\n"
        f"total_shmem 0\ntotal_dirty 4096\ntotal_writeback 0\n",
    }


def pressure(some: float, full: float = 0.0) -> str:
    return (
        f"some avg10={some:.2f} avg60=0.00 avg300=0.00 total=1\n"
        f"full avg10={full:.2f} avg60=0.00 avg300=0.00 total=1\n"
    )


def battery(charge: int, status: str) -> dict[str, str]:
    return {
        "sys/class/power_supply/AC/type": "Mains\n",
        "sys/class/power_supply/AC/online": "0\n" if status == "Discharging" else "1\n",
        "sys/class/power_supply/BAT0/type": "Battery\n",
        "sys/class/power_supply/BAT0/status": f"{status}\n",
        "sys/class/power_supply/BAT0/capacity": f"{charge}\n",
        # A mouse, nearly empty.
        "sys/class/power_supply/hid-1/type": "Battery\n",
        "sys/class/power_supply/hid-1/scope": "Device\n",
        "sys/class/power_supply/hid-1/status": "Discharging\n",
        "sys/class/power_supply/hid-1/capacity": "3\n",
    }

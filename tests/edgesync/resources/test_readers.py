"""What the kernel says, on machines of all kinds; and what no kernel would say."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgesync.resources import cpu, disk, memory, power, pressure
from edgesync.resources.cgroup import folders
from edgesync.resources.cpu import CpuCounts
from edgesync.resources.disk import read_filesystem
from edgesync.resources.levels import Sample
from edgesync.resources.memory import Memory
from edgesync.resources.power import Power
from tests.edgesync.resources.trees import (
    GIB,
    MIB,
    NONE_V1,
    battery,
    grow,
    meminfo,
    v1,
    v2,
)  # fmt: skip
from tests.edgesync.resources.trees import (
    pressure as psi,
)

pytestmark = pytest.mark.feature("L8")

HOST = meminfo(16 * GIB, 12 * GIB)
V1_LINES = "9:name=systemd:/\n4:memory:/app/edge\n2:cpu,cpuacct:/app/edge\n0::/app/edge\n"


def test_a_group_of_version_2_limits_below_a_large_machine(tmp_path: Path) -> None:
    root = grow(
        tmp_path,
        HOST
        | {"proc/self/cgroup": "0::/system.slice/edge.service\n"}
        | {"sys/fs/cgroup/cgroup.controllers": "cpu memory\n"}
        | v2("/system.slice/edge.service", f"{64 * MIB}\n", 20 * MIB)
        | v2("/system.slice", "max\n", 30 * MIB),
    )
    # Programs, and of the kernel's memory what is not reclaimable; not the page cache.
    used = 20 * MIB + MIB // 2 + 4096
    assert memory.read_memory(root) == Memory(used, 64 * MIB, "cgroup v2")


def test_the_smallest_limit_on_the_way_to_the_root_counts(tmp_path: Path) -> None:
    root = grow(
        tmp_path,
        HOST
        | {"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/cgroup.controllers": "memory\n"}
        | v2("/a/b", f"{512 * MIB}\n", 10 * MIB)
        | v2("/a", f"{128 * MIB}\n", 100 * MIB)
        | {"sys/fs/cgroup/a/memory.high": f"{96 * MIB}\n"},
    )
    found = memory.read_memory(root)
    assert found is not None
    assert (found.limit, found.used) == (96 * MIB, 100 * MIB + MIB // 2 + 4096)


def test_a_group_of_version_1(tmp_path: Path) -> None:
    root = grow(
        tmp_path,
        HOST
        | {"proc/self/cgroup": "4:memory:/app/edge\n"}
        | v1("/app/edge", f"{64 * MIB}\n", 30 * MIB)
        | v1("/app", NONE_V1, 50 * MIB)
        | v1("", NONE_V1, 900 * MIB),
    )
    assert memory.read_memory(root) == Memory(31 * MIB + 4096, 64 * MIB, "cgroup v1")


def test_both_versions_side_by_side(tmp_path: Path) -> None:
    root = grow(
        tmp_path,
        HOST
        | {"proc/self/cgroup": V1_LINES}
        | v1("/app/edge", f"{64 * MIB}\n", 30 * MIB)
        | v2("/app/edge", "max\n", 0, mount="sys/fs/cgroup/unified"),
    )
    found = memory.read_memory(root)
    assert found is not None
    assert (found.limit, found.where) == (64 * MIB, "cgroup v1")


def test_memory_of_a_hybrid_machine_may_be_of_version_2(tmp_path: Path) -> None:
    root = grow(
        tmp_path,
        HOST
        | {"proc/self/cgroup": "2:cpu:/app\n0::/app\n"}
        | v2("/app", f"{64 * MIB}\n", MIB, mount="sys/fs/cgroup/unified"),
    )
    found = memory.read_memory(root)
    assert found is not None
    assert (found.limit, found.where) == (64 * MIB, "cgroup v2")


def test_in_a_container_the_path_may_be_the_hosts(tmp_path: Path) -> None:
    """What is mounted there is the container's own group: `/docker/…` is not to be found."""
    root = grow(
        tmp_path,
        HOST | {"proc/self/cgroup": "4:memory:/docker/0123\n"} | v1("", f"{64 * MIB}\n", MIB),
    )
    found = memory.read_memory(root)
    assert found is not None
    assert found.limit == 64 * MIB


def test_without_any_limit_the_machine_is_the_limit(tmp_path: Path) -> None:
    root = grow(tmp_path, HOST | {"proc/self/cgroup": "4:memory:/\n"} | v1("", NONE_V1, 900 * MIB))
    assert memory.read_memory(root) == Memory(4 * GIB, 16 * GIB, "machine")


def test_a_configured_limit_is_for_this_process(tmp_path: Path) -> None:
    status = "Name:\tedgesync\nVmRSS:\t 60000 kB\nRssAnon:\t  40000 kB\nRssFile:\t 20000 kB\n"
    root = grow(tmp_path, HOST | {"proc/self/status": status})
    assert memory.read_memory(root, 128 * MIB) == Memory(40_000 * 1024, 128 * MIB, "process")
    found = memory.read_memory(root, 64 * GIB)
    assert found is not None
    assert found.limit == 16 * GIB


def test_pressure_of_our_own_group_goes_before_that_of_the_machine(tmp_path: Path) -> None:
    root = grow(
        tmp_path,
        {
            "proc/self/cgroup": "0::/app\n",
            "sys/fs/cgroup/cgroup.controllers": "memory\n",
            "sys/fs/cgroup/app/memory.pressure": psi(12.5, 3.0),
            "proc/pressure/memory": psi(90.0),
            "proc/pressure/io": psi(50.0, 21.0),
        },
    )
    assert pressure.read_stall(root, "memory") == 12.5
    assert pressure.read_stall(root, "memory", "full") == 3.0
    assert pressure.read_stall(root, "io", "full") == 21.0
    assert pressure.read_stall(root, "cpu") is None


def test_a_kernel_without_pressure_files_leaves_it_unknown(tmp_path: Path) -> None:
    root = grow(tmp_path, HOST)
    assert pressure.read_stall(root, "memory") is None
    assert disk.sample_io(root) is None
    found = memory.sample_memory(root)
    assert found is not None
    assert found.stall is None


@pytest.mark.parametrize(
    ("files", "meant"),
    [
        (
            {
                "proc/self/cgroup": "0::/app\n",
                "sys/fs/cgroup/cgroup.controllers": "cpu\n",
                "sys/fs/cgroup/app/cpu.max": "50000 100000\n",
                "sys/fs/cgroup/app/cpu.stat": "usage_usec 9\nnr_periods 40\nnr_throttled 7\n",
            },
            CpuCounts(0.5, 40, 7),
        ),
        (
            {
                "proc/self/cgroup": V1_LINES,
                "sys/fs/cgroup/cpu/app/edge/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/app/edge/cpu.cfs_period_us": "100000\n",
                "sys/fs/cgroup/cpu/app/cpu.cfs_quota_us": "150000\n",
                "sys/fs/cgroup/cpu/app/cpu.cfs_period_us": "100000\n",
                "sys/fs/cgroup/cpu/app/cpu.stat": "nr_periods 3\nnr_throttled 1\n",
            },
            CpuCounts(1.5, 3, 1),
        ),
        ({"proc/self/cgroup": "0::/app\n", "sys/fs/cgroup/app/cpu.max": "max 100000\n"},
         CpuCounts(4.0)),
        ({}, CpuCounts(4.0)),
    ],
)  # fmt: skip
def test_processors_are_those_of_the_smallest_quota(
    tmp_path: Path, files: dict[str, str], meant: CpuCounts
) -> None:
    assert cpu.read_cpu(grow(tmp_path, files), 4) == meant


def test_batteries(tmp_path: Path) -> None:
    assert power.read_power(tmp_path) is None
    root = grow(tmp_path, battery(42, "Discharging"))
    assert power.read_power(root) == Power(42.0, True)
    sample = power.sample_power(root)
    assert sample is not None
    assert (sample.percent, sample.strain) == (42.0, 58.0)
    on_mains = power.sample_power(grow(tmp_path, battery(5, "Charging")))
    assert on_mains is not None
    assert on_mains.strain == 0.0


def test_a_battery_that_tells_energy_instead_of_percent(tmp_path: Path) -> None:
    files = {"type": "Battery", "status": "Discharging", "energy_now": "3", "energy_full": "12"}
    grow(tmp_path, {f"sys/class/power_supply/b/{name}": text for name, text in files.items()})
    assert power.read_power(tmp_path) == Power(25.0, True)


def test_the_fuller_of_store_and_file_system_counts(tmp_path: Path) -> None:
    found = read_filesystem(tmp_path)
    assert found is not None
    usage = shutil.disk_usage(tmp_path)
    assert found.limit <= usage.total
    assert 0 <= found.percent <= 100
    room = disk.store_room(80, 90)
    assert room.limit == 90
    assert disk.store_room(40, 90, copied_bytes=45).percent == pytest.approx(8500 / 90)
    assert disk.sample_disk(room, disk.Disk(10, 100)).percent == pytest.approx(800 / 9)
    assert disk.sample_disk(room, disk.Disk(95, 100)).percent == 95
    assert disk.store_room(80, 1000, configured=100).percent == 80
    assert read_filesystem(tmp_path / "gone") is None


# -- anything may stand in a file ------------------------------------------------------------

WORDS = st.sampled_from(
    ["0::/a", "4:memory:/a/../b", "2:cpu:/a", "max", "0", "-1", "64", "9" * 30,
     "9223372036854771712", "anon", "total_rss", "rss", "kernel", "MemTotal:", "MemAvailable:",
     "kB",
     "some avg10=12.00",
     "full avg10=999.9999", "some avg10=nan", "100000", "nr_periods", "nr_throttled", "Battery",
     "Mains", "Discharging", "\0", "é", "\n", " ", ":", "/", "RssAnon:", "1e9", "²"]
)  # fmt: skip
TEXTS = st.one_of(
    st.lists(WORDS, max_size=12).map(lambda words: " ".join(words).encode()),
    st.lists(WORDS, max_size=12).map(lambda words: "\n".join(words).encode()),
    st.binary(max_size=60),
    st.none(),  # no file
    st.just(b"folder"),  # stands for one: reading it fails
)
FILES = [
    "proc/self/cgroup", "proc/self/status", "proc/meminfo", "proc/pressure/memory",
    "proc/pressure/io", "sys/fs/cgroup/a/memory.max", "sys/fs/cgroup/a/memory.stat",
    "sys/fs/cgroup/a/cpu.max", "sys/fs/cgroup/a/cpu.stat", "sys/fs/cgroup/cgroup.controllers",
    "sys/fs/cgroup/memory/a/memory.limit_in_bytes", "sys/fs/cgroup/memory/a/memory.stat",
    "sys/fs/cgroup/memory/a/memory.usage_in_bytes", "sys/fs/cgroup/cpu/a/cpu.cfs_quota_us",
    "sys/fs/cgroup/cpu/a/cpu.cfs_period_us", "sys/class/power_supply/b/type",
    "sys/class/power_supply/b/status", "sys/class/power_supply/b/capacity",
    "sys/class/power_supply/b/energy_now", "sys/class/power_supply/b/energy_full",
    "sys/class/power_supply/c",
]  # fmt: skip


def write_tree(root: Path, texts: dict[str, bytes | None]) -> None:
    for name, text in texts.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if text == b"folder":
            path.mkdir()
        elif text is not None:
            path.write_bytes(text)


def is_sane(sample: Sample | None) -> bool:
    return sample is None or (
        sample.value >= 0
        and sample.limit >= 0
        and sample.percent >= 0
        and (sample.stall is None or 0 <= sample.stall <= 100)
    )


@pytest.mark.slow
@settings(max_examples=150)
@given(st.fixed_dictionaries({name: TEXTS for name in FILES}), st.integers(0, 1 << 40))
def test_whatever_the_files_hold_it_is_a_value_or_not_known(
    texts: dict[str, Any], configured: int
) -> None:
    # In memory: thousands of files that are no disk's business.
    root = Path(tempfile.mkdtemp(dir="/dev/shm"))
    try:
        write_tree(root, texts)
        assert is_sane(memory.sample_memory(root, configured))
        assert is_sane(disk.sample_io(root))
        assert is_sane(power.sample_power(root))
        found = cpu.read_cpu(root, 4)
        assert 0 < found.cores <= 4
        for controller in ("memory", "cpu"):
            _, paths = folders(root, controller)
            assert all(path.is_relative_to(root) and ".." not in path.parts for path in paths)
    finally:
        shutil.rmtree(root)

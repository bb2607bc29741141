"""How many processors this process may use, and how often its control group was held up."""

from pathlib import Path

import msgspec

from edgesync.resources.cgroup import folders
from edgesync.resources.kernel import number, read_number, read_table, read_text


class CpuCounts(msgspec.Struct, frozen=True):
    """cores that may be used; periods so far, and those in which the group had to wait."""

    cores: float
    periods: int = 0
    throttled: int = 0


def read_cpu(root: Path, cores: int) -> CpuCounts:
    """Return the smallest quota up to the root's, at most `cores`, those the scheduler gives us."""
    version, paths = folders(root, "cpu")
    allowed, periods, throttled = float(cores), 0, 0
    for path in paths:
        quota = _quota_v2(path) if version == 2 else _quota_v1(path)
        if quota is None or quota >= allowed:
            continue
        stat = read_table(path / "cpu.stat")
        allowed = quota
        periods, throttled = stat.get("nr_periods", 0), stat.get("nr_throttled", 0)
    return CpuCounts(allowed, periods, throttled)


def _quota_v2(path: Path) -> float | None:
    words = (read_text(path / "cpu.max") or "").split()
    return _ratio(number(words[0]), number(words[1])) if len(words) == 2 else None


def _quota_v1(path: Path) -> float | None:
    quota = read_number(path / "cpu.cfs_quota_us")  # -1, none, is no number here
    return _ratio(quota, read_number(path / "cpu.cfs_period_us"))


def _ratio(quota: int | None, period: int | None) -> float | None:
    return quota / period if quota and period else None

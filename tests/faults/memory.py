"""The most memory this process held while something ran."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

STATUS = Path("/proc/self/status")
CLEAR = Path("/proc/self/clear_refs")


class Peak:
    grown_kib = 0


@contextmanager
def peak() -> Iterator[Peak]:
    """Measure from here: the kernel's mark of the process's life, set back to what it holds now.

    `ru_maxrss` cannot be set back: after an earlier test with a higher peak it sees nothing.
    """
    found = Peak()
    CLEAR.write_text("5")
    before = _high_water_kib()
    yield found
    found.grown_kib = _high_water_kib() - before


def _high_water_kib() -> int:
    (line,) = (line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1])

"""Pressure stall information: how much of the time work has waited for a resource.

Many kernels for small boards are built without it, and some start with it switched off: then it is
not known, and amounts alone decide. The files are read on the monitor's timer; triggers would need
a privilege, or windows no shorter than that (psi.rst), and wake nobody sooner.
"""

import re
from pathlib import Path
from typing import Literal

from edgesync.resources.cgroup import folders
from edgesync.resources.kernel import read_text

_LINE = re.compile(r"^(some|full) avg10=(\d{1,3}(?:\.\d{1,4})?)\b", re.M)

Resource = Literal["memory", "io", "cpu"]


def read_stall(
    root: Path, resource: Resource, kind: Literal["some", "full"] = "some"
) -> float | None:
    """Return the percent of the last 10 s in which some tasks (`full`: all) were waiting.

    Of our own control group where it says so, else of the machine; None where neither does.
    """
    version, paths = folders(root, resource)
    files = [path / f"{resource}.pressure" for path in paths[:1]] if version == 2 else []
    for path in (*files, root / "proc/pressure" / resource):
        found = dict(_LINE.findall(read_text(path) or ""))
        if kind in found:
            return min(float(found[kind]), 100.0)
    return None

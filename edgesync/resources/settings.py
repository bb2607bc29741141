"""[resources] of edge.toml: what may be used, and from where on something is done about it."""

import itertools
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from edgesync.units import Bytes, Period

Percent = Annotated[float, Meta(ge=0, le=100)]
Steps = tuple[Percent, Percent, Percent]
# Steps nearer to each other than a level's margin would be one step that shows as two.
APART = 5.0


class ResourcesSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Watched by every edge that uses keys, and by others when this section says anything.

    memory_limit, storage_limit   0: whatever the control group, the machine, the store allow
    *_levels                      percent above which it is warning, high, critical; of the battery
                                  percent of charge below which
    """

    memory_limit: Bytes = Bytes(0)
    storage_limit: Bytes = Bytes(0)
    cpu_budget: Literal["low", "medium", "high"] = "high"
    # As often as the kernel works its averages of pressure out anew.
    interval: Period = Period(2.0)
    memory_levels: Steps = (80, 90, 95)
    disk_levels: Steps = (70, 85, 95)
    # Busy is no emergency: by itself it never becomes critical.
    cpu_levels: Steps = (80, 95, 100)
    battery_levels: Steps = (50, 20, 10)

    def __post_init__(self) -> None:
        for name in ("memory", "disk", "cpu"):
            _check_apart(f"{name}_levels must rise", getattr(self, f"{name}_levels"))
        _check_apart("battery_levels must fall", _drained(self.battery_levels))

    @property
    def cpu_share(self) -> float:
        """Part of the processors it may use that this edge should do with."""
        return {"low": 0.25, "medium": 0.5, "high": 1.0}[self.cpu_budget]

    @property
    def battery_drained(self) -> Steps:
        return _drained(self.battery_levels)


def _drained(charges: Steps) -> Steps:
    first, second, third = charges
    return 100 - first, 100 - second, 100 - third


def _check_apart(what: str, steps: Steps) -> None:
    if any(later - step < APART for step, later in itertools.pairwise(steps)):
        raise ValueError(f"{what} by at least {APART:.0f} points from one to the next")

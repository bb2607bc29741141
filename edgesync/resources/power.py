"""Battery or mains, from /sys/class/power_supply."""

from pathlib import Path

import msgspec

from edgesync.resources.kernel import read_number, read_text
from edgesync.resources.levels import Sample

FOLDER = Path("sys/class/power_supply")
SUPPLIES_MAX = 64


class Power(msgspec.Struct, frozen=True):
    """charge is percent; it lives on the battery while `is_draining`."""

    charge: float
    is_draining: bool


def read_power(root: Path = Path("/")) -> Power | None:
    """Return the charge of all batteries of this machine; None without any, or when not known."""
    try:
        supplies = sorted((root / FOLDER).iterdir())[:SUPPLIES_MAX]
    except (OSError, ValueError):
        return None
    charges, states = [], []
    has_mains = False
    for path in supplies:
        kind = _word(path / "type")
        if kind in ("mains", "usb", "wireless"):
            has_mains |= read_number(path / "online") == 1
        # A mouse has a battery too; its scope is Device.
        elif kind == "battery" and _word(path / "scope") != "device":
            charge = _charge(path)
            if charge is not None:
                charges.append(charge)
                states.append(_word(path / "status"))
    if not charges:
        return None
    is_draining = "discharging" in states and not has_mains
    return Power(sum(charges) / len(charges), is_draining)


def sample_power(root: Path = Path("/")) -> Sample | None:
    """Return how empty the battery is; on mains that strains nothing."""
    found = read_power(root)
    if found is None:
        return None
    strain = 100.0 - found.charge if found.is_draining else 0.0
    return Sample(value=found.charge, limit=100, percent=found.charge, strain=strain)


def _charge(path: Path) -> float | None:
    percent = read_number(path / "capacity")
    if percent is not None and percent <= 100:
        return float(percent)
    for what in ("energy", "charge"):
        now, full = read_number(path / f"{what}_now"), read_number(path / f"{what}_full")
        if now is not None and full:
            return min(100.0 * now / full, 100.0)
    return None


def _word(path: Path) -> str:
    return (read_text(path) or "").strip().lower()

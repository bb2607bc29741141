"""Finds and reads device profiles: the bundled ones by name, a user's own by path.

A profile is TOML or JSON in the format of `settings.ProfileSettings`.
"""

from importlib import resources
from pathlib import Path
from typing import Any

import msgspec

from edgesync import toml
from edgesync.errors import ConfigError
from edgesync.sources.modbus.layout import Layout, resolve
from edgesync.sources.modbus.settings import ModbusDeviceSettings, ProfileSettings

# Larger than any real device's map (10,000 points are about 1 MB); a mistake, not a profile.
PROFILE_BYTES_MAX = 4 << 20


def bundled_profiles() -> tuple[str, ...]:
    """Return the names of the profiles that come with edgesync."""
    files = resources.files("edgesync.sources.modbus") / "profiles"
    return tuple(sorted(f.name[:-5] for f in files.iterdir() if f.name.endswith(".toml")))


def load_profile(name: str, folder: Path | None = None) -> ProfileSettings:
    """Read the bundled profile `name`, or the file it is a path of (relative to `folder`).

    Raises ConfigError naming the field, or the profiles there are.
    """
    if name.endswith((".toml", ".json")) or "/" in name:
        return _read_file((folder or Path()) / name)
    if name not in bundled_profiles():
        known = ", ".join(bundled_profiles())
        raise ConfigError(
            file="profile", field=name, problem="is not a bundled profile",
            remedy=f"known: {known}; or give a path ending in .toml or .json",
        )  # fmt: skip
    found = resources.files("edgesync.sources.modbus") / "profiles" / f"{name}.toml"
    return parse_profile(found.read_bytes(), f"{name}.toml")


def parse_profile(data: bytes, file: str) -> ProfileSettings:
    """Read a profile from the bytes of `file`. Raises ConfigError."""
    if len(data) > PROFILE_BYTES_MAX:
        raise _problem(file, f"has {len(data)} bytes", f"allowed: {PROFILE_BYTES_MAX}")
    if not file.endswith(".json"):
        return toml.convert(toml.parse(data, file=file), ProfileSettings, file=file)
    try:
        raw: Any = msgspec.json.decode(data)
    except (ValueError, RecursionError) as error:
        raise _problem(file, f"cannot be read: {error}", "write it as TOML or JSON") from error
    return toml.convert(raw, ProfileSettings, file=file)


def load_layout(device: ModbusDeviceSettings, folder: Path | None = None) -> Layout:
    """Read the device's profile, if it names one, and resolve both. Raises ConfigError."""
    try:
        profile = load_profile(device.profile, folder) if device.profile else None
    except ConfigError as error:
        if error.field in (device.profile, "profile"):  # the file, not what is in it
            raise ConfigError(
                file=f"device {device.name!r}", field="profile", problem=str(error)
            ) from error
        raise
    return resolve(device, profile)


def _read_file(path: Path) -> ProfileSettings:
    try:
        with path.open("rb") as file:
            return parse_profile(file.read(PROFILE_BYTES_MAX + 1), path.name)
    except OSError as error:
        raise _problem(str(path), f"cannot be read: {error.strerror}") from error


def _problem(file: str, problem: str, remedy: str = "") -> ConfigError:
    return ConfigError(file=file, field="profile", problem=problem, remedy=remedy)

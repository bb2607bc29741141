"""Settings that are read and then ignored: run each test of a setting without it, and expect red.

`pytest -p tests.ignored -m setting` runs every test marked `setting("sync.heartbeat", …)` once for
each name, with that key at its default whatever the file says. A test that passes all the same
shows nothing of its key, and is reported as failed.
"""

import typing
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import pytest

import edgesync.settings
import hubd.settings
from edgesync.sources.modbus import layout, source
from edgesync.sources.modbus.settings import ProfileSettings

ROOTS: Mapping[str, type[msgspec.Struct]] = {
    "": edgesync.settings.Settings,
    "hub.toml ": hubd.settings.Settings,
    "profile.": ProfileSettings,
}
# Field of a kind of struct that is at its default now.
_ignored: set[tuple[type, str]] = set()


def inner(kind: Any) -> type[msgspec.Struct] | None:
    """Return the struct in an annotation such as `tuple[RollupRule, ...]`, if there is one."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return kind
    return next((found for one in typing.get_args(kind) if (found := inner(one))), None)


def keys() -> dict[str, tuple[type[msgspec.Struct], str, bool]]:
    """Return name -> (struct, field, whether it may be left out), of all that files may say."""
    found: dict[str, tuple[type[msgspec.Struct], str, bool]] = {}

    def walk(kind: type[msgspec.Struct], prefix: str) -> None:
        for field in msgspec.structs.fields(kind):
            below = inner(field.type)
            if below is None or not isinstance(field.default, below):
                found[prefix + field.encode_name] = (kind, field.name, not field.required)
            # A point is the same wherever it is written.
            if (below is not None and prefix != "profile.") or field.name == "limits":
                walk(below or kind, f"{prefix}{field.encode_name}.")

    for prefix, kind in ROOTS.items():
        walk(kind, prefix)
    return found


def reset(value: Any) -> Any:
    """Return `value` with what is ignored at its default."""
    if isinstance(value, msgspec.Struct):
        changes = {
            field.name: reset(getattr(value, field.name)) for field in msgspec.structs.fields(value)
        }
        for field in msgspec.structs.fields(value):
            if (type(value), field.name) in _ignored:
                made = field.default_factory
                changes[field.name] = field.default if made is msgspec.NODEFAULT else made()
        return msgspec.structs.replace(value, **changes)
    if type(value) is tuple:
        return tuple(reset(one) for one in value)
    if type(value) is dict:
        return {key: reset(one) for key, one in value.items()}
    return value


def _patch() -> None:
    convert, resolver = msgspec.convert, layout._Resolver.__init__
    sources = source.modbus_sources

    def converted(*args: Any, **kwargs: Any) -> Any:
        found = convert(*args, **kwargs)
        return reset(found) if _ignored else found

    def resolved(self: Any, device: Any, profile: Any) -> None:
        resolver(self, reset(device), reset(profile))

    def made(devices: Any, *args: Any, **kwargs: Any) -> Any:
        return sources([reset(one) for one in devices], *args, **kwargs)

    msgspec.convert = converted
    layout._Resolver.__init__ = resolved  # type: ignore[method-assign]
    source.modbus_sources = made


_patch()


@pytest.fixture(autouse=True)
def _setting_ignored(request: pytest.FixtureRequest) -> Iterator[None]:
    if name := getattr(request, "param", ""):
        _ignored.add(keys()[name][:2])
    yield
    _ignored.clear()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    named = [name for mark in metafunc.definition.iter_markers("setting") for name in mark.args]
    optional = [name for name in named if keys()[name][2]]
    if optional:
        must_fail = pytest.mark.xfail(strict=True, reason="its setting is ignored")
        metafunc.parametrize(
            "_setting_ignored",
            [pytest.param(name, marks=must_fail) for name in optional],
            indirect=True,
        )

"""All parts and sources of a node: one row each, and nothing else to register.

A row names a class or function as `module:name`. It is imported when it is used and not before: an
edge pays, in memory and at the start, for what its settings ask for.
"""

import importlib
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from edgesync.parts.part import Life
from edgesync.resources.settings import ResourcesSection
from edgesync.settings import Settings


def always(_settings: Settings) -> bool:
    return True


def on_demand(_settings: Settings) -> bool:
    return False


class PartRow(NamedTuple):
    """A part.

    name       by which other parts get it
    factory    a subclass of Part, called with the Context
    life       from which life of the node on it may be opened
    is_wanted  whether these settings open it with that life; if not, the first use does
    databases  its tables in the edge's store
    """

    name: str
    factory: str
    life: Life
    is_wanted: Callable[[Settings], bool] = always
    databases: tuple[str, ...] = ()


class SourceRow(NamedTuple):
    """Sources of a section of the settings, which a reload replaces.

    section   its name; an empty one makes no sources
    factory   called as (section, folder=, wall_ns=); returns sources with a `key` each: equal keys
              are the same source, which a reload leaves alone
    """

    section: str
    factory: str


# Opened in this order, closed in the reverse one.
PARTS: Final[tuple[PartRow, ...]] = (
    PartRow("recorder", "edgesync.recorder:Recorder", Life.LOCAL),
    PartRow("link", "edgesync.parts.link:LinkPart", Life.LOCAL, databases=("dead",)),
    PartRow(
        "rpc", "edgesync.parts.rpc:RpcPart", Life.RUNNING,
        lambda settings: bool(settings.hub.endpoint), ("rpc",),
    ),
    PartRow(
        "told", "edgesync.parts.told:ToldPart", Life.RUNNING,
        lambda settings: bool(settings.hub.endpoint),
    ),
    PartRow("keys", "edgesync.parts.keys:KeysPart", Life.LOCAL, on_demand, ("cells",)),
    PartRow("entities", "edgesync.parts.entities:EntitiesPart", Life.LOCAL, on_demand),
    PartRow("points", "edgesync.parts.points:PointsPart", Life.LOCAL, on_demand, ("points",)),
    PartRow("resend", "edgesync.parts.resend:ResendPart", Life.LOCAL),
    PartRow(
        "rules", "edgesync.rules.part:RulesPart", Life.RUNNING,
        lambda settings: bool(settings.rules.chains), ("rules",),
    ),
    PartRow(
        "chains", "edgesync.rules.assigned:AssignedPart", Life.RUNNING,
        lambda settings: bool(settings.hub.endpoint), ("chains",),
    ),
    PartRow(
        "tunnel", "edgesync.tunnel.part:TunnelPart", Life.RUNNING,
        lambda settings: bool(settings.hub.endpoint and settings.tunnel.allow),
    ),
    PartRow(
        "objects", "edgesync.objects.part:ObjectsPart", Life.LOCAL,
        lambda settings: bool(settings.hub.endpoint),
    ),
    PartRow("sources", "edgesync.parts.sources:SourcesPart", Life.RUNNING),
    PartRow("upkeep", "edgesync.parts.upkeep:UpkeepPart", Life.RUNNING),
    PartRow(
        "resources", "edgesync.parts.resources:ResourcesPart", Life.RUNNING,
        lambda settings: settings.resources != ResourcesSection(),
    ),
    PartRow(
        "windows", "edgesync.parts.points:WindowsPart", Life.RUNNING,
        lambda settings: bool(settings.series.rollup),
    ),
    PartRow("control", "edgesync.serve.answers:ControlPart", Life.SERVING),
    PartRow(
        "redis", "edgesync.serve.resp.door:RedisPart", Life.SERVING,
        lambda settings: settings.cells.port > 0,
    ),
    PartRow(
        "http", "edgesync.serve.http:HttpPart", Life.SERVING,
        lambda settings: settings.http.port > 0,
    ),
    PartRow(
        "mqtt", "edgesync.serve.mqtt.door:MqttPart", Life.SERVING,
        lambda settings: settings.mqtt.is_open,
    ),
    PartRow(
        "device-http", "edgesync.serve.device_http.door:DeviceHttpPart", Life.SERVING,
        lambda settings: settings.device_http.is_open,
    ),
)  # fmt: skip

SOURCES: Final[tuple[SourceRow, ...]] = (
    SourceRow("modbus", "edgesync.sources.modbus.source:modbus_sources"),
)


def row(name: str) -> PartRow:
    """Return the row of a part; raises LookupError, which names those there are."""
    for known in PARTS:
        if known.name == name:
            return known
    names = ", ".join(known.name for known in PARTS)
    raise LookupError(f"a node has no part {name!r}; edgesync/parts/table.py lists {names}")


def databases() -> tuple[str, ...]:
    """Return the tables that the parts have in the edge's store."""
    return tuple(name for known in PARTS for name in known.databases)


def load(factory: str) -> Any:
    """Import what a row names; raises LookupError when there is no such module or name."""
    module, _, name = factory.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # a library that the module needs
        raise LookupError(f"edgesync/parts/table.py: there is no module {module}") from error
    except AttributeError as error:
        raise LookupError(f"edgesync/parts/table.py: {module} has no {name!r}") from error

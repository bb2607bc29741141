"""edgesync: a local-first edge runtime; what it acknowledged is never lost or doubled."""

from typing import TYPE_CHECKING

from edgesync.model import Action as Action
from edgesync.model import Event as Event
from edgesync.model import EventType as EventType
from edgesync.model import Lane as Lane
from edgesync.model import Reading as Reading

if TYPE_CHECKING:
    from edgesync.aggregate import EdgeAggregator as EdgeAggregator
    from edgesync.node import EdgeNode as EdgeNode
    from edgesync.sensors import SensorConfig as SensorConfig
    from edgesync.sensors import SensorIngestion as SensorIngestion
    from edgesync.sensors import SensorReading as SensorReading

__version__ = "0.1.0"

__all__ = [
    "Action",
    "EdgeAggregator",
    "EdgeNode",
    "Event",
    "EventType",
    "Lane",
    "Reading",
    "SensorConfig",
    "SensorIngestion",
    "SensorReading",
]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> object:
    # The node brings Trio and the store along; `import edgesync` alone, as the hub does, need not.
    if name == "EdgeNode":
        from edgesync.node import EdgeNode

        return EdgeNode
    if name == "EdgeAggregator":
        from edgesync.aggregate import EdgeAggregator

        return EdgeAggregator
    if name in ("SensorConfig", "SensorIngestion", "SensorReading"):
        from edgesync import sensors

        return getattr(sensors, name)
    raise AttributeError(name)

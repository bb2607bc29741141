"""What an edge knows about its entities, for nodes that ask."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from edgesync.model import Value
from edgesync.rules.engine import ATTRIBUTES, PROFILES
from edgesync.rules.message import Originator
from edgesync.rules.state import State

if TYPE_CHECKING:
    from edgesync.parts.part import Context
    from edgesync.rules.nodes.profile import ProfileAlarm

READINGS_MAX: Final = 10_000


class EdgeFacts:
    """Answers from the process image, the readings kept here, and what rules remember."""

    def __init__(self, context: "Context", state: State) -> None:
        self._context = context
        self._state = state
        self.profiles: Mapping[str, tuple[ProfileAlarm, ...]] = {}

    def profile(self, entity: Originator) -> str:
        return str(self._state.get(PROFILES, entity.name) or "default")

    def attributes(self, entity: Originator, scope: str) -> Mapping[str, Value]:
        found: Mapping[str, Value] = self._state.get(ATTRIBUTES, f"{entity}\0{scope}") or {}
        return found

    def latest(self, entity: Originator, key: str) -> tuple[int, Value] | None:
        found = self._context.image.newest(entity.name, key)
        return None if found is None else (found.time_ns, found.value)

    def readings(
        self, entity: Originator, key: str, from_ns: int, to_ns: int
    ) -> list[tuple[int, Value]]:
        store = self._context.parts.get("points").store
        kept = store.find(entity.name, key)
        if kept is None:
            return []
        found = store.readings(kept, from_ns, to_ns, limit=READINGS_MAX)
        return [(point.time_ns, point.value) for point in found]

    def alarm_rules(self, entity: Originator) -> Sequence[Any]:
        return self.profiles.get(self.profile(entity), ())

    def related(self, entity: Originator, direction: str, kind: str) -> list[Originator]:
        return []

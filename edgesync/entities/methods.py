"""`node.entities`, for programs."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgesync.parts.entities import EntitiesPart


class EntityMethods:
    """What a node adds for entities, by way of `part`."""

    def part(self, name: str) -> Any:
        """Return a part by its name."""
        raise NotImplementedError

    @property
    def entities(self) -> "EntitiesPart":
        """Devices and assets of this edge, their attributes, relations and alarms."""
        entities: EntitiesPart = self.part("entities")
        return entities

"""What HubClient does with entities: of an edge, whether or not it can be reached."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import quote

from hubd.api.entity_shapes import Alarms, AlarmView, Attributes, Entities, EntityView, Removed

T = TypeVar("T")


class EntityMethods:
    """Methods of HubClient; each change is on the hub's disk when it returns (I1)."""

    async def _get(self, path: str, shape: type[T], **query: str) -> T:
        raise NotImplementedError

    async def _post(self, path: str, body: dict[str, Any], shape: type[T]) -> T:
        raise NotImplementedError

    async def entities(self, edge: str, kind: str = "") -> list[EntityView]:
        """Return the entities of an edge."""
        found: list[EntityView] = []
        after: str | None = ""
        while after is not None:
            page = await self._get(_of(edge, "entities"), Entities, kind=kind, after=after)
            found += page.entities
            after = page.next
        return found

    async def save_entity(
        self, edge: str, name: str, *, kind: str = "device", **fields: Any
    ) -> EntityView:
        """Create an entity, or change fields of it; None removes one."""
        body = {"entity": name, "kind": kind, "fields": fields}
        return await self._post(_of(edge, "entities"), body, EntityView)

    async def delete_entity(self, edge: str, name: str, *, kind: str = "device") -> dict[str, int]:
        """Remove an entity from its edge, with all it has; returns what that was."""
        body = {"entity": name, "kind": kind}
        return (await self._post(_of(edge, "entities/delete"), body, Removed)).removed

    async def attributes(self, edge: str, name: str, *, kind: str = "device") -> Attributes:
        """Return the attributes of an entity, in three scopes."""
        return await self._get(
            _of(edge, "attributes"), Attributes, entity=name, kind=kind, limit=""
        )

    async def set_attributes(
        self,
        edge: str,
        name: str,
        values: Mapping[str, Any],
        *,
        scope: str = "shared",
        delete: Sequence[str] = (),
        kind: str = "device",
    ) -> Attributes:
        """Set and delete attributes; shared ones reach the device."""
        body = {
            "entity": name, "kind": kind, "scope": scope, "set": dict(values),
            "delete": list(delete),
        }  # fmt: skip
        return await self._post(_of(edge, "attributes"), body, Attributes)

    async def claim(self, edge: str, name: str, secret: str = "", *, by: str = "hub") -> Attributes:
        """Claim a device that offers itself."""
        body = {"entity": name, "secret": secret, "by": by}
        return await self._post(_of(edge, "claim"), body, Attributes)

    async def alarms(self, edge: str, status: str = "") -> list[AlarmView]:
        """Return the alarms of an edge; `status` may be active or cleared."""
        found: list[AlarmView] = []
        after: str | None = ""
        while after is not None:
            page = await self._get(_of(edge, "alarms"), Alarms, status=status, after=after)
            found += page.alarms
            after = page.next
        return found

    async def ack_alarm(self, edge: str, id_: str, *, by: str = "hub") -> AlarmView:
        """Acknowledge an alarm, as it is seen at the hub."""
        return await self._post(_of(edge, f"alarms/{quote(id_)}/ack"), {"by": by}, AlarmView)

    async def clear_alarm(self, edge: str, id_: str, *, by: str = "hub") -> AlarmView:
        """End an alarm, as it is seen at the hub."""
        return await self._post(_of(edge, f"alarms/{quote(id_)}/clear"), {"by": by}, AlarmView)


def _of(edge: str, what: str) -> str:
    return f"edges/{quote(edge, safe='')}/{what}"

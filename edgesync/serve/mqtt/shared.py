"""What MQTT clients have to do with attributes: their reports, requests, and pushes of shared ones.

A push has what is new since the device was first told of its attributes on this connection, by an
answer or by the push before. So nothing that changes between a request and a subscription is
missed, and what a device changed back and forth is told once.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec

from edgesync.errors import CommandError, EntityError, Evicted
from edgesync.serve.mqtt.client import Client
from edgesync.serve.mqtt.packets import Reason
from edgesync.serve.mqtt.thingsboard import DEVICE, GATEWAY, Refused
from edgesync.serve.mqtt.topics import matches
from edgesync.serve.mqtt.values import BadPayload

if TYPE_CHECKING:
    from edgesync.entities.model import EntityId

# Devices that a gateway is told of; beyond, those it spoke for longest ago are forgotten.
CHILDREN_MAX: Final = 10_000
PUSHED: Final = (DEVICE + "attributes", "v2/a", "v2/a/j")
PUSHED_GATEWAY: Final = GATEWAY + "attributes"
SHARED: Final = "shared"


class Entities(Protocol):
    """Attributes of this edge's devices."""

    edge: str

    def attributes(
        self, kind: str, name: str, scope: str = ..., names: Collection[str] | None = ...
    ) -> dict[str, Any]: ...
    def report(self, name: str, values: Mapping[str, Any]) -> None: ...
    def listen(self, listener: "Callable[[bytes, EntityId], None]") -> None: ...
    def leave(self, listener: "Callable[[bytes, EntityId], None]") -> None: ...
    def wait_durable(self) -> Awaitable[None]: ...


class DeviceAttributes:
    """Attributes that devices report and ask for; the edge's entities are opened with the first."""

    def __init__(self, open_entities: Callable[[], Entities]) -> None:
        self._open = open_entities
        self._opened: Entities | None = None

    @property
    def _entities(self) -> Entities:
        if self._opened is None:
            self._opened = self._open()
        return self._opened

    def report(self, name: str, values: Mapping[str, Any]) -> None:
        """Take client attributes, in memory; raises BadPayload, Refused."""
        try:
            self._entities.report(name, values)
        except EntityError as error:
            raise BadPayload(error.field, f"{error.problem}; {error.remedy}") from error
        except (CommandError, Evicted) as error:
            raise Refused(Reason.QUOTA_EXCEEDED, str(error)) from error

    def read(self, name: str, scope: str, names: Collection[str] | None = None) -> dict[str, Any]:
        """Return attributes of a device, for an answer; raises BadPayload, Refused."""
        try:
            return self._entities.attributes("device", name, scope, names)
        except EntityError as error:
            raise BadPayload(error.field, error.problem) from error
        except Evicted as error:
            raise Refused(Reason.QUOTA_EXCEEDED, str(error)) from error

    async def wait_durable(self) -> None:
        """Return when what was reported is on disk; raises StoreError."""
        if self._opened is not None:
            await self._opened.wait_durable()


class PushedAttributes(DeviceAttributes):
    """... and shared ones that MQTT clients are told of as they change.

    deliver  sends a message to a client, if it subscribes to the topic
    """

    def __init__(
        self, open_entities: Callable[[], Entities], deliver: Callable[[Client, str, bytes], None]
    ) -> None:
        super().__init__(open_entities)
        self._deliver = deliver
        self._clients: dict[str, dict[Client, None]] = {}
        self._told: dict[str, dict[str, Any]] = {}  # what a device knows of its shared attributes

    @property
    def _entities(self) -> Entities:
        if self._opened is None:
            self._opened = self._open()
            self._opened.listen(self._changed)
        return self._opened

    def close(self) -> None:
        """Be told of changes no more."""
        if self._opened is not None:
            self._opened.leave(self._changed)

    def read(self, name: str, scope: str, names: Collection[str] | None = None) -> dict[str, Any]:
        if scope == SHARED:
            self._watch(name)
        return super().read(name, scope, names)

    # -- who is there --------------------------------------------------------------------------

    def admitted(self, client: Client) -> None:
        """A client came in: a device of its own."""
        assert client.device is not None
        self._clients.setdefault(client.device.name, {})[client] = None

    def released(self, client: Client) -> None:
        """A client is gone, and nothing is told of the devices it spoke for."""
        if client.device is not None:
            for name in (client.device.name, *client.children):
                self._leave(name, client)
        client.children.clear()

    def named(self, client: Client, names: Collection[str]) -> None:
        """A gateway has spoken for devices: it is told of them from now on."""
        for name in names:
            client.children.pop(name, None)
            client.children[name] = None
            self._clients.setdefault(name, {})[client] = None
            if self._is_subscribed(client, PUSHED_GATEWAY):
                self._watch(name)
        while len(client.children) > CHILDREN_MAX:
            self.unnamed(client, next(iter(client.children)))

    def unnamed(self, client: Client, name: str) -> None:
        """A gateway speaks for a device no more."""
        if client.children.pop(name, 0) is None:
            self._leave(name, client)

    def _leave(self, name: str, client: Client) -> None:
        clients = self._clients.get(name, {})
        clients.pop(client, None)
        if not clients:
            self._clients.pop(name, None)
            self._told.pop(name, None)

    def subscribed(self, client: Client) -> None:
        """A client has subscribed to something: it is told what it missed since it asked."""
        assert client.device is not None
        names: list[str] = []
        if any(self._is_subscribed(client, topic) for topic in PUSHED):
            names.append(client.device.name)
        if client.device.is_gateway and self._is_subscribed(client, PUSHED_GATEWAY):
            names += client.children
        for name in names:
            self._watch(name)
            self._push(name)

    # -- pushes --------------------------------------------------------------------------------

    def _watch(self, name: str) -> None:
        if name not in self._told and name in self._clients:
            self._told[name] = self._entities.attributes("device", name, SHARED)

    def _changed(self, room: bytes, one: "EntityId") -> None:
        if room == SHARED.encode() and one.kind == "device" and one.name in self._told:
            self._push(one.name)

    def _push(self, name: str) -> None:
        """Tell whoever subscribes what is new of a device's shared attributes."""
        listening = [
            (client, topic) for client in self._clients.get(name, ())
            for topic in self._topics(client, name)
        ]  # fmt: skip
        if not listening:
            return
        from edgesync.entities.attributes import changes  # with the keys, which are open by now

        now = self._entities.attributes("device", name, SHARED)
        changed, gone = changes(self._told[name], now)
        self._told[name] = now
        for client, topic in listening:
            for data in ([changed] if changed else []) + ([{"deleted": gone}] if gone else []):
                said = {"device": name, "data": data} if topic == PUSHED_GATEWAY else data
                self._deliver(client, topic, msgspec.json.encode(said))

    def _topics(self, client: Client, name: str) -> list[str]:
        assert client.device is not None
        topics = list(PUSHED) if client.device.name == name else []
        topics += [PUSHED_GATEWAY] if name in client.children else []
        return [topic for topic in topics if self._is_subscribed(client, topic)]

    def _is_subscribed(self, client: Client, topic: str) -> bool:
        session = client.connection.session
        return session is not None and any(matches(one, topic) for one in session.subscriptions)

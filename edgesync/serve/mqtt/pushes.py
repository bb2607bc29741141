"""Shared attributes that MQTT clients are pushed as they change.

A push has what is new since the device was first told of its attributes on this connection, by an
answer or by the push before. So nothing that changes between a request and a subscription is
missed, and what a device changed back and forth is told once.
"""

import logging
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any, Final

import msgspec

from edgesync.errors import CommandError, EntityError, Evicted
from edgesync.serve.devices.attributes import SHARED, Entities, HeardAttributes
from edgesync.serve.devices.thingsboard import DEVICE, GATEWAY
from edgesync.serve.mqtt.client import Client
from edgesync.serve.mqtt.topics import matches

if TYPE_CHECKING:
    from edgesync.entities.model import EntityId

log = logging.getLogger(__name__)

# Devices that a gateway is told of; beyond, those it spoke for longest ago are forgotten.
CHILDREN_MAX: Final = 10_000
PUSHED: Final = (DEVICE + "attributes", "v2/a", "v2/a/j")
PUSHED_GATEWAY: Final = GATEWAY + "attributes"


class PushedAttributes(HeardAttributes):
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
        # ... and what those know of their devices who were not told all, for lack of room.
        self._behind: dict[Client, dict[str, dict[str, Any]]] = {}

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
        self._behind.pop(client, None)

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
        self._behind.get(client, {}).pop(name, None)
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
            self._told[name] = self._read_shared(name) or {}

    def _read_shared(self, name: str) -> dict[str, Any] | None:
        """Return shared attributes of a device; None if they cannot be read now, or ever."""
        try:
            return self._entities.attributes("device", name, SHARED)
        except (EntityError, CommandError, Evicted) as error:  # costs this device its news (I8)
            log.warning("mqtt: attributes are not pushed: device=%.100s %s", name, error)
            return None

    def _changed(self, room: bytes, one: "EntityId") -> None:
        if room == SHARED.encode() and one.kind == "device" and one.name in self._told:
            self._push(one.name)

    def _push(self, name: str) -> None:
        """Tell whoever subscribes what is new of a device's shared attributes."""
        listening = [
            (client, topics) for client in self._clients.get(name, ())
            if (topics := self._topics(client, name))
        ]  # fmt: skip
        if not listening:
            return
        if (now := self._read_shared(name)) is None:
            return
        before, self._told[name] = self._told[name], now
        for client, topics in listening:
            self._tell(client, name, topics, self._behind.get(client, {}).pop(name, before))

    def catch_up(self, client: Client) -> None:
        """Tell a client what it had no room for, as it is now."""
        behind = self._behind.get(client)
        while behind and client.has_room:
            name = next(iter(behind))
            self._tell(client, name, self._topics(client, name), behind.pop(name))
        if behind is not None and not behind:
            del self._behind[client]

    def _tell(
        self, client: Client, name: str, topics: Collection[str], before: dict[str, Any]
    ) -> None:
        """Tell a client what has changed of a device's attributes since `before`."""
        from edgesync.entities.attributes import changes  # with the keys, which are open by now

        if not client.has_room:
            self._behind.setdefault(client, {})[name] = before
            return
        changed, gone = changes(before, self._told[name])
        for topic in topics:
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

"""Attributes that devices report and ask for, whatever they speak."""

import secrets
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any, Final, Protocol

from edgesync.errors import CommandError, EntityError, Evicted
from edgesync.serve.devices.thingsboard import Refused
from edgesync.serve.devices.values import BadPayload
from edgesync.serve.mqtt.packets import Reason

if TYPE_CHECKING:
    from edgesync.entities.model import EntityId

SHARED: Final = "shared"


class Entities(Protocol):
    """Attributes of this edge's devices."""

    edge: str

    def attributes(
        self, kind: str, name: str, scope: str = ..., names: Collection[str] | None = ...
    ) -> dict[str, Any]: ...
    def report(self, name: str, values: Mapping[str, Any], scope: str = ...) -> None: ...
    def listen(self, listener: "Callable[[bytes, EntityId], None]") -> None: ...
    def leave(self, listener: "Callable[[bytes, EntityId], None]") -> None: ...
    @property
    def refusals(self) -> int: ...
    def wait_durable(self, since: int | None = ...) -> Awaitable[None]: ...


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
        self._report(name, values, "client")

    def offer(self, name: str, secret: str, until_ms: int) -> None:
        """Let a device be claimed, in memory; raises BadPayload, Refused."""
        from edgesync.entities.claims import OFFER, offer  # with the keys, which are open by now

        held = offer(secret, until_ms, secrets.token_hex(8))
        self._report(name, {OFFER: held}, "server")

    def _report(self, name: str, values: Mapping[str, Any], scope: str) -> None:
        try:
            self._entities.report(name, values, scope)
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

    @property
    def refusals(self) -> int:
        """How often what was reported has been taken back, for the store refused it."""
        return 0 if self._opened is None else self._opened.refusals

    async def wait_durable(self, since: int) -> None:
        """Return when what was reported, or came from the hub, is on disk; raises StoreError.

        since   `refusals` when the report was taken: others have been waited for since
        """
        if self._opened is not None:
            await self._opened.wait_durable(since)


class HeardAttributes(DeviceAttributes, ABC):
    """... whose changes are heard of, from the first use on."""

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

    @abstractmethod
    def _changed(self, room: bytes, one: "EntityId") -> None:
        """Learn that attributes in a room of an entity have changed."""

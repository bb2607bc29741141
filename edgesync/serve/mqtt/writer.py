"""Stores messages of MQTT clients, those of all clients in one write.

A message that spoils the write costs itself alone (I8); a store that takes nothing costs all.
"""

import logging
from collections.abc import Callable, Sequence

import trio

from edgesync.errors import RecordError, StoreError, TooManySeries
from edgesync.model import Event
from edgesync.serve.devices.attributes import DeviceAttributes
from edgesync.serve.devices.door import Recorder
from edgesync.serve.devices.provisioning import Provisioning
from edgesync.serve.devices.thingsboard import (
    PROVISION_REQUEST,
    PROVISION_RESPONSE,
    Device,
    Message,
)
from edgesync.serve.mqtt.calls import DoorCalls
from edgesync.serve.mqtt.client import Client
from edgesync.serve.mqtt.packets import Reason

log = logging.getLogger(__name__)


class PendingMessage:
    """A message that waits for the disk; a will has no client.

    token    what the connection wants back with the answer
    cost     bytes that it counts for while it waits
    stood    `DeviceAttributes.refusals` when it was read
    reason   of the answer, and `problem` says why where it is none of success
    """

    __slots__ = ("client", "cost", "message", "problem", "reason", "stood", "token")

    def __init__(self, client: Client | None, token: int, message: Message, cost: int) -> None:
        self.client = client
        self.token = token
        self.message = message
        self.cost = cost
        self.stood = 0
        self.reason = Reason.SUCCESS
        self.problem = ""


class MessageWriter:
    """Stores messages; `readings` counts those that are on disk, since the start.

    note_refusal  takes a message, its device, topic and payload, and what is wrong with it
    """

    def __init__(
        self,
        recorder: Recorder,
        attributes: DeviceAttributes,
        calls: DoorCalls | None,
        provisioning: Provisioning,
        note_refusal: Callable[[PendingMessage, Device, str, bytes, Sequence[str]], None],
    ) -> None:
        self._recorder = recorder
        self._attributes = attributes
        self._calls = calls
        self._provisioning = provisioning
        self._note_refusal = note_refusal
        self.readings = 0

    async def write(self, items: Sequence[PendingMessage]) -> None:
        """Store messages in one write; if one of them spoils it, those of each client alone.

        Those that cannot be stored have a `reason` then. Raises StoreError: some may be stored,
        and none may be acknowledged.
        """
        try:
            await self._put(items)
        except RecordError:
            by_client: dict[Client | None, list[PendingMessage]] = {}
            for item in items:
                by_client.setdefault(item.client, []).append(item)
            failures: list[StoreError] = []
            async with trio.open_nursery() as nursery:
                for own in by_client.values():
                    nursery.start_soon(self._put_each, own, failures)
            if failures:
                raise failures[0] from None

    async def _put(self, items: Sequence[PendingMessage]) -> None:
        readings = [one for item in items for one in item.message.readings]
        if readings:
            await self._recorder.ingest(readings)
        events = [one for item in items for one in item.message.events]
        if len(events) == 1:
            await self._recorder.emit(events[0])
        elif events:
            failures: list[RecordError | StoreError] = []
            async with trio.open_nursery() as nursery:
                for event in events:  # one write all the same: group commit
                    nursery.start_soon(self._emit, event, failures)
            if failures:
                raise failures[0]
        if stood := [item.stood for item in items if item.message.needs_disk]:
            await self._attributes.wait_durable(min(stood))
        answers = [one for item in items for one in item.message.answers]
        if answers and self._calls is not None:
            for problem in await self._calls.store(answers):
                log.warning("mqtt: %s", problem)
        for item in items:
            if (asked := item.message.provision) is not None:
                host = item.client.host if item.client is not None else ""
                answer, problem = await self._provisioning.answer(asked, host)
                item.message.replies.append((PROVISION_RESPONSE, answer))
                if problem and item.client is not None and item.client.device is not None:
                    self._note_refusal(item, item.client.device, PROVISION_REQUEST, b"", [problem])
        self.readings += len(readings)

    async def _emit(self, event: Event, failures: list[RecordError | StoreError]) -> None:
        try:
            await self._recorder.emit(event)
        except (RecordError, StoreError) as error:
            failures.append(error)

    async def _put_each(self, items: Sequence[PendingMessage], failures: list[StoreError]) -> None:
        for item in items:
            try:
                await self._put([item])
            except RecordError as error:
                is_full = isinstance(error, TooManySeries)
                item.reason = Reason.QUOTA_EXCEEDED if is_full else Reason.PAYLOAD_FORMAT_INVALID
                item.problem = str(error)
                item.message = Message()
                client = item.client
                if client is not None and client.device is not None:
                    self._note_refusal(item, client.device, "", b"", [str(error)])
                    try:
                        await self._put([item])
                    except RecordError:
                        item.message = Message()  # not even that: it is told, if it can be
                    except StoreError as full:
                        failures.append(full)
                        return
            except StoreError as error:
                failures.append(error)
                return

"""Reads messages of MQTT clients: what of them is to be stored, and what is refused."""

import logging
import time
from collections.abc import Callable, Collection, Sequence
from typing import Final

import trio

from edgesync.refusal import refusal_event
from edgesync.serve.devices.credentials import CredentialsFile
from edgesync.serve.devices.refusals import Refusals
from edgesync.serve.devices.thingsboard import (
    Attributes,
    Device,
    Message,
    Refused,
    ThingsBoard,
    ToldLimits,
)
from edgesync.serve.devices.values import BadPayload
from edgesync.serve.mqtt.client import Client
from edgesync.serve.mqtt.mapping import TopicMap
from edgesync.serve.mqtt.packets import Reason
from edgesync.serve.mqtt.settings import MqttSection
from edgesync.serve.mqtt.writer import PendingMessage

log = logging.getLogger(__name__)

MESSAGE_BYTES: Final = 500  # that one takes besides its payload


class MessageReader:
    """Understands the topics of ThingsBoard, and those that `[[mqtt.topics]]` maps.

    reserved   names of entities that no client may use
    answers    whether calls of a method are answered here

    messages   read since the start
    """

    def __init__(
        self,
        section: MqttSection,
        credentials: CredentialsFile,
        attributes: Attributes,
        answers: Callable[[str], bool],
        *,
        reserved: Collection[str] = (),
        wall_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._credentials = credentials
        self._reserved = frozenset(reserved)
        self._wall_ns = wall_ns
        self._api = ThingsBoard(
            ToldLimits(int(section.packet_limit), section.inflight_max),
            cast=section.type_cast, may_name=self._may_name, attributes=attributes,
            answers=answers,
        )  # fmt: skip
        self._map = TopicMap(section.topics, cast=section.type_cast, may_name=self._may_name)
        self.messages = 0
        self.refusals = Refusals(wall_ns)

    def read(
        self, client: Client | None, token: int, device: Device, topic: str, payload: bytes
    ) -> PendingMessage:
        """Return what is to be stored of a message; a refusal is an event of its own.

        client, token   as for PendingMessage
        """
        self.messages += 1
        item = PendingMessage(client, token, Message(), len(payload) + MESSAGE_BYTES)
        now_ns = self._wall_ns()
        try:
            message = self._api.message(device, topic, payload, now_ns)
            if message is None:
                message = self._map.message(device, topic, payload, now_ns)
            if message is None:
                problem = f"{topic[:100]}: no topic of ThingsBoard, and no [[mqtt.topics]] maps it"
                raise Refused(Reason.TOPIC_NAME_INVALID, problem)
            item.message = message
        except BadPayload as error:
            item.reason, item.problem = Reason.PAYLOAD_FORMAT_INVALID, str(error)
        except Refused as error:
            item.reason, item.problem = error.reason, str(error)
        except Exception:  # a mistake of ours costs this message (I8)
            log.exception("mqtt: a message failed: device=%s topic=%.100s", device.name, topic)
            item.reason, item.problem = Reason.IMPLEMENTATION_SPECIFIC, "a mistake of the edge's"
        if problems := item.message.refused or ([item.problem] if item.problem else []):
            item.problem = problems[0]
            self.note_refusal(item, device, topic, payload, problems)
        return item

    def _may_name(self, device: Device, name: str) -> bool:
        """Return whether a device may name an entity: itself, or any as a gateway or anonymous."""
        if name == device.name:
            return True
        if not (device.is_gateway or device.is_anonymous):
            return False
        return name not in self._credentials.current.names and name not in self._reserved

    def note_refusal(
        self,
        item: PendingMessage,
        device: Device,
        topic: str,
        payload: bytes,
        problems: Sequence[str],
    ) -> None:
        """Count a message that is refused, and have it stored as dead, the first of a client.

        Whoever has no credentials does not fill the store.
        """
        self.note_problem(device, topic, problems[0])
        client = item.client
        if device.is_provisioning or (
            client is not None and not client.may_be_kept(trio.current_time())
        ):
            return
        item.message.events.append(
            refusal_event(device.name, topic, payload, problems, self._wall_ns())
        )

    def note_problem(self, device: Device, topic: str, problem: str) -> None:
        """Count something that is wrong, and show it in the status."""
        self.refusals.note(device, topic, problem)

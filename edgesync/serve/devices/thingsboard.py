"""Topics of ThingsBoard's device and gateway API: what a message on each of them means.   [sans-IO]

docs/mqtt.md lists what is not there yet.
"""

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, Final, Protocol

import msgspec
from msgspec import Raw

from edgesync.entities.claims import DURATION_MS, DURATION_MS_MAX, SECRET_CHARS_MAX
from edgesync.model import Action, EntityType, Event, EventType, Reading, Value
from edgesync.serve.devices.package import DIGITS_MAX, NoPackage, Package, attribute_names
from edgesync.serve.devices.values import (
    NANOS,
    BadPayload,
    attribute,
    checked_name,
    checked_text,
    nanoseconds,
    parse_json,
    typed,
)
from edgesync.serve.mqtt.packets import Reason
from edgesync.serve.mqtt.topics import overlap

DEVICE: Final = "v1/devices/me/"
GATEWAY: Final = "v1/gateway/"
# The user, or the client id, of a device without credentials, and what it asks for them on.
PROVISION: Final = "provision"
PROVISION_REQUEST, PROVISION_RESPONSE = "/provision/request", "/provision/response"
REQUEST_ID_CHARS_MAX: Final = 40
# An event holds no more.
ATTRIBUTES_BYTES_MAX: Final = 60 * 1024
NAMES_MAX: Final = 1000
NOT_YET: Final = "not there yet at this edge"

# What clients may be sent, and so may subscribe to.
DEVICE_PATTERNS: Final = (
    DEVICE + "attributes", DEVICE + "attributes/response/+", DEVICE + "rpc/request/+",
    DEVICE + "rpc/response/+", "v2/a", "v2/a/j", "v2/a/res/+", "v2/a/res/j/+", "v2/r/req/+",
    "v2/r/req/j/+", "v2/r/res/+", "v2/r/res/j/+", "v2/fw/response/+/chunk/+", "v2/fw/error",
    "v2/sw/response/+/chunk/+", "v2/sw/error",
    "v2/fw/response/+", "v2/sw/response/+",  # nothing comes on it; tb-mqtt-client means the longer
)  # fmt: skip
GATEWAY_PATTERNS: Final = (
    GATEWAY + "attributes", GATEWAY + "attributes/response", GATEWAY + "rpc",
    GATEWAY + "disconnect",
)  # fmt: skip


class Device(msgspec.Struct, frozen=True):
    """The identity that a client has proved: `name` is the entity of its readings.

    proof   changes with its credentials
    """

    name: str
    is_gateway: bool = False
    is_anonymous: bool = False
    is_provisioning: bool = False
    proof: int = 0


# Who asks for credentials: no device yet, so it has no name.
PROVISIONING: Final = Device("", is_provisioning=True)


class ToldLimits(msgspec.Struct, frozen=True):
    """The limits that a client is told."""

    payload_max: int
    inflight_max: int


class CallAnswer(msgspec.Struct, frozen=True):
    """A device's answer to the call it was sent under `number`."""

    device: str
    number: int
    answer: Raw


class DeviceCall(msgspec.Struct, frozen=True):
    """A call by a device; the answer goes to `topic`."""

    device: str
    method: str
    params: Any
    topic: str


class PackageRequest(msgspec.Struct, frozen=True):
    """A chunk of firmware or software that a device asks for; or why it cannot be told."""

    topic: str
    number: int = 0
    size: int = 0
    package: Package | None = None
    problem: str = ""

    @property
    def error_topic(self) -> str:
        return self.topic[: len("v2/fw/")] + "error"


ReadReply = Callable[[], bytes]


class Message(msgspec.Struct):
    """The outcome of a message: what to store, what to answer, and what of it was refused.

    replies      topics and payloads, or what reads the payload when it is sent: what the device was
                 told while its question waited for the disk is no newer than the answer then
    answers      to calls that devices were sent; to be stored, too
    calls        of devices, to be answered here
    has_reports  attributes were taken in memory, which are to be on disk before the answer
    package    a chunk of it is to be sent
    provision  what a device asks for credentials with, to be answered when they are on disk
    children  devices that a gateway speaks for from now on
    gone      … and one that it speaks for no more
    """

    readings: list[Reading] = []
    events: list[Event] = []
    replies: list[tuple[str, bytes | ReadReply]] = []
    refused: list[str] = []
    answers: list[CallAnswer] = []
    calls: list[DeviceCall] = []
    has_reports: bool = False
    package: PackageRequest | None = None
    provision: bytes | None = None
    children: list[str] = []
    gone: str = ""

    @property
    def needs_disk(self) -> bool:
        """True if attributes it reports, or asks for, are to be on disk before it is answered.

        An edge that was killed would give an answer older than the one before.
        """
        return self.has_reports or any(callable(payload) for _, payload in self.replies)

    def read_replies(self) -> Iterator[tuple[str, bytes]]:
        """Yield what is to be sent, as it is now; raises BadPayload, Refused as reading does."""
        for topic, payload in self.replies:
            yield topic, payload if isinstance(payload, bytes) else payload()


class Attributes(Protocol):
    """Attributes of devices; both raise BadPayload, Refused."""

    def report(self, name: str, values: Mapping[str, Any]) -> None:
        """Take client attributes of a device, in memory."""
        ...

    def offer(self, name: str, secret: str, until_ms: int) -> None:
        """Let whoever knows the secret claim a device, in memory."""
        ...

    def read(self, name: str, scope: str, names: Collection[str] | None = None) -> dict[str, Any]:
        """Return those of a scope, or the named ones that are there."""
        ...


class Refused(Exception):
    """A message that is not taken, for another reason than its payload."""

    def __init__(self, reason: Reason, problem: str) -> None:
        super().__init__(problem)
        self.reason = reason


class ThingsBoard:
    """Turns messages on ThingsBoard's topics into what they mean.

    cast        text that is a number is one
    may_name    whether a gateway may speak for an entity of this name
    attributes  of devices
    answers     whether somebody here answers what devices call under a name
    """

    def __init__(
        self,
        limits: ToldLimits,
        *,
        cast: bool,
        may_name: Callable[[Device, str], bool],
        attributes: Attributes,
        answers: Callable[[str], bool] = lambda _method: False,
    ) -> None:
        self._attributes_of = attributes
        self._limits = limits
        self._cast = cast
        self._may_name = may_name
        self._answers = answers
        self._exact: Mapping[str, Callable[[Device, bytes, int], Message]] = {
            DEVICE + "telemetry": self._telemetry,
            "v2/t": self._telemetry,
            "v2/t/j": self._telemetry,
            DEVICE + "attributes": self._attributes,
            "v2/a": self._attributes,
            "v2/a/j": self._attributes,
            DEVICE + "claim": self._claim,
            GATEWAY + "claim": self._of_gateway(self._gateway_claim),
            GATEWAY + "telemetry": self._of_gateway(self._gateway_telemetry),
            GATEWAY + "attributes": self._of_gateway(self._gateway_attributes),
            GATEWAY + "connect": self._of_gateway(self._gateway_connect("online")),
            GATEWAY + "disconnect": self._of_gateway(self._gateway_connect("offline")),
            GATEWAY + "attributes/request": self._of_gateway(self._gateway_request),
            GATEWAY + "rpc": self._of_gateway(self._gateway_answer),
        }
        self._requests: Sequence[
            tuple[str, str, Callable[[Device, bytes], Callable[[], bytes]]]
        ] = (
            (DEVICE + "attributes/request/", DEVICE + "attributes/response/", self._request),
            ("v2/a/req/j/", "v2/a/res/j/", self._request),
            ("v2/a/req/", "v2/a/res/", self._request),
        )
        self._rpc: Sequence[tuple[str, Callable[[Device, str, bytes], Message]]] = (
            (DEVICE + "rpc/request/", self._calling(DEVICE + "rpc/response/")),
            ("v2/r/req/j/", self._calling("v2/r/res/j/")),
            ("v2/r/req/", self._calling("v2/r/res/")),
            (DEVICE + "rpc/response/", self._answer),
            ("v2/r/res/j/", self._answer),
            ("v2/r/res/", self._answer),
        )

    def message(self, device: Device, topic: str, payload: bytes, now_ns: int) -> Message | None:
        """Return what a message means, None for a topic that is not of ThingsBoard.

        Raises BadPayload, Refused.
        """
        if device.is_provisioning:
            if topic != PROVISION_REQUEST:
                raise Refused(Reason.NOT_AUTHORIZED, f"{PROVISION!r} may be provisioned, not more")
            return Message(provision=payload)
        exact = self._exact.get(topic)
        if exact is not None:
            return exact(device, payload, now_ns)
        if not topic.startswith(("v1/", "v2/", "/provision/")):
            return None
        for prefix, answer, handle in self._requests:
            if number := _number_in(topic, prefix):
                return Message(replies=[(answer + number, handle(device, payload))])
        for prefix, act in self._rpc:
            if number := _number_in(topic, prefix):
                return act(device, number, payload)
        if topic.startswith(("v2/fw/request/", "v2/sw/request/")):
            return Message(package=self._package_request(device, topic, payload))
        if topic == PROVISION_REQUEST:
            raise Refused(Reason.NOT_AUTHORIZED, f"connect as {PROVISION!r}, without a password")
        if topic.startswith((DEVICE, GATEWAY, "v2/", "/provision/")):
            raise Refused(Reason.TOPIC_NAME_INVALID, f"{topic[:100]}: {NOT_YET}")
        return None

    # -- a device of its own -------------------------------------------------------------------

    def _telemetry(self, device: Device, payload: bytes, now_ns: int) -> Message:
        found = parse_json(payload)
        message = Message()
        if isinstance(found, list):
            for index, item in enumerate(found):
                self._add(message.readings, device.name, f"[{index}]", item, now_ns)
        else:
            self._add(message.readings, device.name, "", found, now_ns)
        return message

    def _add(
        self, readings: list[Reading], entity: str, field: str, item: Any, now_ns: int
    ) -> None:
        """Add the readings of `{"k": v}` or `{"ts": ms, "values": {"k": v}}`."""
        if not isinstance(item, dict):
            raise BadPayload(field or "payload", "is no object")
        if "ts" in item and "values" in item:
            now_ns = nanoseconds(f"{field}.ts".lstrip("."), item["ts"])
            field, item = f"{field}.values".lstrip("."), item["values"]
            if not isinstance(item, dict):
                raise BadPayload(field, "is no object")
        for key, value in self._values(field, item).items():
            readings.append(Reading(entity, key, value, now_ns))

    def _values(self, field: str, item: Mapping[str, Any]) -> dict[str, Value]:
        found: dict[str, Value] = {}
        for key, value in item.items():
            where = f"{field}.{key}" if field else key
            stored = typed(where, value, cast=self._cast)
            if stored is not None:
                found[checked_name(where[:100], key)] = stored
        return found

    def _attributes(self, device: Device, payload: bytes, now_ns: int) -> Message:
        found = parse_json(payload)
        if not isinstance(found, dict):
            raise BadPayload("payload", "is no object")
        events = self._attribute_events(device.name, "", found, now_ns)
        return Message(events=events, has_reports=bool(events))

    def _attribute_events(
        self, entity: str, field: str, item: Mapping[str, Any], now_ns: int
    ) -> list[Event]:
        """Take what a device reports: the newest of it is kept, and each report is an event."""
        values = {
            checked_name(f"{field}.{key}"[:100].lstrip("."), key):
                attribute(f"{field}.{key}".lstrip("."), value, cast=self._cast)
            for key, value in item.items() if value is not None
        }  # fmt: skip
        if not values:
            return []
        body = msgspec.json.encode({"scope": "client", "values": values})
        if len(body) > ATTRIBUTES_BYTES_MAX:
            raise BadPayload(
                field or "payload",
                f"attributes of {len(body)} bytes; {ATTRIBUTES_BYTES_MAX} are the most",
            )
        self._attributes_of.report(entity, values)
        return [
            Event(
                type=EventType.ATTRIBUTES, action=Action.ATTRIBUTES_UPDATED,
                entity_type=EntityType.DEVICE, entity_id=entity, body=body, time_ns=now_ns,
            )
        ]  # fmt: skip

    def _claim(self, device: Device, payload: bytes, now_ns: int) -> Message:
        self._offer(device.name, "", parse_json(payload) if payload else {}, now_ns)
        return Message(has_reports=True)

    def _offer(self, entity: str, field: str, item: Any, now_ns: int) -> None:
        """Take `{"secretKey": "s", "durationMs": n}`, either of which may be missing."""
        if not isinstance(item, dict):
            raise BadPayload(field or "payload", "is no object")
        secret = item.get("secretKey") or ""
        if not isinstance(secret, str) or len(secret) > SECRET_CHARS_MAX:
            problem = f"is no text of up to {SECRET_CHARS_MAX} characters"
            raise BadPayload(f"{field}.secretKey".lstrip("."), problem)
        checked_text(f"{field}.secretKey".lstrip("."), secret)
        duration_ms = item.get("durationMs", DURATION_MS)
        if type(duration_ms) is not int or not 0 < duration_ms <= DURATION_MS_MAX:
            problem = f"is no number of milliseconds, 1 to {DURATION_MS_MAX}"
            raise BadPayload(f"{field}.durationMs".lstrip("."), problem)
        self._attributes_of.offer(entity, secret, now_ns // NANOS + duration_ms)

    def _request(self, device: Device, payload: bytes) -> ReadReply:
        """Answer with the attributes asked for, those of both scopes if none are named."""
        found = parse_json(payload) if payload else {}
        if not isinstance(found, dict):
            raise BadPayload("payload", "is no object")
        asked: dict[str, list[str] | None] = {
            scope: _listed(member, found[member])
            for member, scope in (("clientKeys", "client"), ("sharedKeys", "shared"))
            if member in found
        }  # fmt: skip
        asked = asked or {"client": None, "shared": None}

        def read() -> bytes:
            found = {
                scope: self._attributes_of.read(device.name, scope, names)
                for scope, names in asked.items()
            }
            return msgspec.json.encode({scope: held for scope, held in found.items() if held})

        return _readable(read)

    def _calling(self, answer: str) -> Callable[[Device, str, bytes], Message]:
        """Return what takes calls of devices, which are answered on `answer` and their number."""

        def call(device: Device, number: str, payload: bytes) -> Message:
            found, topic = parse_json(payload), answer + number
            if not isinstance(found, dict) or not isinstance(found.get("method"), str):
                raise BadPayload("method", "is missing")
            method = found["method"]
            if method == "getSessionLimits":
                return Message(replies=[(topic, self._session_limits(device))])
            if not self._answers(method):
                error = f"nobody answers {method[:100]!r} at this edge"
                return Message(replies=[(topic, msgspec.json.encode({"error": error}))])
            return Message(calls=[DeviceCall(device.name, method, found.get("params"), topic)])

        return call

    def _package_request(self, device: Device, topic: str, payload: bytes) -> PackageRequest:
        """Read `v2/fw/request/ID/chunk/N`, whose payload is the size of a chunk as text."""
        answer = topic.replace("/request/", "/response/", 1)
        _, kind, _, number, *chunk = topic.split("/")
        if not _number_in(number, "") or len(chunk) != 2 or chunk[0] != "chunk":
            raise Refused(
                Reason.TOPIC_NAME_INVALID, f"{topic[:100]}: is no v2/{kind}/request/ID/chunk/N"
            )
        size = payload.decode(errors="replace").strip() or "0"
        for field, text in (("chunk", chunk[1]), ("size", size)):
            if not (text.isascii() and text.isdigit() and len(text) <= DIGITS_MAX):
                raise BadPayload(
                    field, f"{text[:40]!r} is no number of at most {DIGITS_MAX} digits"
                )
        held = self._attributes_of.read(device.name, "shared", attribute_names(kind))
        try:
            package = Package.assigned(kind, held)
        except NoPackage as error:
            return PackageRequest(answer, problem=str(error))
        return PackageRequest(answer, int(chunk[1]), int(size), package)

    def _answer(self, device: Device, number: str, payload: bytes) -> Message:
        parse_json(payload)
        return Message(answers=[CallAnswer(device.name, _call_number(number), Raw(payload))])

    def _session_limits(self, device: Device) -> bytes:
        none = {"messages": "", "telemetryMessages": "", "telemetryDataPoints": ""}
        limits: dict[str, object] = {
            "maxPayloadSize": self._limits.payload_max,
            "maxInflightMessages": self._limits.inflight_max,
            "rateLimits": none,
        }
        if device.is_gateway:
            limits["gatewayRateLimits"] = none
        return msgspec.json.encode(limits)

    # -- a gateway, for its devices ------------------------------------------------------------

    def _of_gateway(
        self, handle: Callable[[Device, Any, int], Message]
    ) -> Callable[[Device, bytes, int], Message]:
        def handled(device: Device, payload: bytes, now_ns: int) -> Message:
            if not device.is_gateway:
                raise Refused(Reason.NOT_AUTHORIZED, f"{device.name} is no gateway")
            found = parse_json(payload)
            if not isinstance(found, dict):
                raise BadPayload("payload", "is no object")
            return handle(device, found, now_ns)

        return handled

    def _child(self, device: Device, field: str, name: Any) -> str:
        child = checked_name(field, name)
        if not self._may_name(device, child):
            raise BadPayload(field, f"{child[:100]!r} is somebody who speaks for itself")
        return child

    def _gateway_telemetry(self, device: Device, found: Mapping[str, Any], now_ns: int) -> Message:
        """Take the readings of each child; a child's mistake costs that child's readings only."""
        message = Message()
        for name, items in found.items():
            readings: list[Reading] = []
            try:
                child = self._child(device, name[:100], name)
                if not isinstance(items, list):
                    raise BadPayload(name[:100], "is no list")
                for index, item in enumerate(items):
                    self._add(readings, child, f"{child}[{index}]", item, now_ns)
            except BadPayload as error:
                message.refused.append(str(error))
            else:
                message.readings += readings
                message.children.append(child)
        return message

    def _gateway_attributes(self, device: Device, found: Mapping[str, Any], now_ns: int) -> Message:
        message = Message()
        for name, values in found.items():
            try:
                child = self._child(device, name[:100], name)
                if not isinstance(values, dict):
                    raise BadPayload(name[:100], "is no object")
                message.events += self._attribute_events(child, child, values, now_ns)
                message.children.append(child)
            except BadPayload as error:
                message.refused.append(str(error))
        message.has_reports = bool(message.events)
        return message

    def _gateway_claim(self, device: Device, found: Mapping[str, Any], now_ns: int) -> Message:
        message = Message(has_reports=True)
        for name, item in found.items():
            try:
                child = self._child(device, name[:100], name)
                self._offer(child, child, item, now_ns)
                message.children.append(child)
            except BadPayload as error:
                message.refused.append(str(error))
        return message

    def _gateway_connect(self, state: str) -> Callable[[Device, Any, int], Message]:
        def connect(device: Device, found: Mapping[str, Any], now_ns: int) -> Message:
            child = self._child(device, "device", found.get("device"))
            body: dict[str, str] = {"state": state, "gateway": device.name}
            if isinstance(kind := found.get("type"), str):
                body["type"] = checked_name("type", kind)
            event = Event(
                type=EventType.SOURCE, entity_type=EntityType.DEVICE, entity_id=child,
                body=msgspec.json.encode(body), time_ns=now_ns,
            )  # fmt: skip
            if state == "offline":
                return Message(events=[event], gone=child)
            return Message(events=[event], children=[child])

        return connect

    def _gateway_answer(self, device: Device, found: Mapping[str, Any], _now_ns: int) -> Message:
        child = self._child(device, "device", found.get("device"))
        number = found.get("id")
        if type(number) is not int or "data" not in found:
            raise BadPayload("id" if "data" in found else "data", "is missing")
        # As JSON of letters of ASCII: half of a surrogate pair is in it as it came.
        answer = Raw(json.dumps(found["data"], separators=(",", ":")).encode())
        return Message(answers=[CallAnswer(child, number, answer)])

    def _gateway_request(self, device: Device, found: Mapping[str, Any], _now_ns: int) -> Message:
        number = found.get("id")
        if type(number) is not int:
            raise BadPayload("id", "is no number")
        child = self._child(device, "device", found.get("device"))
        scope = "client" if found.get("client") is True else "shared"
        is_list = "keys" in found
        names = (
            _listed("keys", found["keys"]) if is_list else [checked_name("key", found.get("key"))]
        )

        def read() -> bytes:
            held = self._attributes_of.read(child, scope, names)
            said = {"values": held} if is_list else _single(held)
            return msgspec.json.encode({"id": number, "device": child, **said})

        topic = GATEWAY + "attributes/response"
        return Message(replies=[(topic, _readable(read))], children=[child])


def _listed(field: str, names: Any) -> list[str]:
    """Return names given as a list, or as text with commas; raises BadPayload."""
    listed = names.split(",") if isinstance(names, str) else names
    if not isinstance(listed, list) or not all(isinstance(one, str) for one in listed):
        raise BadPayload(field, "is neither a list of names nor text with commas")
    if len(listed) > NAMES_MAX:
        raise BadPayload(field, f"{len(listed)} names; {NAMES_MAX} are the most")
    return [one.strip() for one in listed if one.strip()]


def _readable(read: ReadReply) -> ReadReply:
    """Return what reads an answer; raises now what it would raise then, to be told with the ack."""
    read()
    return read


def _single(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return how the value of the one attribute is told; of one that is not there, nothing."""
    return {"value": next(iter(found.values()))} if found else {}


def _number_in(topic: str, prefix: str) -> str:
    """Return the request's number at the end of a topic; "" for another topic, or none."""
    number = topic[len(prefix) :] if topic.startswith(prefix) else ""
    return number if number.isalnum() and len(number) <= REQUEST_ID_CHARS_MAX else ""


def _call_number(text: str) -> int:
    if not text.isdecimal() or len(text) > 10:
        raise BadPayload("topic", f"{text[:40]!r} is no number of a call")
    return int(text)


def may_subscribe(device: Device, topic_filter: str) -> bool:
    """Return whether anything is ever sent to this device that a valid filter matches."""
    if device.is_provisioning:
        return topic_filter == PROVISION_RESPONSE
    patterns = DEVICE_PATTERNS + GATEWAY_PATTERNS if device.is_gateway else DEVICE_PATTERNS
    return any(overlap(topic_filter, pattern) for pattern in patterns)

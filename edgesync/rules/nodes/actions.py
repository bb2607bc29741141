"""Nodes that store, send and tell.   [sans-IO]"""

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from edgesync.model import Action, Event, EventType, Lane
from edgesync.rpc.model import PARAMS_BYTES_MAX, TTL_S_MAX
from edgesync.rules.effects import (
    CallDevice,
    DeleteAttributes,
    LogLine,
    PushEvent,
    PushReadings,
    ReplyTo,
    ReplyToDevice,
    SaveReadings,
    SetAttributes,
)
from edgesync.rules.message import (
    ALARM,
    ALARM_ACK,
    ALARM_CLEAR,
    ATTRIBUTES_DELETED,
    ATTRIBUTES_UPDATED,
    CALL_FROM_DEVICE,
    CONNECT,
    DISCONNECT,
    POST_ATTRIBUTES,
    POST_TELEMETRY,
    TIMESERIES_UPDATED,
    Message,
)
from edgesync.rules.node import (
    Node,
    NodeConfig,
    NodeFailure,
    Outs,
    Place,
    Step,
    scope_of,
    success,
)
from edgesync.rules.nodes.scripted import ScriptNode
from edgesync.rules.scripts.script import Scripts
from edgesync.rules.templates import as_text, fill
from edgesync.rules.values import (
    attributes,
    checked_name,
    kind_of,
    message_time_ns,
    number,
    telemetry,
)

EVENT_BYTES_MAX = 60 * 1024
LOG_CHARS_MAX = 1000
Scope = Literal["CLIENT_SCOPE", "SERVER_SCOPE", "SHARED_SCOPE"]
# What is told to the hub when it happens: pushing it once more would double it.
TOLD_ALREADY = frozenset(
    {ALARM, ALARM_ACK, ALARM_CLEAR, CONNECT, DISCONNECT, "ACTIVITY_EVENT", "INACTIVITY_EVENT"}
)


def needs_type(message: Message, *kinds: str) -> None:
    if message.type not in kinds:
        raise NodeFailure(f"a message of type {message.type}; {' or '.join(kinds)} is needed")


class Processing(NodeConfig, frozen=True, kw_only=True):
    """The choice of messages to store: as new exports say it; old ones store every message."""

    type: Literal["ON_EVERY_MESSAGE", "DEDUPLICATE", "WEBSOCKETS_ONLY", "ADVANCED"] = (
        "ON_EVERY_MESSAGE"
    )
    deduplication_interval_secs: int = 0
    timeseries: Mapping[str, Any] | None = None
    attributes: Mapping[str, Any] | None = None

    def is_due(self, message: Message, step: Step, part: str) -> bool:
        """Return whether a message is stored; notes that it is, where that matters for the next."""
        kind: str = self.type
        interval_s = self.deduplication_interval_secs
        if kind == "ADVANCED":
            own = getattr(self, part) or {}
            kind = str(own.get("type", "ON_EVERY_MESSAGE"))
            interval_s = int(own.get("deduplicationIntervalSecs", 0) or 0)
        if kind == "DEDUPLICATE":
            name = str(message.originator)
            interval = step.now.wall_ns // (max(interval_s, 1) * 1_000_000_000)
            if step.get(name) == interval:
                return False
            step.put(name, interval)
            return True
        return kind not in ("WEBSOCKETS_ONLY", "SKIP")


class SaveReadingsConfig(NodeConfig, frozen=True, kw_only=True):
    use_server_ts: bool = False
    processing_settings: Processing | None = None


class SaveReadingsNode(Node):
    node_type = "telemetry.TbMsgTimeseriesNode"
    config = SaveReadingsConfig

    def __init__(self, place: Place, config: SaveReadingsConfig, scripts: Scripts) -> None:
        super().__init__(place, config, scripts)
        self._uses_own_time = config.use_server_ts
        self._processing = config.processing_settings

    def process(self, message: Message, step: Step) -> Outs:
        needs_type(message, POST_TELEMETRY)
        time_ns = step.now.wall_ns if self._uses_own_time else message_time_ns(message)
        readings = telemetry(message, time_ns)
        if self._processing is None or self._processing.is_due(message, step, "timeseries"):
            step.effect(SaveReadings(tuple(readings)))
        return success(message)

    @classmethod
    def doubts(cls, config: Any) -> list[str]:
        settings = config.processing_settings
        if settings is not None and settings.type == "WEBSOCKETS_ONLY":
            return ["WEBSOCKETS_ONLY stores nothing, and an edge has no web sockets"]
        return []


class SaveAttributesConfig(NodeConfig, frozen=True, kw_only=True):
    scope: Scope = "SERVER_SCOPE"
    notify_device: bool = False
    send_attributes_updated_notification: bool = False
    update_attributes_only_on_value_change: bool = False
    processing_settings: Processing | None = None


class SaveAttributes(Node):
    node_type = "telemetry.TbMsgAttributesNode"
    config = SaveAttributesConfig

    def __init__(self, place: Place, config: SaveAttributesConfig, scripts: Scripts) -> None:
        super().__init__(place, config, scripts)
        self._config = config

    def process(self, message: Message, step: Step) -> Outs:
        needs_type(message, POST_ATTRIBUTES)
        config = self._config
        scope = scope_of(message.metadata.get("scope") or config.scope)
        values = attributes(message.data)
        if config.processing_settings is not None and not config.processing_settings.is_due(
            message, step, "attributes"
        ):
            return success(message)
        if config.update_attributes_only_on_value_change:
            known = step.facts.attributes(message.originator, scope)
            values = {
                key: value
                for key, value in values.items()
                if key not in known or (known[key], type(known[key])) != (value, type(value))
            }
        if values:
            notify = config.notify_device and scope == "shared"
            step.effect(SetAttributes(message.originator, scope, values, notify))
            if config.send_attributes_updated_notification:
                told = message.changed(type=ATTRIBUTES_UPDATED, data=values)
                step.inject(told.with_metadata(scope=f"{scope.upper()}_SCOPE"))
        return success(message)


class DeleteAttributesConfig(NodeConfig, frozen=True, kw_only=True):
    keys: tuple[str, ...]
    scope: Scope = "SERVER_SCOPE"
    notify_device: bool = False
    send_attributes_deleted_notification: bool = False


class DeleteAttributesNode(Node):
    node_type = "telemetry.TbMsgDeleteAttributesNode"
    config = DeleteAttributesConfig

    def __init__(self, place: Place, config: DeleteAttributesConfig, scripts: Scripts) -> None:
        super().__init__(place, config, scripts)
        self._config = config

    def process(self, message: Message, step: Step) -> Outs:
        scope = scope_of(message.metadata.get("scope") or self._config.scope)
        known = step.facts.attributes(message.originator, scope)
        keys = tuple(key for one in self._config.keys if (key := fill(one, message)) in known)
        if keys:
            step.effect(
                DeleteAttributes(message.originator, scope, keys, self._config.notify_device)
            )
            if self._config.send_attributes_deleted_notification:
                step.inject(
                    message.changed(type=ATTRIBUTES_DELETED, data={"attributes": list(keys)})
                )
        return success(message)


class PushConfig(NodeConfig, frozen=True, kw_only=True):
    """`lane` is of edgesync: which lane to the hub it takes."""

    scope: Scope = "SERVER_SCOPE"
    lane: Literal["critical", "normal", "bulk"] | None = None


class PushToCloud(Node):
    node_type = "edge.TbMsgPushToCloudNode"
    config = PushConfig

    def __init__(self, place: Place, config: PushConfig, scripts: Scripts) -> None:
        super().__init__(place, config, scripts)
        self._config = config
        self._lane = None if config.lane is None else Lane[config.lane.upper()]

    def process(self, message: Message, step: Step) -> Outs:
        match message.type:
            case kind if kind in (POST_TELEMETRY, TIMESERIES_UPDATED):
                readings = tuple(telemetry(message, message_time_ns(message)))
                step.effect(PushReadings(readings, Lane.BULK if self._lane is None else self._lane))
            case kind if kind in (POST_ATTRIBUTES, ATTRIBUTES_UPDATED):
                body = {"scope": self._scope(message), "values": attributes(message.data)}
                self._push(message, step, EventType.ATTRIBUTES, Action.ATTRIBUTES_UPDATED, body)
            case kind if kind == ATTRIBUTES_DELETED:
                data = message.data if isinstance(message.data, dict) else {}
                body = {"scope": self._scope(message), "keys": data.get("attributes", [])}
                self._push(message, step, EventType.ATTRIBUTES, Action.ATTRIBUTES_DELETED, body)
            case kind if kind == CALL_FROM_DEVICE:
                self._push(message, step, EventType.RPC_REQUEST, Action.RPC_CALL, message.data)
            case kind if kind not in TOLD_ALREADY:
                raise NodeFailure(f"a message of type {message.type} is nothing for the hub")
        return success(message)

    def _scope(self, message: Message) -> str:
        if message.type == POST_ATTRIBUTES:
            return "client"
        return scope_of(message.metadata.get("scope") or self._config.scope)

    def _push(
        self, message: Message, step: Step, kind: EventType, action: Action, body: Any
    ) -> None:
        raw = msgspec.json.encode(body)
        if len(raw) > EVENT_BYTES_MAX:
            raise NodeFailure(f"data of {len(raw)} bytes; {EVENT_BYTES_MAX} are the most")
        entity = message.originator
        event = Event(
            type=kind, action=action, entity_type=entity.entity_type,
            entity_id=checked_name("originator", entity.name), body=raw,
            time_ns=message_time_ns(message),
        )  # fmt: skip
        step.effect(PushEvent(event, Lane.NORMAL if self._lane is None else self._lane))


class LogNode(ScriptNode):
    node_type = "action.TbLogNode"

    def process(self, message: Message, step: Step) -> Outs:
        found = yield from self.ask(message, step)
        text = as_text(found)[:LOG_CHARS_MAX]
        step.effect(LogLine(self.place.label, text))
        return success(message)


class CallDeviceConfig(NodeConfig, frozen=True, kw_only=True):
    timeout_in_seconds: int = 60


class CallDeviceNode(Node):
    """A call of a device; what it answers goes on by Success."""

    node_type = "rpc.TbSendRPCRequestNode"
    config = CallDeviceConfig

    def __init__(self, place: Place, config: CallDeviceConfig, scripts: Scripts) -> None:
        super().__init__(place, config, scripts)
        self._timeout_s = max(1, min(config.timeout_in_seconds, 86_400))

    def process(self, message: Message, step: Step) -> Outs:
        data = message.data
        if message.originator.kind != "DEVICE":
            raise NodeFailure(f"{message.originator} is no device")
        if not isinstance(data, dict) or not isinstance(data.get("method"), str):
            raise NodeFailure("data has no method; {method: …, params: …} is needed")
        if "params" not in data:
            raise NodeFailure("data has no params")
        size = len(msgspec.json.encode(data["params"]))
        if size > PARAMS_BYTES_MAX:
            raise NodeFailure(f"params of {size} bytes; {PARAMS_BYTES_MAX} are the most")
        timeout_ms = number(data.get("timeout"))
        step.effect(
            CallDevice(
                device=message.originator,
                method=checked_name("method", data["method"]),
                params=data["params"],
                timeout_s=(
                    min(max(0.001, timeout_ms / 1000), TTL_S_MAX) if timeout_ms else self._timeout_s
                ),
                is_oneway=message.metadata.get("oneway") == "true",
                request_id=message.metadata.get("requestUUID", ""),
                reply_to=ReplyTo(self.place.key, message),
            )
        )
        return ()


class ReplyConfig(NodeConfig, frozen=True, kw_only=True):
    request_id_meta_data_attribute: str = "requestId"


class ReplyToDeviceNode(Node):
    """Answers a device that has called, with the data."""

    node_type = "rpc.TbSendRPCReplyNode"
    config = ReplyConfig

    def __init__(self, place: Place, config: ReplyConfig, scripts: Scripts) -> None:
        super().__init__(place, config, scripts)
        self._name = config.request_id_meta_data_attribute or "requestId"

    def process(self, message: Message, step: Step) -> Outs:
        request_id = message.metadata.get(self._name, "")
        if not request_id:
            raise NodeFailure(f"metadata has no {self._name}: the message is no device's call")
        if message.originator.kind != "DEVICE":
            raise NodeFailure(f"{message.originator} is no device, but {kind_of(message.data)}")
        step.effect(ReplyToDevice(message.originator, request_id, message.data))
        return success(message)


NODES = (
    SaveReadingsNode, SaveAttributes, DeleteAttributesNode, PushToCloud, LogNode, CallDeviceNode,
    ReplyToDeviceNode,
)  # fmt: skip

"""Nodes that add what is known about an entity.   [sans-IO]"""

import math
from collections.abc import Mapping
from typing import Any, Final, Literal

from edgesync.model import Value
from edgesync.rules.message import NANOS, POST_TELEMETRY, TIMESERIES_UPDATED, Message, Originator
from edgesync.rules.node import (
    Node,
    NodeConfig,
    NodeFailure,
    Out,
    Outs,
    Place,
    Step,
    success,
)
from edgesync.rules.nodes.transforms import related
from edgesync.rules.scripts.script import Scripts
from edgesync.rules.templates import as_text, fill
from edgesync.rules.values import kind_of, message_time_ns, number

UNITS_S: Final[Mapping[str, float]] = {
    "MILLISECONDS": 0.001, "SECONDS": 1, "MINUTES": 60, "HOURS": 3600, "DAYS": 86_400,
}  # fmt: skip
# Readings that one message may be given.
FETCHED_MAX: Final = 1000
FetchTo = Literal["METADATA", "DATA"]


class FetchConfig(NodeConfig, frozen=True, kw_only=True):
    """`fetchTo` in new exports, `fetchToData` in old ones; neither: to the metadata."""

    fetch_to: FetchTo | None = None
    fetch_to_data: bool = False

    @property
    def target(self) -> FetchTo:
        return self.fetch_to or ("DATA" if self.fetch_to_data else "METADATA")


def added(message: Message, found: Mapping[str, Any], target: FetchTo) -> Message:
    if target == "METADATA":
        return message.with_metadata(**{name: as_text(value) for name, value in found.items()})
    if not isinstance(message.data, dict):
        raise NodeFailure(f"data is no object of keys and values, but {kind_of(message.data)}")
    return message.changed(data={**message.data, **found})


class AttributesConfig(FetchConfig, frozen=True, kw_only=True):
    client_attribute_names: tuple[str, ...] = ()
    shared_attribute_names: tuple[str, ...] = ()
    server_attribute_names: tuple[str, ...] = ()
    latest_ts_key_names: tuple[str, ...] = ()
    tell_failure_if_absent: bool = True
    get_latest_value_with_ts: bool = False
    relations_query: Mapping[str, Any] | None = None
    device_relations_query: Mapping[str, Any] | None = None


class GetAttributes(Node):
    """Attributes (as `cs_…`, `shared_…`, `ss_…`) and newest readings of the originator."""

    node_type = "metadata.TbGetAttributesNode"
    config = AttributesConfig

    def __init__(self, place: Place, config: AttributesConfig, scripts: Scripts) -> None:
        super().__init__(place, config, scripts)
        self._config = config
        self._scopes = (
            ("client", "cs_", config.client_attribute_names),
            ("shared", "shared_", config.shared_attribute_names),
            ("server", "ss_", config.server_attribute_names),
        )

    def entity(self, message: Message, step: Step) -> Originator:
        return message.originator

    def process(self, message: Message, step: Step) -> Outs:
        config, entity = self._config, self.entity(message, step)
        found: dict[str, Any] = {}
        absent: list[str] = []
        for scope, prefix, names in self._scopes:
            known = step.facts.attributes(entity, scope) if names else {}
            for name in (fill(one, message) for one in names):
                if name in known:
                    found[prefix + name] = known[name]
                else:
                    absent.append(f"{scope} attribute {name!r}")
        for key in (fill(one, message) for one in config.latest_ts_key_names):
            newest = step.facts.latest(entity, key)
            if newest is None:
                absent.append(f"reading of {key!r}")
            elif config.get_latest_value_with_ts:
                found[key] = {"ts": newest[0] // NANOS, "value": newest[1]}
            else:
                found[key] = newest[1]
        if absent and config.tell_failure_if_absent:
            raise NodeFailure(f"{entity} has no {', no '.join(absent[:10])}")
        return success(added(message, found, config.target))


class GetDeviceAttributes(GetAttributes):
    """Those of a related device."""

    node_type = "metadata.TbGetDeviceAttrNode"

    def entity(self, message: Message, step: Step) -> Originator:
        query = dict(self._config.device_relations_query or {})
        query["filters"] = [
            {"relationType": query.get("relationType", "Contains"), "entityTypes": ["DEVICE"]}
        ]
        found = related(step, message.originator, query)
        if not found:
            raise NodeFailure(f"{message.originator} has no related device")
        return found[0]


class RelatedConfig(FetchConfig, frozen=True, kw_only=True):
    """`dataMapping` and `dataToFetch` in new exports; `attrMapping` and `telemetry` in old ones."""

    data_mapping: Mapping[str, str] = {}
    attr_mapping: Mapping[str, str] = {}
    data_to_fetch: Literal["ATTRIBUTES", "LATEST_TELEMETRY", "FIELDS"] | None = None
    telemetry: bool = False
    relations_query: Mapping[str, Any] | None = None


class GetRelated(Node):
    """Attributes, newest readings or fields of a related entity."""

    node_type = "metadata.TbGetRelatedAttributeNode"
    config = RelatedConfig

    def __init__(self, place: Place, config: RelatedConfig, scripts: Scripts) -> None:
        super().__init__(place, config, scripts)
        self._config = config
        self._mapping = config.data_mapping or config.attr_mapping
        self._what = config.data_to_fetch or (
            "LATEST_TELEMETRY" if config.telemetry else "ATTRIBUTES"
        )
        if not self._mapping:
            raise ValueError("dataMapping is empty; name what is fetched, and what it is called")

    def process(self, message: Message, step: Step) -> Outs:
        others = related(step, message.originator, self._config.relations_query)
        if not others:
            raise NodeFailure(f"{message.originator} has no related entity of that kind")
        found: dict[str, Any] = {}
        for source, target in self._mapping.items():
            value = self._value(step, others[0], fill(source, message))
            if value is not None:
                found[fill(target, message)] = value
        return success(added(message, found, self._config.target))

    def _value(self, step: Step, entity: Originator, name: str) -> Value | None:
        if self._what == "ATTRIBUTES":
            return step.facts.attributes(entity, "server").get(name)
        if self._what == "FIELDS":
            return field_of(step, entity, name)
        newest = step.facts.latest(entity, name)
        return None if newest is None else newest[1]


def field_of(step: Step, entity: Originator, name: str) -> str | None:
    match name:
        case "name" | "entityName" | "label":
            return entity.name
        case "type":
            return step.facts.profile(entity)
        case "entityType":
            return entity.kind
    return None


class FieldsConfig(FetchConfig, frozen=True, kw_only=True):
    data_mapping: Mapping[str, str] = {}
    fields_mapping: Mapping[str, str] = {}


class GetFields(Node):
    """Name and type of the originator."""

    node_type = "metadata.TbGetOriginatorFieldsNode"
    config = FieldsConfig

    def __init__(self, place: Place, config: FieldsConfig, scripts: Scripts) -> None:
        super().__init__(place, config, scripts)
        self._config = config
        self._mapping = config.data_mapping or config.fields_mapping

    def process(self, message: Message, step: Step) -> Outs:
        found = {
            target: value
            for source, target in self._mapping.items()
            if (value := field_of(step, message.originator, source)) is not None
        }
        return success(added(message, found, self._config.target))


class DeltaConfig(NodeConfig, frozen=True, kw_only=True):
    input_value_key: str
    output_value_key: str
    add_period_between_msgs: bool = False
    period_value_key: str = "periodInMs"
    round: int | None = None
    tell_failure_if_delta_is_negative: bool = True
    exclude_zero_deltas: bool = False


class CalculateDelta(Node):
    """Growth of a value since the last message; 0 the first time."""

    node_type = "metadata.CalculateDeltaNode"
    config = DeltaConfig
    relations = frozenset({"Success", "Other"})

    def __init__(self, place: Place, config: DeltaConfig, scripts: Scripts) -> None:
        super().__init__(place, config, scripts)
        self._config = config

    def process(self, message: Message, step: Step) -> Outs:
        config, data = self._config, message.data
        value = data.get(config.input_value_key) if isinstance(data, dict) else None
        if value is None or message.type not in (POST_TELEMETRY, TIMESERIES_UPDATED):
            return [Out("Other", message)]
        now = number(value)
        if now is None:
            raise NodeFailure(f"{config.input_value_key}: {as_text(value)[:40]} is no number")
        at_ms = message_time_ns(message) // NANOS
        name = str(message.originator)
        before = step.get(name)
        delta, period = (0, 0) if before is None else (now - before[0], at_ms - before[1])
        step.put(name, [now, at_ms])
        if delta < 0 and config.tell_failure_if_delta_is_negative:
            raise NodeFailure(f"{config.input_value_key} fell by {as_text(-delta)}")
        found: dict[str, Any] = {}
        if delta or not config.exclude_zero_deltas:
            found[config.output_value_key] = _rounded(delta, config.round)
        if config.add_period_between_msgs:
            found[config.period_value_key] = period
        return success(message.changed(data={**data, **found}))


def _rounded(value: float | int, places: int | None) -> float | int:
    if places is None or not 0 <= places <= 15 or isinstance(value, int):
        return value
    scale = 10**places
    return math.copysign(math.floor(abs(value) * scale + 0.5) / scale, value)


class TelemetryConfig(NodeConfig, frozen=True, kw_only=True):
    latest_ts_key_names: tuple[str, ...]
    fetch_mode: Literal["FIRST", "LAST", "ALL"] = "FIRST"
    order_by: Literal["ASC", "DESC"] = "ASC"
    aggregation: Literal["NONE", "MIN", "MAX", "AVG", "SUM", "COUNT"] = "NONE"
    limit: int = FETCHED_MAX
    start_interval: int = 2
    end_interval: int = 1
    start_interval_time_unit: str = "MINUTES"
    end_interval_time_unit: str = "MINUTES"
    use_metadata_interval_patterns: bool = False
    start_interval_pattern: str = ""
    end_interval_pattern: str = ""


class GetTelemetry(Node):
    """Readings of a time span before now, as they are kept at this edge."""

    node_type = "metadata.TbGetTelemetryNode"
    config = TelemetryConfig

    def __init__(self, place: Place, config: TelemetryConfig, scripts: Scripts) -> None:
        super().__init__(place, config, scripts)
        self._config = config
        for field in ("start_interval_time_unit", "end_interval_time_unit"):
            unit = getattr(config, field)
            if unit not in UNITS_S:
                raise ValueError(f"{field}: {unit!r} is none of {', '.join(UNITS_S)}")
        if not config.latest_ts_key_names:
            raise ValueError("latestTsKeyNames is empty; name the keys")

    def process(self, message: Message, step: Step) -> Outs:
        from_ns, to_ns = self._span(message, step.now.wall_ns)
        found: dict[str, str] = {}
        for key in (fill(one, message) for one in self._config.latest_ts_key_names):
            points = step.facts.readings(message.originator, key, from_ns, to_ns)
            text = self._text(points)
            if text is not None:
                found[key] = text
        return success(message.with_metadata(**found))

    def _span(self, message: Message, now_ns: int) -> tuple[int, int]:
        config = self._config
        if config.use_metadata_interval_patterns:
            patterns = (config.start_interval_pattern, config.end_interval_pattern)
            times = [number(fill(one, message)) for one in patterns]
            if times[0] is None or times[1] is None:
                raise NodeFailure(f"{patterns[0]!r} or {patterns[1]!r} gives no time")
            return int(times[0]) * NANOS, int(times[1]) * NANOS
        spans = (
            config.start_interval * UNITS_S[config.start_interval_time_unit],
            config.end_interval * UNITS_S[config.end_interval_time_unit],
        )
        first, last = (now_ns - round(one * 1e9) for one in spans)
        if first >= last:
            raise NodeFailure("the interval ends before it starts")
        return first, last

    def _text(self, points: list[tuple[int, Value]]) -> str | None:
        config = self._config
        if config.fetch_mode != "ALL":
            at = 0 if config.fetch_mode == "FIRST" else -1
            return as_text(points[at][1]) if points else None
        if config.aggregation != "NONE":
            points = _summed(points, config.aggregation)
        if config.order_by == "DESC":
            points = points[::-1]
        limit = min(config.limit or FETCHED_MAX, FETCHED_MAX)
        return as_text([{"ts": at // NANOS, "value": value} for at, value in points[:limit]])


def _summed(points: list[tuple[int, Value]], how: str) -> list[tuple[int, Value]]:
    values = [found for _, value in points if (found := number(value)) is not None]
    if not values:
        return []
    total = math.fsum(values)
    result: Mapping[str, Value] = {
        "MIN": min(values), "MAX": max(values), "SUM": total, "COUNT": len(values),
        "AVG": total / len(values),
    }  # fmt: skip
    return [(points[len(points) // 2][0], result[how])]


NODES = (
    GetAttributes, GetDeviceAttributes, GetRelated, GetFields, CalculateDelta, GetTelemetry,
)  # fmt: skip

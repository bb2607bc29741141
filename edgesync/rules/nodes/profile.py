"""Alarm rules: of a device's profile as ThingsBoard exports it, or of the node itself.  [sans-IO]

An alarm has rules by severity, each a list of conditions on keys that all hold, at once, for a time
or so many times; and a rule by which it is cleared. What edgesync adds: `hysteresis` of a number.
While the alarm is active its conditions hold until the value is beyond the limit by as much; with
it, an alarm that has no rule to clear it is cleared when none of its rules holds any more.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final, Literal

import msgspec

from edgesync.rules.alarm import SEVERITIES, Alarm
from edgesync.rules.message import (
    ATTRIBUTES_UPDATED,
    POST_ATTRIBUTES,
    POST_TELEMETRY,
    Message,
    Originator,
    device_message,
)
from edgesync.rules.node import Node, NodeConfig, Out, Outs, Place, Step
from edgesync.rules.nodes.alarms import alarm_message, checked_severity, cleared, raised
from edgesync.rules.scripts.script import Scripts
from edgesync.rules.templates import fill
from edgesync.rules.values import message_time_ns, number

UNITS_S: Final[Mapping[str, int]] = {"SECONDS": 1, "MINUTES": 60, "HOURS": 3600, "DAYS": 86_400}
SECOND_NS: Final = 1_000_000_000
# Keys of one entity that rules look at, and rules of one node (I7).
RULES_MAX: Final = 200
NESTED_MAX: Final = 8
JUDGED: Final = (POST_TELEMETRY, POST_ATTRIBUTES, ATTRIBUTES_UPDATED)


class Given(msgspec.Struct, frozen=True, rename="camel"):
    """A value that stands in the profile, or in an attribute of the device."""

    default_value: Any = None
    user_value: Any = None
    dynamic_value: Mapping[str, Any] | None = None


class Predicate(msgspec.Struct, frozen=True, rename="camel"):
    type: Literal["NUMERIC", "STRING", "BOOLEAN", "COMPLEX"] = "NUMERIC"
    operation: str = ""
    value: Given | None = None
    ignore_case: bool = False
    predicates: tuple["Predicate", ...] = ()
    hysteresis: float = 0.0


class Key(msgspec.Struct, frozen=True, rename="camel"):
    key: str
    type: str = "TIME_SERIES"


class Filter(msgspec.Struct, frozen=True, rename="camel"):
    key: Key
    predicate: Predicate
    value_type: str = "NUMERIC"


class Spec(msgspec.Struct, frozen=True, rename="camel"):
    """`predicate` in new exports, `value` and `count` in old ones."""

    type: Literal["SIMPLE", "DURATION", "REPEATING"] = "SIMPLE"
    unit: str = "SECONDS"
    predicate: Given | None = None
    value: float | None = None
    count: int | None = None

    @property
    def amount(self) -> float:
        """Seconds that the conditions must hold, or how many times."""
        if self.predicate is not None:
            found = number(self.predicate.user_value or self.predicate.default_value)
        else:
            found = self.count if self.type == "REPEATING" else self.value
        return float(found or 0) * (UNITS_S.get(self.unit, 1) if self.type == "DURATION" else 1)


class Condition(msgspec.Struct, frozen=True, rename="camel"):
    condition: tuple[Filter, ...]
    spec: Spec = Spec()


class Rule(msgspec.Struct, frozen=True, rename="camel"):
    condition: Condition
    alarm_details: str | None = None
    schedule: Mapping[str, Any] | None = None


class ProfileAlarm(msgspec.Struct, frozen=True, rename="camel"):
    """The rules of one type of alarm."""

    alarm_type: str
    create_rules: Mapping[str, Rule]
    clear_rule: Rule | None = None
    propagate: bool = False

    def rules(self) -> list[tuple[str, Rule]]:
        """Return the rules with their names, the most severe first."""
        found = [(one, self.create_rules[one]) for one in SEVERITIES if one in self.create_rules]
        return [*found, ("clear", self.clear_rule)] if self.clear_rule else found

    @property
    def clears_itself(self) -> bool:
        return self.clear_rule is None and any(
            one.predicate.hysteresis
            for rule in self.create_rules.values()
            for one in rule.condition.condition
        )


def alarms_of_profile(profile: Mapping[str, Any]) -> tuple[ProfileAlarm, ...]:
    """Return the rules in the export of a device profile; raises msgspec.ValidationError."""
    data = profile.get("profileData")
    found = data.get("alarms") if isinstance(data, dict) else None
    return msgspec.convert(found or [], tuple[ProfileAlarm, ...], strict=False)


class AlarmRulesConfig(NodeConfig, frozen=True, kw_only=True):
    alarms: tuple[ProfileAlarm, ...] = ()


class AlarmRules(Node):
    """Raises and clears alarms by rules that stand in the node."""

    node_type = "edgesync.AlarmRulesNode"
    config: ClassVar[type[NodeConfig]] = AlarmRulesConfig
    relations = frozenset(
        {"Success", "Alarm Created", "Alarm Updated", "Alarm Severity Updated", "Alarm Cleared"}
    )

    def __init__(self, place: Place, config: Any, scripts: Scripts) -> None:
        super().__init__(place, config, scripts)
        self._alarms: tuple[ProfileAlarm, ...] = getattr(config, "alarms", ())
        if sum(len(one.rules()) for one in self._alarms) > RULES_MAX:
            raise ValueError(f"has more than {RULES_MAX} rules")
        for alarm in self._alarms:
            for severity in alarm.create_rules:
                checked_severity(severity)

    def rules_for(self, entity: Originator, step: Step) -> Sequence[ProfileAlarm]:
        return self._alarms

    def process(self, message: Message, step: Step) -> Outs:
        outs: list[Out] = []
        if message.type in JUDGED and isinstance(message.data, dict):
            for alarm in self.rules_for(message.originator, step):
                outs += self._judged(alarm, message, step, is_message=True)
        return [*outs, Out("Success", message)]

    def wake(self, name: str, step: Step) -> Outs:
        """A condition has held for its time without a message that said otherwise."""
        stored = step.get(name)
        if stored is None:
            return []
        entity = Originator(*stored["entity"])
        message = device_message(
            POST_TELEMETRY, entity.name, {}, stored["time_ns"] + stored["wait_ns"],
            profile=stored["profile"],
        ).changed(originator=entity)  # fmt: skip
        outs: list[Out] = []
        for alarm in self.rules_for(entity, step):
            if name.endswith(f"\0{alarm.alarm_type}"):
                outs += self._judged(alarm, message, step, is_message=False)
        return outs

    def _judged(
        self, rules: ProfileAlarm, message: Message, step: Step, *, is_message: bool
    ) -> list[Out]:
        """Look at all rules of an alarm, and do what follows."""
        name = f"{message.originator}\0{rules.alarm_type}"
        stored: dict[str, Any] = dict(step.get(name) or {"values": {}, "rules": {}})
        known = _known(rules, stored["values"], message)
        kind = fill(rules.alarm_type, message)
        alarm = step.alarm(message.originator, kind)
        is_active = alarm is not None and alarm.is_active
        time_ns = message_time_ns(message)
        marks: dict[str, Any] = {}
        waits_s: list[float] = []
        holding: list[str] = []
        for which, rule in rules.rules():
            is_true = _holds(rule, known, message.originator, step, is_active=is_active)
            before = stored["rules"].get(which)
            mark, is_due, wait_s = _counted(
                rule.condition.spec, before, is_true, time_ns, is_message
            )
            if mark is not None:
                marks[which] = mark
            if wait_s is not None:
                waits_s.append(wait_s)
            if is_due:
                holding.append(which)
        outs = self._acted(rules, kind, holding, alarm, message, step, marks, time_ns)
        wait_s = min(waits_s, default=0.0)
        step.put(
            name,
            {
                "values": known, "rules": marks, "time_ns": time_ns,
                "wait_ns": round(wait_s * SECOND_NS),
                "profile": message.metadata.get("deviceType", "default"),
                "entity": [message.originator.kind, message.originator.name],
            },
        )  # fmt: skip
        if waits_s:
            step.wake(name, max(wait_s, 0.001))
        else:
            step.forget_wake(name)
        return outs

    def _acted(
        self, rules: ProfileAlarm, kind: str, holding: list[str], alarm: Alarm | None,
        message: Message, step: Step, marks: dict[str, Any], time_ns: int,
    ) -> list[Out]:  # fmt: skip
        active = alarm if alarm is not None and alarm.is_active else None
        severity = next((one for one in holding if one != "clear"), None)
        if severity is not None:
            template = rules.create_rules[severity].alarm_details
            details = {"data": fill(template, message)} if template else {}
            what, alarm = raised(
                step, message, kind, severity, details, propagate=rules.propagate, time_ns=time_ns
            )
            return [Out(f"Alarm {what}", alarm_message(message, alarm, what))]
        is_over = "clear" in holding or (rules.clears_itself and not marks)
        if active is not None and is_over:
            ended = cleared(step, active, None, time_ns)
            return [Out("Alarm Cleared", alarm_message(message, ended, "Cleared"))]
        return []


class ProfileRules(AlarmRules):
    """Raises and clears alarms by the rules of the device's profile."""

    node_type = "profile.TbDeviceProfileNode"
    config: ClassVar[type[NodeConfig]] = NodeConfig

    def rules_for(self, entity: Originator, step: Step) -> Sequence[ProfileAlarm]:
        return step.facts.alarm_rules(entity) if entity.kind == "DEVICE" else ()


def _known(rules: ProfileAlarm, before: Mapping[str, Any], message: Message) -> dict[str, Any]:
    """Return the values of the keys that rules look at, those of the message being the newest."""
    known = dict(before)
    is_telemetry = message.type == POST_TELEMETRY
    for _, rule in rules.rules():
        for one in rule.condition.condition:
            is_series = one.key.type == "TIME_SERIES"
            if is_series == is_telemetry and one.key.key in message.data:
                known[f"{one.key.type}\0{one.key.key}"] = message.data[one.key.key]
    return known


def _counted(
    spec: Spec, before: Any, is_true: bool, time_ns: int, is_message: bool
) -> tuple[Any, bool, float | None]:
    """Return what to remember of a rule, whether it is due, and in how many seconds it would be."""
    if not is_true:
        return None, False, None
    if spec.type == "REPEATING":
        count = (before or 0) + is_message
        return count, count >= spec.amount, None
    if spec.type == "DURATION":
        since = time_ns if before is None else before
        left_s = spec.amount - (time_ns - since) / SECOND_NS
        return since, left_s <= 0, left_s if left_s > 0 else None
    return 1, True, None


def _holds(
    rule: Rule, known: Mapping[str, Any], entity: Originator, step: Step, *, is_active: bool
) -> bool:
    return bool(rule.condition.condition) and all(
        _matches(one.predicate, _value(one.key, known, entity, step), entity, step, is_active)
        for one in rule.condition.condition
    )


def _value(key: Key, known: Mapping[str, Any], entity: Originator, step: Step) -> Any:
    found = known.get(f"{key.type}\0{key.key}")
    if found is not None:
        return found
    if key.type == "TIME_SERIES":
        newest = step.facts.latest(entity, key.key)
        return None if newest is None else newest[1]
    if key.type == "CONSTANT":
        return key.key
    return _attribute(key.key, entity, step)


def _attribute(name: str, entity: Originator, step: Step) -> Any:
    for scope in ("server", "shared", "client"):
        known = step.facts.attributes(entity, scope)
        if name in known:
            return known[name]
    return None


def _limit(given: Given | None, entity: Originator, step: Step) -> Any:
    if given is None:
        return None
    dynamic = given.dynamic_value or {}
    source = dynamic.get("sourceAttribute")
    if isinstance(source, str) and source:
        found = _attribute(source, entity, step)
        if found is not None:
            return found
    return given.default_value if given.user_value is None else given.user_value


def _matches(
    predicate: Predicate,
    value: Any,
    entity: Originator,
    step: Step,
    is_active: bool,
    depth: int = 0,
) -> bool:
    if value is None or depth > NESTED_MAX:
        return False
    if predicate.type == "COMPLEX":
        found = [
            _matches(one, value, entity, step, is_active, depth + 1) for one in predicate.predicates
        ]
        return any(found) if predicate.operation == "OR" else bool(found) and all(found)
    limit = _limit(predicate.value, entity, step)
    if predicate.type == "STRING":
        return _text_matches(predicate, str(value), str(limit))
    if predicate.type == "BOOLEAN":
        is_same = _truth(value) == _truth(limit)
        return not is_same if predicate.operation == "NOT_EQUAL" else is_same
    left, right = number(value), number(limit)
    if left is None or right is None:
        return False
    return _number_matches(predicate, left, right, predicate.hysteresis if is_active else 0.0)


def _truth(value: Any) -> bool:
    return value.lower() == "true" if isinstance(value, str) else bool(value)


def _number_matches(predicate: Predicate, left: float, right: float, slack: float) -> bool:
    match predicate.operation:
        case "GREATER":
            return left > right - slack
        case "GREATER_OR_EQUAL":
            return left >= right - slack
        case "LESS":
            return left < right + slack
        case "LESS_OR_EQUAL":
            return left <= right + slack
        case "NOT_EQUAL":
            return left != right
    return left == right


def _text_matches(predicate: Predicate, left: str, right: str) -> bool:
    if predicate.ignore_case:
        left, right = left.lower(), right.lower()
    match predicate.operation:
        case "NOT_EQUAL":
            return left != right
        case "STARTS_WITH":
            return left.startswith(right)
        case "ENDS_WITH":
            return left.endswith(right)
        case "CONTAINS":
            return right in left
        case "NOT_CONTAINS":
            return right not in left
        case "IN":
            return left in [one.strip() for one in right.split(",")]
        case "NOT_IN":
            return left not in [one.strip() for one in right.split(",")]
    return left == right


NODES = (AlarmRules, ProfileRules)

"""Nodes that raise and clear alarms.   [sans-IO]

An alarm is told to the hub when it begins, ends, or changes in severity or details; a message that
only confirms it is not told.
"""

from collections.abc import Generator, Mapping
from typing import Any, Final, Literal

import msgspec

from edgesync.model import Action
from edgesync.rules.alarm import DETAILS_BYTES_MAX, SEVERITIES, Alarm, new_alarm
from edgesync.rules.effects import TellAlarm
from edgesync.rules.message import ALARM, Message
from edgesync.rules.model import SCRIPT_CHARS_MAX
from edgesync.rules.node import (
    Node,
    NodeConfig,
    NodeFailure,
    Out,
    Outs,
    Place,
    ScriptAnswer,
    ScriptCall,
    Step,
)
from edgesync.rules.scripts.script import Script, Scripts
from edgesync.rules.templates import fill
from edgesync.rules.values import checked_name, kind_of, message_time_ns

Severity = Literal["CRITICAL", "MAJOR", "MINOR", "WARNING", "INDETERMINATE"]
MARKS: Final[Mapping[str, str]] = {
    "Created": "isNewAlarm", "Updated": "isExistingAlarm", "Cleared": "isClearedAlarm",
    "Severity Updated": "isSeverityUpdated",
}  # fmt: skip


def tell(step: Step, alarm: Alarm, action: Action) -> None:
    """Take a new state of an alarm, and let everybody see it."""
    step.put_alarm(alarm.changed(is_shared=False))
    step.effect(TellAlarm(alarm, action))


def alarm_message(message: Message, alarm: Alarm, what: str) -> Message:
    """Return what goes on when something happened to an alarm: "Created", "Cleared" and so on."""
    told = message.changed(type=ALARM, data=alarm.told(), units={})
    return told.with_metadata(**{MARKS[what]: "true"})


def raised(
    step: Step, message: Message, kind: str, severity: str, details: Any, *,
    propagate: bool = False, time_ns: int,
) -> tuple[str, Alarm]:  # fmt: skip
    """Raise an alarm or go on with the active one; returns what happened, and the alarm."""
    before = step.alarm(message.originator, kind)
    if before is None or not before.is_active:
        alarm = new_alarm(
            message.originator, kind, severity, time_ns, details=details, propagate=propagate
        )
        tell(step, alarm, Action.ADDED)
        return "Created", alarm
    alarm = before.changed(
        severity=severity, details=details, propagate=propagate,
        end_ns=max(time_ns, before.end_ns),
    )  # fmt: skip
    if (before.severity, before.details) != (severity, details):
        tell(step, alarm, Action.UPDATED)
    else:
        step.put_alarm(alarm)
    return "Updated" if before.severity == severity else "Severity Updated", alarm


def cleared(step: Step, alarm: Alarm, details: Any, time_ns: int) -> Alarm:
    alarm = alarm.changed(clear_ns=max(time_ns, 1), end_ns=max(time_ns, alarm.end_ns))
    if details is not None:
        alarm = alarm.changed(details=details)
    tell(step, alarm, Action.ALARM_CLEAR)
    return alarm


class AlarmConfig(NodeConfig, frozen=True, kw_only=True):
    alarm_type: str
    script_lang: Literal["JS", "TBEL"] | None = None
    alarm_details_build_js: str = ""
    alarm_details_build_tbel: str = ""


class CreateAlarmConfig(AlarmConfig, frozen=True, kw_only=True):
    alarm_type: str = ""
    severity: str = "CRITICAL"
    dynamic_severity: bool = False
    propagate: bool = False
    use_message_alarm_data: bool = False
    overwrite_alarm_details: bool = True


class _AlarmNode(Node):
    """Asks a script for the details of an alarm."""

    def __init__(self, place: Place, config: AlarmConfig, scripts: Scripts) -> None:
        super().__init__(place, config, scripts)
        self._type = config.alarm_type
        is_tbel = config.script_lang == "TBEL"
        body = config.alarm_details_build_tbel if is_tbel else config.alarm_details_build_js
        if len(body) > SCRIPT_CHARS_MAX:
            raise ValueError(f"has a script of {len(body)} characters")
        self._script = (
            Script(scripts, place.key, body, config.script_lang or "JS") if body.strip() else None
        )

    def kind(self, message: Message) -> str:
        return checked_name("alarmType", fill(self._type, message))

    def details(
        self, message: Message, before: Alarm | None, step: Step
    ) -> Generator[ScriptCall, ScriptAnswer, Any]:
        metadata = dict(message.metadata)
        if before is not None and before.is_active:
            metadata["prevAlarmDetails"] = msgspec.json.encode(before.details).decode()
        if self._script is None:
            return before.details if before is not None and before.is_active else {}
        arguments = (message.data, metadata, message.type)
        found = yield from self._script.run(arguments, step.now)
        return checked_details(found)


def checked_details(found: Any) -> Any:
    if found is not None and not isinstance(found, dict | list):
        raise NodeFailure(f"the script returned {kind_of(found)}; details are an object")
    size = len(msgspec.json.encode(found))
    if size > DETAILS_BYTES_MAX:
        raise NodeFailure(f"details of {size} bytes; {DETAILS_BYTES_MAX} are the most")
    return found


class CreateAlarm(_AlarmNode):
    node_type = "action.TbCreateAlarmNode"
    config = CreateAlarmConfig
    relations = frozenset({"Created", "Updated", "False"})

    def __init__(self, place: Place, config: CreateAlarmConfig, scripts: Scripts) -> None:
        if config.use_message_alarm_data:
            config = msgspec.structs.replace(config, alarm_details_build_js="", script_lang="JS")
        elif not config.alarm_type:
            raise ValueError("alarmType is empty; name the alarm")
        super().__init__(place, config, scripts)
        self._config = config
        is_pattern = config.dynamic_severity or "$" in config.severity
        if not is_pattern and not config.use_message_alarm_data:
            checked_severity(config.severity)

    def process(self, message: Message, step: Step) -> Outs:
        config, time_ns = self._config, message_time_ns(message)
        if config.use_message_alarm_data:
            kind, severity, details, propagate = _said(message)
        else:
            kind, propagate = self.kind(message), config.propagate
            before = step.alarm(message.originator, kind)
            severity = _severity(fill(config.severity, message))
            details = yield from self.details(message, before, step)
            if before is not None and before.is_active and not config.overwrite_alarm_details:
                details = before.details
        what, alarm = raised(
            step, message, kind, severity, details, propagate=propagate, time_ns=time_ns
        )
        what = "Created" if what == "Created" else "Updated"
        return [Out(what, alarm_message(message, alarm, what))]


def checked_severity(severity: str) -> str:
    if severity not in SEVERITIES:
        raise ValueError(f"severity {severity!r} is none of {', '.join(SEVERITIES)}")
    return severity


def _severity(text: str) -> str:
    try:
        return checked_severity(text.upper())
    except ValueError as error:
        raise NodeFailure(str(error)) from error


def _said(message: Message) -> tuple[str, str, Any, bool]:
    data = message.data if isinstance(message.data, dict) else {}
    kind = data.get("type") or data.get("name")
    if not isinstance(kind, str):
        raise NodeFailure("data is no alarm: it has no type")
    severity = _severity(str(data.get("severity", "CRITICAL")))
    return (
        checked_name("type", kind),
        severity,
        checked_details(data.get("details")),
        bool(data.get("propagate")),
    )


class ClearAlarm(_AlarmNode):
    node_type = "action.TbClearAlarmNode"
    config = AlarmConfig
    relations = frozenset({"Cleared", "False"})

    def process(self, message: Message, step: Step) -> Outs:
        before = step.alarm(message.originator, self.kind(message))
        if before is None or not before.is_active:
            return [Out("False", message)]
        details = yield from self.details(message, before, step)
        alarm = cleared(step, before, details, message_time_ns(message))
        return [Out("Cleared", alarm_message(message, alarm, "Cleared"))]


NODES = (CreateAlarm, ClearAlarm)

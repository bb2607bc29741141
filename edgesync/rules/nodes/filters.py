"""Nodes that choose where a message goes, and leave it as it is.   [sans-IO]"""

from typing import Any

from edgesync.rules.message import OTHER, RELATIONS, Message
from edgesync.rules.node import Node, NodeConfig, NodeFailure, Out, Outs, Place, Step
from edgesync.rules.nodes.scripted import ScriptNode
from edgesync.rules.scripts.script import Scripts
from edgesync.rules.values import kind_of

TRUE, FALSE = "True", "False"
TRUE_FALSE = frozenset({TRUE, FALSE})
# Labels that one message may leave a switch by.
LABELS_MAX = 64


def decided(message: Message, is_true: bool) -> list[Out]:
    return [Out(TRUE if is_true else FALSE, message)]


class ScriptFilter(ScriptNode):
    node_type = "filter.TbJsFilterNode"
    relations = TRUE_FALSE

    def process(self, message: Message, step: Step) -> Outs:
        found = yield from self.ask(message, step)
        if not isinstance(found, bool):
            raise NodeFailure(f"the script returned {kind_of(found)}; a filter needs true or false")
        return decided(message, found)


class ScriptSwitch(ScriptNode):
    node_type = "filter.TbJsSwitchNode"
    relations = None

    def process(self, message: Message, step: Step) -> Outs:
        found = yield from self.ask(message, step)
        labels = [found] if isinstance(found, str) else found
        if not isinstance(labels, list) or not all(isinstance(one, str) for one in labels):
            raise NodeFailure(
                f"the script returned {kind_of(found)}; a switch needs a label, or a list of them"
            )
        if len(labels) > LABELS_MAX:
            raise NodeFailure(
                f"the script returned {len(labels)} labels; {LABELS_MAX} are the most"
            )
        return [Out(label, message) for label in dict.fromkeys(labels)]


class TypeSwitch(Node):
    node_type = "filter.TbMsgTypeSwitchNode"
    relations = frozenset({*RELATIONS.values(), OTHER})

    def process(self, message: Message, step: Step) -> Outs:
        return [Out(RELATIONS.get(message.type, OTHER), message)]


class TypeFilterConfig(NodeConfig, frozen=True, kw_only=True):
    message_types: tuple[str, ...]


class TypeFilter(Node):
    node_type = "filter.TbMsgTypeFilterNode"
    config = TypeFilterConfig
    relations = TRUE_FALSE

    def __init__(self, place: Place, config: TypeFilterConfig, scripts: Scripts) -> None:
        super().__init__(place, config, scripts)
        self._types = frozenset(config.message_types)

    def process(self, message: Message, step: Step) -> Outs:
        return decided(message, message.type in self._types)


class OriginatorTypeConfig(NodeConfig, frozen=True, kw_only=True):
    originator_types: tuple[str, ...]


class OriginatorTypeFilter(Node):
    node_type = "filter.TbOriginatorTypeFilterNode"
    config = OriginatorTypeConfig
    relations = TRUE_FALSE

    def __init__(self, place: Place, config: OriginatorTypeConfig, scripts: Scripts) -> None:
        super().__init__(place, config, scripts)
        self._types = frozenset(config.originator_types)

    def process(self, message: Message, step: Step) -> Outs:
        return decided(message, message.originator.kind in self._types)


class OriginatorTypeSwitch(Node):
    node_type = "filter.TbOriginatorTypeSwitchNode"
    relations = None

    def process(self, message: Message, step: Step) -> Outs:
        return [Out(message.originator.kind.replace("_", " ").capitalize(), message)]


class ProfileSwitch(Node):
    """By the device's type: the label is its name."""

    node_type = "filter.TbDeviceTypeSwitchNode"
    relations = None

    def process(self, message: Message, step: Step) -> Outs:
        if message.originator.kind != "DEVICE":
            raise NodeFailure(f"{message.originator} is no device")
        return [Out(step.facts.profile(message.originator), message)]


class CheckFieldsConfig(NodeConfig, frozen=True, kw_only=True):
    message_names: tuple[str, ...] = ()
    metadata_names: tuple[str, ...] = ()
    check_all_keys: bool = True


class CheckFields(Node):
    """True if all fields, or any of them, are there."""

    node_type = "filter.TbCheckMessageNode"
    config = CheckFieldsConfig
    relations = TRUE_FALSE

    def __init__(self, place: Place, config: CheckFieldsConfig, scripts: Scripts) -> None:
        super().__init__(place, config, scripts)
        self._config = config

    def process(self, message: Message, step: Step) -> Outs:
        config = self._config
        data: Any = message.data if isinstance(message.data, dict) else {}
        there = [data.get(name) is not None for name in config.message_names]
        there += [bool(message.metadata.get(name)) for name in config.metadata_names]
        return decided(message, all(there) if config.check_all_keys else any(there))


class AlarmStatusConfig(NodeConfig, frozen=True, kw_only=True):
    alarm_status_list: tuple[str, ...]


class AlarmStatusFilter(Node):
    """True if the alarm in the message has one of these states."""

    node_type = "filter.TbCheckAlarmStatusNode"
    config = AlarmStatusConfig
    relations = TRUE_FALSE

    def __init__(self, place: Place, config: AlarmStatusConfig, scripts: Scripts) -> None:
        super().__init__(place, config, scripts)
        self._states = frozenset(config.alarm_status_list)

    def process(self, message: Message, step: Step) -> Outs:
        state = message.data.get("status") if isinstance(message.data, dict) else None
        if not isinstance(state, str):
            raise NodeFailure("data is no alarm: it has no status")
        return decided(message, state in self._states)


NODES = (
    ScriptFilter, ScriptSwitch, TypeSwitch, TypeFilter, OriginatorTypeFilter,
    OriginatorTypeSwitch, ProfileSwitch, CheckFields, AlarmStatusFilter,
)  # fmt: skip

"""Nodes that make other messages of a message.   [sans-IO]"""

import re
from collections.abc import Mapping
from typing import Any, Final, Literal

from edgesync.rules.message import Message, Originator
from edgesync.rules.node import Node, NodeConfig, NodeFailure, Out, Outs, Place, Step, success
from edgesync.rules.nodes.scripted import ScriptNode
from edgesync.rules.scripts.script import Scripts
from edgesync.rules.templates import as_text, fill
from edgesync.rules.values import checked_name, kind_of

# Messages that a script, or a list that is split, may make of one.
MESSAGES_MAX: Final = 500
Where = Literal["METADATA", "DATA"]


class ScriptTransform(ScriptNode):
    node_type = "transform.TbTransformMsgNode"

    def process(self, message: Message, step: Step) -> Outs:
        found = yield from self.ask(message, step)
        return [Out("Success", one) for one in messages_of(found, message)]


def messages_of(found: Any, message: Message) -> list[Message]:
    """Return the messages that a script returned, made of `message`; raises NodeFailure."""
    items = found if isinstance(found, list) else [found]
    if len(items) > MESSAGES_MAX:
        raise NodeFailure(f"the script returned {len(items)} messages; {MESSAGES_MAX} are the most")
    return [_message_of(one, message) for one in items]


def _message_of(found: Any, message: Message) -> Message:
    if not isinstance(found, dict) or not found.keys() & {"msg", "metadata", "msgType"}:
        raise NodeFailure(
            f"the script returned {kind_of(found)}; {{msg: …, metadata: …, msgType: …}} is needed"
        )
    metadata, kind = found.get("metadata"), found.get("msgType")
    if metadata is not None and not isinstance(metadata, dict):
        raise NodeFailure(f"the script returned metadata that is {kind_of(metadata)}")
    if kind is not None and not isinstance(kind, str):
        raise NodeFailure(f"the script returned a msgType that is {kind_of(kind)}")
    return message.changed(
        type=message.type if kind is None else checked_name("msgType", kind),
        data=found.get("msg", message.data),
        metadata=message.metadata if metadata is None else texts(metadata),
    )


def texts(found: Mapping[str, Any]) -> dict[str, str]:
    return {name: as_text(value) for name, value in found.items() if value is not None}


class ChangeOriginatorConfig(NodeConfig, frozen=True, kw_only=True):
    originator_source: Literal[
        "CUSTOMER", "TENANT", "RELATED", "ALARM_ORIGINATOR", "ENTITY", "EDGE"
    ]
    entity_type: str = "DEVICE"
    entity_name_pattern: str = ""
    relations_query: Mapping[str, Any] | None = None


class ChangeOriginator(Node):
    """Another entity: one by its name, a related one, the alarm's, or this edge."""

    node_type = "transform.TbChangeOriginatorNode"
    config = ChangeOriginatorConfig

    def __init__(self, place: Place, config: ChangeOriginatorConfig, scripts: Scripts) -> None:
        super().__init__(place, config, scripts)
        self._config = config
        if config.originator_source in ("CUSTOMER", "TENANT"):
            raise ValueError(
                f"changes to the {config.originator_source.lower()}, which no edge knows; use "
                "ENTITY with a name, RELATED, or EDGE"
            )
        if config.originator_source == "ENTITY" and not config.entity_name_pattern:
            raise ValueError("entityNamePattern is empty; ENTITY needs the name of one")

    def process(self, message: Message, step: Step) -> Outs:
        return success(message.changed(originator=self._other(message, step)))

    def _other(self, message: Message, step: Step) -> Originator:
        config = self._config
        match config.originator_source:
            case "ENTITY":
                name = fill(config.entity_name_pattern, message)
                return Originator(config.entity_type, checked_name("entity", name))
            case "ALARM_ORIGINATOR":
                data = message.data if isinstance(message.data, dict) else {}
                found = data.get("originator")
                named = data.get("originatorName")
                if not isinstance(found, dict) or not isinstance(named, str):
                    raise NodeFailure("data is no alarm: it has no originator")
                return Originator(str(found.get("entityType", "DEVICE")), named)
        others = related(step, message.originator, config.relations_query)
        if not others:
            raise NodeFailure(f"{message.originator} has no related entity of that kind")
        return others[0]


def related(step: Step, entity: Originator, query: Mapping[str, Any] | None) -> list[Originator]:
    """Return the entities that a relations query of an export finds, one level deep."""
    query = query or {}
    direction = str(query.get("direction", "FROM"))
    filters = query.get("filters") or [{"relationType": "Contains", "entityTypes": []}]
    found: list[Originator] = []
    for one in filters:
        kinds = one.get("entityTypes") or []
        for other in step.facts.related(entity, direction, str(one.get("relationType", ""))):
            if not kinds or other.kind in kinds:
                found.append(other)
    return list(dict.fromkeys(found))


class KeysConfig(NodeConfig, frozen=True, kw_only=True):
    """`copyFrom`, `renameIn`, `deleteFrom` in new exports; `fromMetadata` in old ones."""

    copy_from: Where | None = None
    rename_in: Where | None = None
    delete_from: Where | None = None
    from_metadata: bool = False
    keys: tuple[str, ...] = ()
    rename_keys_mapping: Mapping[str, str] = {}

    @property
    def where(self) -> Where:
        named = self.copy_from or self.rename_in or self.delete_from
        return named or ("METADATA" if self.from_metadata else "DATA")


class _KeysNode(Node):
    """Changes fields of the data or of the metadata, those whose names match."""

    config = KeysConfig

    def __init__(self, place: Place, config: KeysConfig, scripts: Scripts) -> None:
        super().__init__(place, config, scripts)
        self._mapping = config.rename_keys_mapping
        self._where = config.where
        self._names = frozenset(config.keys)
        # Patterns of whole names that are only `.*` at their ends; no other ones, for their cost.
        self._starts = tuple(one[:-2] for one in config.keys if one.endswith(".*"))

    def matches(self, name: str) -> bool:
        return name in self._names or name.startswith(self._starts)

    def data_of(self, message: Message) -> dict[str, Any]:
        if not isinstance(message.data, dict):
            raise NodeFailure(f"data is no object of keys and values, but {kind_of(message.data)}")
        return dict(message.data)


class CopyKeys(_KeysNode):
    node_type = "transform.TbCopyKeysNode"

    def process(self, message: Message, step: Step) -> Outs:
        data = self.data_of(message)
        if self._where == "METADATA":
            data |= {name: text for name, text in message.metadata.items() if self.matches(name)}
            return success(message.changed(data=data))
        chosen = {name: value for name, value in data.items() if self.matches(name)}
        return success(message.with_metadata(**texts(chosen)))


class DeleteKeys(_KeysNode):
    node_type = "transform.TbDeleteKeysNode"

    def process(self, message: Message, step: Step) -> Outs:
        if self._where == "METADATA":
            rest = {k: v for k, v in message.metadata.items() if not self.matches(k)}
            return success(message.changed(metadata=rest))
        data = {k: v for k, v in self.data_of(message).items() if not self.matches(k)}
        return success(message.changed(data=data))


class RenameKeys(_KeysNode):
    node_type = "transform.TbRenameKeysNode"

    def process(self, message: Message, step: Step) -> Outs:
        names = self._mapping
        if self._where == "METADATA":
            return success(
                message.changed(metadata={names.get(k, k): v for k, v in message.metadata.items()})
            )
        data = {names.get(key, key): value for key, value in self.data_of(message).items()}
        units = {names.get(key, key): unit for key, unit in message.units.items()}
        return success(message.changed(data=data, units=units))


class JsonPathConfig(NodeConfig, frozen=True, kw_only=True):
    json_path: str = "$"


class JsonPath(Node):
    """A member of the data, by a path of names and positions."""

    node_type = "transform.TbJsonPathNode"
    config = JsonPathConfig

    def __init__(self, place: Place, config: JsonPathConfig, scripts: Scripts) -> None:
        super().__init__(place, config, scripts)
        if not re.fullmatch(r"\$(?:\.[\w-]+|\[\d{1,6}\]|\['[^'\]]+'\])*", config.json_path):
            raise ValueError(
                f"jsonPath {config.json_path[:60]!r}: only names and positions, as in $.a.b[0]"
            )
        found = re.findall(r"\.([\w-]+)|\[(\d+)\]|\['([^'\]]+)'\]", config.json_path)
        self._path = [name or quoted or int(at) for name, at, quoted in found]

    def process(self, message: Message, step: Step) -> Outs:
        value = message.data
        for part in self._path:
            found = isinstance(value, dict if isinstance(part, str) else list)
            if not found or (part not in value if isinstance(part, str) else part >= len(value)):
                raise NodeFailure(f"data has no {part!r}")
            value = value[part]
        return success(message.changed(data=value))


class SplitArray(Node):
    """A message for each item of the data, if it is a list."""

    node_type = "transform.TbSplitArrayMsgNode"

    def process(self, message: Message, step: Step) -> Outs:
        if not isinstance(message.data, list):
            raise NodeFailure(f"data is no list, but {kind_of(message.data)}")
        if len(message.data) > MESSAGES_MAX:
            raise NodeFailure(f"a list of {len(message.data)} items; {MESSAGES_MAX} are the most")
        return [Out("Success", message.changed(data=one)) for one in message.data]


NODES = (
    ScriptTransform, ChangeOriginator, CopyKeys, DeleteKeys, RenameKeys, JsonPath, SplitArray,
)  # fmt: skip

"""Exports of rule chains: read into `RuleChain`, and written again.   [sans-IO]

ThingsBoard has written three generations, and all are read here:

    scripts in JavaScript alone (`jsScript`), chains linked by `ruleChainConnections`
    scripts in two languages (`scriptLang`, `tbelScript`)
    nodes with a `configurationVersion`, and settings moved and renamed with it

and three shapes: one chain (`ruleChain` and `metadata`), all of a tenant (lists of both), and that
of version control (`entity` and `metaData`). Nothing of an export is lost: `export` writes it back
byte for byte, fields that mean nothing here included.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, NoReturn, TypeGuard

from edgesync.errors import ConfigError, gathered
from edgesync.rules import catalog
from edgesync.rules.model import (
    CHAINS_MAX,
    CONNECTIONS_MAX,
    FILE_BYTES_MAX,
    NAME_CHARS_MAX,
    NODES_MAX,
    ChainConnection,
    Connection,
    RuleChain,
    RuleNode,
)

SHAPES: Final = "export the chain anew: an object with `ruleChain` and `metadata` is needed"
Mistakes = list[ConfigError]
Shape = tuple[str, Any, Any, Mapping[str, Any]]


def read_chains(raw: bytes, file: str) -> list[RuleChain]:
    """Return the chains of an export; raises ConfigError, which has all mistakes at once."""
    mistakes: Mistakes = []
    document = _parsed(raw, file)
    found: list[RuleChain] = []
    for field, header, metadata, whole in _shaped(document, file):
        chain = _Reader(file, field, mistakes).chain(header, metadata, whole)
        if chain is not None:
            found.append(chain)
    if mistakes:
        raise gathered(mistakes)
    return found


def export(chain: RuleChain) -> bytes:
    """Return a chain as ThingsBoard writes it into a file."""
    return json.dumps(chain.export, indent=2, ensure_ascii=False).encode("utf-8", "surrogatepass")


def _parsed(raw: bytes, file: str) -> Any:
    if len(raw) > FILE_BYTES_MAX:
        raise ConfigError(
            file=file, field="(file)", problem=f"has {len(raw)} bytes",
            remedy=f"at most {FILE_BYTES_MAX}; split it into several chains",
        )  # fmt: skip
    try:
        return json.loads(raw.decode("utf-8-sig"), parse_constant=_refuse)
    except UnicodeDecodeError as error:
        problem = "is not UTF-8"
        raise ConfigError(file=file, field="(file)", problem=problem, remedy=SHAPES) from error
    except RecursionError as error:
        problem = "is nested too deeply"
        raise ConfigError(file=file, field="(file)", problem=problem, remedy=SHAPES) from error
    except ValueError as error:
        problem = f"is not JSON: {str(error)[:100]}"
        raise ConfigError(file=file, field="(file)", problem=problem, remedy=SHAPES) from error


def _refuse(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number in JSON")


def _shaped(document: Any, file: str) -> list[Shape]:
    """Return field, header, metadata and the whole of each chain in an export."""
    if isinstance(document, dict):
        if isinstance(document.get("ruleChains"), list):
            return _paired(document, file)
        if "ruleChain" in document or "metadata" in document:
            return [("", document.get("ruleChain"), document.get("metadata"), document)]
        if "entity" in document:
            return [("", document["entity"], document.get("metaData"), document)]
        if "nodes" in document and "firstNodeIndex" in document:
            return [("", {"name": document.get("name") or "Rule chain"}, document, document)]
    raise ConfigError(file=file, field="(file)", problem="is no export of a chain", remedy=SHAPES)


def _paired(
    document: Mapping[str, Any], file: str
) -> list[tuple[str, Any, Any, Mapping[str, Any]]]:
    """Return the chains of a tenant's export: headers and metadata belong together by id."""
    headers, metadata = document["ruleChains"], document.get("metadata")
    if not isinstance(metadata, list):
        raise ConfigError(
            file=file, field="metadata", problem="is no list, as ruleChains is", remedy=SHAPES
        )
    if len(headers) > CHAINS_MAX:
        raise ConfigError(
            file=file, field="ruleChains", problem=f"has {len(headers)} chains",
            remedy=f"at most {CHAINS_MAX}",
        )  # fmt: skip
    by_id = {_id_of(one.get("ruleChainId")): one for one in metadata if isinstance(one, dict)}
    found: list[Shape] = []
    for index, header in enumerate(headers):
        own = _id_of(header.get("id")) if isinstance(header, dict) else ""
        matching = by_id.get(own) if own else None
        if matching is None and index < len(metadata):
            matching = metadata[index]
        found.append(
            (f"ruleChains[{index}]", header, matching, {"ruleChain": header, "metadata": matching})
        )
    return found


def _id_of(value: Any) -> str:
    """Return an id, "" for none; what is no name to be told or stored by is none."""
    if isinstance(value, dict):
        value = value.get("id")
    return value if _is_name(value) else ""


def _is_name(value: Any) -> TypeGuard[str]:
    return isinstance(value, str) and 0 < len(value) <= NAME_CHARS_MAX and value.isprintable()


class _Reader:
    """Reads one chain, and notes every mistake with its field and its remedy."""

    def __init__(self, file: str, field: str, mistakes: Mistakes) -> None:
        self._file = file
        self._prefix = f"{field}." if field else ""
        self._mistakes = mistakes

    def chain(self, header: Any, metadata: Any, whole: Mapping[str, Any]) -> RuleChain | None:
        before = len(self._mistakes)
        header = self._object("ruleChain", header)
        metadata = self._object("metadata", metadata)
        name = self._text("ruleChain.name", header.get("name"))
        if header.get("type") not in (None, "CORE", "EDGE"):
            self._wrong("ruleChain.type", f"is {_shown(header['type'])}", "CORE or EDGE")
        nodes = self._nodes(metadata.get("nodes"))
        size = len(nodes)
        connections = self._connections(metadata.get("connections"), size)
        others = self._chain_connections(metadata.get("ruleChainConnections"), size)
        first = metadata.get("firstNodeIndex")
        if first is not None:
            first = self._index("metadata.firstNodeIndex", first, size)
        if len(self._mistakes) > before:
            return None
        ids = [_id_of(header.get("id")), _id_of(header.get("externalId"))]
        ids.append(_id_of(metadata.get("ruleChainId")))
        return RuleChain(
            name=name, ids=tuple(one for one in dict.fromkeys(ids) if one),
            is_root=header.get("root") is True, first=first, nodes=nodes, connections=connections,
            chain_connections=others, export=whole,
        )  # fmt: skip

    def _nodes(self, found: Any) -> list[RuleNode]:
        items = self._list("metadata.nodes", found, NODES_MAX, is_needed=True)
        nodes: list[RuleNode] = []
        taken: set[str] = set()
        for index, item in enumerate(items):
            field = f"metadata.nodes[{index}]"
            raw = self._object(field, item)
            kind = self._text(f"{field}.type", raw.get("type"))
            name = self._text(f"{field}.name", raw.get("name"))
            configuration = raw.get("configuration")
            if configuration is None:
                configuration = {}
            configuration = self._object(f"{field}.configuration", configuration)
            id_ = self._free_id(
                _id_of(raw.get("id")) or _id_of(raw.get("externalId")) or name, taken
            )
            nodes.append(
                RuleNode(
                    type=catalog.short_type(kind), name=name, id=id_, configuration=configuration
                )
            )
        return nodes

    def _free_id(self, wanted: str, taken: set[str]) -> str:
        """Return an id that no other node has: several nodes may have one name."""
        found, number = wanted, 1
        while found in taken:
            number += 1
            found = f"{wanted} #{number}"
        taken.add(found)
        return found

    def _connections(self, found: Any, size: int) -> list[Connection]:
        connections: list[Connection] = []
        for index, item in enumerate(
            self._list("metadata.connections", found, CONNECTIONS_MAX, is_needed=False)
        ):
            field = f"metadata.connections[{index}]"
            raw = self._object(field, item)
            source = self._index(f"{field}.fromIndex", raw.get("fromIndex"), size)
            target = self._index(f"{field}.toIndex", raw.get("toIndex"), size)
            relation = self._text(f"{field}.type", raw.get("type"))
            connections.append(Connection(source, target, relation))
        return connections

    def _chain_connections(self, found: Any, size: int) -> list[ChainConnection]:
        connections: list[ChainConnection] = []
        for index, item in enumerate(
            self._list("metadata.ruleChainConnections", found, CONNECTIONS_MAX, is_needed=False)
        ):
            field = f"metadata.ruleChainConnections[{index}]"
            raw = self._object(field, item)
            source = self._index(f"{field}.fromIndex", raw.get("fromIndex"), size)
            relation = self._text(f"{field}.type", raw.get("type"))
            chain = _id_of(raw.get("targetRuleChainId"))
            if not chain:
                self._wrong(f"{field}.targetRuleChainId", "names no chain", "its id is needed")
            connections.append(ChainConnection(source, relation, chain))
        return connections

    # -- kinds of value --------------------------------------------------------------------------

    def _wrong(self, field: str, problem: str, remedy: str) -> None:
        if len(self._mistakes) < 100:
            self._mistakes.append(
                ConfigError(
                    file=self._file, field=self._prefix + field, problem=problem, remedy=remedy
                )
            )

    def _object(self, field: str, value: Any) -> Mapping[str, Any]:
        if isinstance(value, dict):
            return value
        problem = "is missing" if value is None else f"is {_shown(value)}"
        self._wrong(field, problem, "an object is needed")
        return {}

    def _text(self, field: str, value: Any) -> str:
        if _is_name(value):
            return value
        problem = "is missing" if value is None else f"is {_shown(value)}"
        self._wrong(field, problem, f"a text of 1 to {NAME_CHARS_MAX} characters is needed")
        return "?"

    def _list(self, field: str, value: Any, limit: int, *, is_needed: bool) -> Sequence[Any]:
        if value is None and not is_needed:
            return ()
        if not isinstance(value, list):
            problem = "is missing" if value is None else f"is {_shown(value)}"
            self._wrong(field, problem, "a list is needed")
            return ()
        if len(value) > limit:
            self._wrong(field, f"has {len(value)} entries", f"at most {limit}")
            return ()
        return value

    def _index(self, field: str, value: Any, size: int) -> int:
        if type(value) is int and 0 <= value < size:
            return value
        problem = "is missing" if value is None else f"is {_shown(value)}"
        self._wrong(field, problem, f"a node is needed: 0 to {size - 1}" if size else "no nodes")
        return 0


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=True, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."

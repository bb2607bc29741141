"""A rule chain as it is carried out, and the export that it came from.   [sans-IO]"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

# What one upload may hold (I7). The largest public chain has 119 nodes and 86 kB, the longest
# script 14 kB.
FILE_BYTES_MAX: Final = 1 << 20
CHAINS_MAX: Final = 100
NODES_MAX: Final = 500
CONNECTIONS_MAX: Final = 5_000
NAME_CHARS_MAX: Final = 255
SCRIPT_CHARS_MAX: Final = 64 * 1024

FAILURE: Final = "Failure"
SUCCESS: Final = "Success"


class Connection(msgspec.Struct, frozen=True):
    """Messages that leave node `source` by `relation` go to node `target` of the same chain."""

    source: int
    target: int
    relation: str


class ChainConnection(msgspec.Struct, frozen=True):
    """Messages that leave node `source` by `relation` go on in another chain (old exports)."""

    source: int
    relation: str
    chain: str


class RuleNode(msgspec.Struct, frozen=True, kw_only=True):
    """One node of a chain.

    type           as in the catalog, such as "filter.TbJsFilterNode"
    id             the node's own id, or its name where the export has none; unique in the chain
    configuration  as the export has it
    """

    type: str
    name: str
    id: str
    configuration: Mapping[str, Any]


class RuleChain(msgspec.Struct, frozen=True, kw_only=True):
    """A chain; `export` is all of what was read, fields that mean nothing here included.

    ids   by which other chains may refer to it
    """

    name: str
    ids: tuple[str, ...] = ()
    is_root: bool = False
    first: int | None = None
    nodes: Sequence[RuleNode] = ()
    connections: Sequence[Connection] = ()
    chain_connections: Sequence[ChainConnection] = ()
    export: Mapping[str, Any]

"""[cells] of edge.toml: the local-first store and its door for Redis clients."""

from collections.abc import Iterable
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from edgesync.model import Strategy
from edgesync.units import Bytes

StrategyName = Literal["crdt_merge", "last_write_wins", "cloud_wins", "edge_wins"]
Durability = Literal["always", "everysec", "no"]


class PrefixRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How siblings of keys with this prefix are ranked; the longest prefix counts."""

    prefix: Annotated[str, Meta(min_length=1, max_length=200)]
    strategy: StrategyName


class CellsSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The store is always there for programs that embed the node; `port` opens it to Redis clients.

    durability   always: a reply means "on disk"; everysec, no: it means "within 1 s", "within 5 s"
    """

    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 0
    password: str = ""
    durability: Durability = "always"
    strategy: StrategyName = "crdt_merge"
    prefix: tuple[PrefixRule, ...] = ()
    # Values below 64 bytes are never packed; above, only when 8 % are saved.
    compression: bool = True
    # One value that filled the commit queue would hold up everybody's readings.
    value_limit: Bytes = Bytes(1 << 20)
    clients_max: Annotated[int, Meta(ge=1, le=60_000)] = 10_000

    def commit_every_s(self) -> float:
        """Seconds between commits; 0 is as soon as possible."""
        return {"always": 0.0, "everysec": 1.0, "no": 5.0}[self.durability]

    def strategies(self) -> list[tuple[bytes, Strategy]]:
        return ranking(self.strategy, self.prefix)


def ranking(strategy: str, rules: Iterable[PrefixRule]) -> list[tuple[bytes, Strategy]]:
    """Return the strategy of each prefix, that of all others under the empty one."""
    some = [(rule.prefix.encode(), Strategy[rule.strategy.upper()]) for rule in rules]
    return [(b"", Strategy[strategy.upper()]), *some]

"""[cells] of edge.toml: the local-first store and its door for Redis clients."""

from collections.abc import Callable, Iterable
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from edgesync.cells.presets import PRESETS, Limits, PresetName
from edgesync.model import Strategy
from edgesync.units import Bytes, Period

StrategyName = Literal["crdt_merge", "last_write_wins", "cloud_wins", "edge_wins"]
Direction = Literal["both", "up", "down"]
Flush = Literal["refuse", "local-scope", "everywhere"]
Durability = Literal["always", "everysec", "no"]


class PrefixStrategy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How siblings are ranked under keys with this prefix; the longest prefix counts.

    strategy    as for all others when not given
    """

    prefix: Annotated[str, Meta(max_length=200)]
    strategy: StrategyName | None = None


class PrefixRule(PrefixStrategy, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is so for keys with this prefix at an edge.

    direction   both; up: what is written here goes to the hub and nothing comes back; down: what
                the hub has comes here, and is only changed there
    """

    direction: Direction = "both"


class CellsSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The store is always there for programs that embed the node; `port` opens it to Redis clients.

    durability   always: a reply means "on disk"; everysec, no: it means "within 1 s", "within 5 s"
    flush        what FLUSHDB and FLUSHALL remove: nothing (an error, unless told YES), the keys
                 that may be written here, or every key; all of that everywhere, in time
    notify_keyspace_events   which changes are published to who subscribes, as in Redis
    eviction     what goes when room is needed; lru: values that the hub has too, those used longest
                 ago first. They cannot be read while it is away, so nobody gets that unasked
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
    # Without one the store holds what its limit on disk allows.
    preset: PresetName = ""
    eviction: Literal["none", "lru"] = "none"

    flush: Flush = "refuse"
    notify_keyspace_events: Annotated[
        str,
        Meta(
            pattern=r"^[KEg$lshzxetdmnA]*$",
            description='letters as of Redis, such as "KEA" for all events',
        ),
    ] = "KEA"
    # Nothing else happens at the edge while a script of a client runs.
    script_cpu: Period = Period(0.1)

    def limits(self) -> Limits | None:
        return PRESETS.get(self.preset)

    @property
    def may_pack(self) -> bool:
        limits = self.limits()
        return self.compression and (limits is None or limits.may_pack)

    @property
    def value_max(self) -> int:
        limits = self.limits()
        return min(int(self.value_limit), limits.value if limits else 1 << 50)

    def commit_every_s(self) -> float:
        """Seconds between commits; 0 is as soon as possible."""
        return {"always": 0.0, "everysec": 1.0, "no": 5.0}[self.durability]

    def strategies(self) -> list[tuple[bytes, Strategy]]:
        return ranking(self.strategy, self.prefix)

    def scope(self) -> list[tuple[bytes, bool]]:
        """Return which keys the hub is asked for, the longest prefix first; empty for all."""
        return self._by_prefix(lambda rule: rule.direction != "up")

    def writable(self) -> list[tuple[bytes, bool]]:
        """Return which keys may be written here, in the same way."""
        return self._by_prefix(lambda rule: rule.direction != "down")

    def _by_prefix(self, has: Callable[[PrefixRule], bool]) -> list[tuple[bytes, bool]]:
        found = [(rule.prefix.encode(), has(rule)) for rule in self.prefix]
        if all(one for _, one in found):
            return []
        return sorted(found, key=lambda one: len(one[0]), reverse=True)


def ranking(strategy: str, rules: Iterable[PrefixStrategy]) -> list[tuple[bytes, Strategy]]:
    """Return the strategy of each prefix, that of all others under the empty one."""
    some = [
        (rule.prefix.encode(), Strategy[(rule.strategy or strategy).upper()])
        for rule in rules
        if rule.prefix
    ]
    return [(b"", Strategy[strategy.upper()]), *some]

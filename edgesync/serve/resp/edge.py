"""EDGE.STATUS, EDGE.SYNC and the others: the edge itself, its hub, and what passes between them.

Each is a function of what all clients share and of its arguments. One that has to wait returns a
`Later`; the server holds back what the client asks for after it until that is over.
"""

from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Protocol

import trio

from edgesync._native.clock import wall_ms_of
from edgesync._native.commands import EvictedReply
from edgesync._native.resp import ReplyError
from edgesync.cells import Reply
from edgesync.cells.commands.table import glob, integer
from edgesync.cells.conflicts import Conflict, Side
from edgesync.model import Strategy
from edgesync.status import Status
from edgesync.store.edgecells import CONFLICTS_MAX

if TYPE_CHECKING:
    from edgesync.resources.monitor import ResourceMonitor
    from edgesync.serve.resp.session import House
    from edgesync.sync.cells import CellSync

NO_HUB: Final = "ERR there is no hub: join one with `edgesync init --token ...`"
WAIT_MAX_MS: Final = 86_400_000


class Site(Protocol):
    """The node around the keys."""

    @property
    def cell_sync(self) -> "CellSync | None": ...
    @property
    def resources(self) -> "ResourceMonitor | None": ...
    def status(self) -> Status: ...
    def options(self) -> dict[str, object]: ...


class Later:
    """A reply that has to be waited for; `at_once` is what it is where nobody may wait."""

    def __init__(self, wait: Callable[[], Awaitable[Reply]], at_once: Reply) -> None:
        self.wait, self.at_once = wait, at_once


def answer(house: "House", args: Sequence[bytes]) -> Reply:
    """EDGE <name> and EDGE.<name>."""
    run = COMMANDS.get(args[0].lower())
    if run is None:
        shown, known = args[0].decode(errors="replace"), b", ".join(sorted(COMMANDS)).decode()
        raise ReplyError(f"ERR unknown subcommand '{shown}' of EDGE; there are {known.upper()}")
    return run(house, args[1:])


# -- what there is -------------------------------------------------------------------------------


def status(house: "House", args: Sequence[bytes]) -> Reply:
    _no_more(args, "STATUS")
    space, facts, sync = house.cells.space, house.facts, _sync(house)
    found: dict[str, Reply] = {
        "sync_status": "offline" if sync is None else sync.state(),
        "pending_ops": space.pending,
        "last_sync": "" if sync is None else _rfc3339(sync.last_round_ns),
        "node_id": facts.edge,
        "mode": "edge",
        "keys": space.keys,
        "replica": space.r,
        "local_clock": space.n,
        "hub_seq": house.cells.cursor.base,
        "granted": b" ".join(house.cells.cursor.grant) or b"all",
        "oldest_pending_ms": _oldest_ms(house),
        "conflicts_open": len(house.cells.conflicts(status="open", limit=CONFLICTS_MAX)),
        "durability": facts.durability,
        "uptime_s": int(facts.monotonic() - facts.begun),
    }
    if house.site is not None:
        site = house.site.status()
        link = site.link
        found |= {
            "resource_level": site.resource_level,
            "hub_url": link.endpoint,
            "link": link.state,
            "session": link.epoch,
            "reconnects": link.reconnects,
            "rtt_ms": None if link.rtt_s is None else round(link.rtt_s * 1000, 3),
            "clock_offset_ms": _ms(link.clock_offset_s),
            "last_error": link.problem
            or link.slowed
            or ("" if sync is None else sync.last_problem),
        }
    return _texts(found)


def queue(house: "House", args: Sequence[bytes]) -> Reply:
    """What the hub has not confirmed. It is bounded by the cells there are, not by the writes."""
    _no_more(args, "QUEUE")
    space = house.cells.space
    found: dict[str, Reply] = {
        "pending_ops": space.pending,
        "pending_bytes": house.cells.pending_bytes(),
        "oldest_ms": _oldest_ms(house),
        "sent": space.sent,
        "made": space.n,
        "policy": "replace",
        "dropped": 0,
    }
    return _texts(found)


def clock(house: "House", args: Sequence[bytes]) -> Reply:
    """The version vector as an edge sees it, itself and the hub, and the hybrid clock."""
    _no_more(args, "CLOCK")
    space = house.cells.space
    found: dict[str, Reply] = {
        "replica": space.r,
        "operations": space.n,
        "hub_has": house.cells.applied,
        "hub_seq": house.cells.cursor.base,
        "stamp": space.clock.last,
        "stamp_ms": wall_ms_of(space.clock.last),
        "wall_ms": house.facts.wall_ns() // 1_000_000,
        "keys_ms": house.cells.now_ms(),
    }
    return _texts(found)


def prefixes(house: "House", args: Sequence[bytes]) -> Reply:
    _no_more(args, "PREFIXES")
    return [
        {b"prefix": prefix, b"strategy": Strategy(strategy).name.lower().encode()}
        for prefix, strategy in house.cells.space.strategies()
    ]


def stats(house: "House", args: Sequence[bytes]) -> Reply:
    _no_more(args, "STATS")
    sync = _sync(house)
    found: dict[str, Reply] = {
        "commands": house.commands,
        "commits": house.cells.generation - 1,
        "evicted": house.cells.space.evicted,
    }
    if sync is not None:
        found |= {
            "restored": sync.restored,
            "rounds": sync.rounds,
            "full_syncs": sync.full_rounds,
            "checks": sync.checks,
            "refetches": sync.refetches,
            "pages": sync.pages,
            "keys_received": sync.keys,
            "ops_told": house.cells.space.sent,
        }
    return _texts(found)


def config(house: "House", args: Sequence[bytes]) -> Reply:
    """EDGE.CONFIG [pattern]: the settings this edge runs with."""
    matches = glob(args[0]).matches if args else None
    _no_more(args[1:], "CONFIG")
    options = {} if house.site is None else house.site.options()
    return {
        name.encode(): str(value).encode()
        for name, value in sorted(options.items())
        if matches is None or matches(name.encode())
    }


def peers(house: "House", args: Sequence[bytes]) -> Reply:
    """Whom this edge exchanges keys with: the hub, and nobody else."""
    _no_more(args, "PEERS")
    if house.site is None or not (link := house.site.status().link).endpoint:
        return []
    found: dict[str, Reply] = {
        "peer": "hub",
        "address": link.endpoint,
        "link": link.state,
        "keyspace": house.cells.cursor.keyspace.hex(),
        "known_as": house.cells.space.r,
        "hub_seq": house.cells.cursor.base,
        "hub_has": house.cells.applied,
    }
    return [_texts(found)]


def conflicts(house: "House", args: Sequence[bytes]) -> Reply:
    """EDGE.CONFLICTS [OPEN | ALL | COUNT] [PREFIX p] [AFTER id] [LIMIT n]."""
    rest, word = list(args), b"OPEN"
    if rest and rest[0].upper() in (b"OPEN", b"ALL", b"COUNT"):
        word = rest.pop(0).upper()
    prefix, after, limit = b"", 0, 100
    while len(rest) >= 2:
        name, value = rest.pop(0).upper(), rest.pop(0)
        match name:
            case b"PREFIX":
                prefix = value
            case b"AFTER":
                after = integer(value)
            case b"LIMIT":
                limit = integer(value)
            case _:
                rest = [name]
                break
    if rest or not 0 <= after < 1 << 63 or not 1 <= limit <= CONFLICTS_MAX:
        raise ReplyError(
            "ERR syntax error; EDGE.CONFLICTS [OPEN | ALL | COUNT] [PREFIX p] [AFTER id] "
            f"[LIMIT 1..{CONFLICTS_MAX}]"
        )
    status = "" if word == b"ALL" else "open"
    if word == b"COUNT":
        return len(house.cells.conflicts(status=status, prefix=prefix, limit=CONFLICTS_MAX))
    found = house.cells.conflicts(status=status, prefix=prefix, after=after, limit=limit)
    return [_shown_conflict(one) for one in found]


def _shown_conflict(one: Conflict) -> Reply:
    return _texts({
        "id": one.id, "key": one.key, "cell": one.cell, "kind": one.kind, "status": one.status,
        "found_ms": one.found_ms, "strategy": one.strategy,
        "winner": None if one.winner is None else _shown_side(one.winner),
        "losers": [_shown_side(side) for side in one.losers],
    })  # fmt: skip


def _shown_side(side: Side) -> Reply:
    return _texts({
        "edge": side.edge, "replica": side.r, "number": side.n, "time_ms": side.time_ms,
        "value": side.value,
    })  # fmt: skip


def resolve(house: "House", args: Sequence[bytes]) -> Reply:
    """EDGE.RESOLVE id WINNER | DOT replica number | VALUE v: a write, told to everybody."""
    if not args or not args[0].isdigit() or len(args[0]) > 18:
        raise ReplyError("ERR syntax error; EDGE.RESOLVE id WINNER | DOT replica number | VALUE v")
    house.cells.resolve(int(args[0]), args[1:])
    return "OK"


def resources(house: "House", args: Sequence[bytes]) -> Reply:
    """What there is of each resource, how bad that is, since when, and what is done about it."""
    _no_more(args, "RESOURCES")
    monitor = None if house.site is None else house.site.resources
    if monitor is None:
        raise ReplyError("ERR nobody watches the resources here")
    found: dict[bytes, Reply] = {}
    for name, one in monitor.report().items():
        found[name.encode()] = _texts({
            "value": one.value, "limit": one.limit, "percent": one.percent,
            "level": one.level if one.is_known else "unknown", "since_s": int(one.since_s),
            "actions": [action.encode() for action in one.actions],
        })  # fmt: skip
    return found


# -- what waits ----------------------------------------------------------------------------------


def sync(house: "House", args: Sequence[bytes]) -> Reply:
    """EDGE.SYNC [WAIT ms]: begin a round now; OK once it is over, QUEUED when that takes longer."""
    keeper = _sync(house)
    if keeper is None:
        raise ReplyError(NO_HUB)
    if not args:
        keeper.hurry()
        return "QUEUED" if keeper.state() == "offline" else "OK"
    if len(args) != 2 or args[0].lower() != b"wait":
        raise ReplyError("ERR syntax error; EDGE.SYNC [WAIT milliseconds]")
    limit_s = _milliseconds(args[1]) / 1000

    async def wait() -> Reply:
        with trio.move_on_after(limit_s):
            await keeper.sync()
            return "OK"
        return "QUEUED"

    keeper.hurry()
    return Later(wait, "QUEUED")


def wait(house: "House", args: Sequence[bytes]) -> Reply:
    """WAIT: how many have what was written so far; the hub is the one there is to wait for."""
    wanted, limit_ms = integer(args[0]), _milliseconds(args[1])
    if wanted < 0:
        raise ReplyError("ERR numreplicas must not be negative")
    keeper, made = _sync(house), house.cells.space.n
    has_all = 0 if keeper is None else int(not house.cells.has_pending(made))
    if wanted == 0 or has_all >= wanted:
        return has_all
    if (keeper is None or wanted > 1) and not limit_ms:
        raise ReplyError("ERR there is one hub to wait for; this would wait for ever")

    async def wait_heard() -> Reply:
        with trio.move_on_after(limit_ms / 1000 if limit_ms else float("inf")):
            if keeper is None or wanted > 1:
                await trio.sleep_forever()
            else:
                await keeper.wait_heard()
        return int(keeper is not None and not house.cells.has_pending(made))

    return Later(wait_heard, has_all)


def restored(house: "House", request: list[bytes], refused: EvictedReply) -> Reply:
    """What a command says that needs values which are at the hub: in a moment, if that is there."""
    keeper = _sync(house)
    if keeper is None or not keeper.want(refused.keys):
        return refused

    async def wait_restored() -> Reply:
        return await keeper.retry(request, refused)

    return Later(wait_restored, refused)


# -- shared --------------------------------------------------------------------------------------


def _sync(house: "House") -> "CellSync | None":
    return None if house.site is None else house.site.cell_sync


def _no_more(args: Sequence[bytes], name: str) -> None:
    if args:
        raise ReplyError(f"ERR EDGE {name} takes nothing more")


def _milliseconds(raw: bytes) -> int:
    found = integer(raw)
    if not 0 <= found <= WAIT_MAX_MS:
        raise ReplyError(f"ERR timeout out of range: 0 to {WAIT_MAX_MS} ms")
    return found


def _texts(found: dict[str, Reply]) -> dict[bytes, Reply]:
    """The same with texts as bytes."""
    return {
        name.encode(): value.encode() if isinstance(value, str) else value
        for name, value in found.items()
    }


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)


def _oldest_ms(house: "House") -> int:
    """Milliseconds since the oldest pending operation was made, by its stamp; 0 without any."""
    stamp = house.cells.space.oldest_stamp()
    return max(0, house.cells.now_ms() - wall_ms_of(stamp)) if stamp else 0


def _rfc3339(time_ns: int) -> str:
    if not time_ns:
        return ""
    text = datetime.fromtimestamp(time_ns / 1e9, UTC).isoformat(timespec="seconds")
    return text.replace("+00:00", "Z")


COMMANDS: Final[dict[bytes, Callable[["House", Sequence[bytes]], Reply]]] = {
    b"status": status,
    b"queue": queue,
    b"clock": clock,
    b"prefixes": prefixes,
    b"stats": stats,
    b"config": config,
    b"peers": peers,
    b"resources": resources,
    b"sync": sync,
    b"conflicts": conflicts,
    b"resolve": resolve,
}

"""What INFO, CONFIG GET, CLIENT LIST and EDGE.* show."""

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from edgesync import __version__
from edgesync.cells.commands import Command

if TYPE_CHECKING:
    from edgesync.serve.resp.session import House, Session

SECTIONS: Final = ("server", "clients", "memory", "persistence", "stats", "edgesync", "keyspace")


class Facts:
    """Counts of what is no command on keys; `wall_ns` and `monotonic` are the clocks."""

    def __init__(
        self,
        wall_ns: Callable[[], int] = time.time_ns,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.wall_ns = wall_ns
        self.monotonic = monotonic
        self.begun = monotonic()
        self.durability = "always"
        self.edge = ""
        self.port = 0
        self.clients_max = 0
        self.reset()

    def reset(self) -> None:
        self.connections = self.commands = self.errors = self.rejected = 0


def text(house: "House", wanted: list[str]) -> bytes:
    """INFO: sections of `name:value` lines; all of them unless some are named."""
    everything = {"all", "default", "everything"}
    chosen = [one for one in SECTIONS if not wanted or one in wanted or everything & set(wanted)]
    parts = []
    for name in chosen:
        lines = [f"# {name.capitalize()}", *(f"{k}:{v}" for k, v in _section(house, name).items())]
        parts.append("\r\n".join(lines) + "\r\n")
    return "\r\n".join(parts).encode()


def _section(house: "House", name: str) -> dict[str, object]:
    facts, cells = house.facts, house.cells
    uptime = int(facts.monotonic() - facts.begun)
    match name:
        case "server":
            from edgesync.serve.resp.session import REDIS_VERSION

            return {
                "redis_version": REDIS_VERSION, "redis_mode": "standalone",
                "edgesync_version": __version__, "process_id": os.getpid(),
                "tcp_port": facts.port, "uptime_in_seconds": uptime,
                "uptime_in_days": uptime // 86400,
            }  # fmt: skip
        case "clients":
            return {
                "connected_clients": len(house.sessions), "maxclients": facts.clients_max,
                "watching_clients": len({one.number for w in house.watchers.values() for one in w}),
            }  # fmt: skip
        case "memory":
            import psutil

            return {"used_memory": psutil.Process().memory_info().rss}
        case "persistence":
            return {"loading": 0, "edgesync_durability": facts.durability}
        case "stats":
            return {
                "total_connections_received": facts.connections,
                "total_commands_processed": house.commands,
                "rejected_connections": facts.rejected,
                "total_error_replies": house.errors,
                "pubsub_channels": len(house.channels.names()),
                "pubsub_patterns": house.channels.patterns_count(),
            }  # fmt: skip
        case "edgesync":
            space = cells.space
            return {
                "edge": facts.edge, "replica": space.r, "operations": space.n,
                "pending_ops": space.pending,
            }  # fmt: skip
        case _:
            keys = cells.space.keys
            return {"db0": f"keys={keys},expires=0,avg_ttl=0"} if keys else {}


def config(house: "House") -> dict[bytes, bytes]:
    """What tools ask with CONFIG GET, and what of it is so here."""
    durable = house.facts.durability
    return {
        b"save": b"",
        b"appendonly": b"yes",
        b"appendfsync": durable.encode(),
        b"maxclients": b"%d" % house.facts.clients_max,
        b"maxmemory": b"0",
        b"databases": b"1",
        b"port": b"%d" % house.facts.port,
        b"proto-max-bulk-len": b"%d" % house.cells.call.value_max,
        b"timeout": b"0",
    }


def client_line(session: "Session") -> str:
    name, library = session.name.decode(), session.library.decode()
    flags = "P" if session.subscribed or session.patterns else "N"
    queued = -1 if session.queue is None else len(session.queue)
    return (
        f"id={session.number} addr={session.address} name={name} flags={flags} db=0 "
        f"sub={len(session.subscribed)} psub={len(session.patterns)} multi={queued} "
        f"watch={len(session.watched)} resp={session.proto} lib-name={library}\n"
    )


def command_row(one: Command) -> list[object]:
    """One entry of COMMAND INFO: name, arity, flags, first key, last key, step."""
    flags = {"write" if one.writes else "readonly"} | ({"denyoom"} if one.grows else set())
    return [one.name.encode(), one.arity, flags, *one.keys, set(), [], [], []]

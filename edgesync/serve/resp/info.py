"""What INFO, CONFIG GET, CLIENT LIST and EDGE.* show."""

import os
import resource
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from edgesync import __version__
from edgesync.cells.commands import Command
from edgesync.serve.resp.connection import REDIS_VERSION

if TYPE_CHECKING:
    from edgesync.serve.resp.session import House

SAMPLE_S: Final = 1.0


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
        self.run_id = os.urandom(20).hex()
        self.memory_peak = 0
        self._sample = (self.begun, 0, 0)  # when, how many commands, and how many a second
        self.reset()

    def reset(self) -> None:
        self.connections = self.commands = self.errors = self.rejected = self.expired = 0

    def commands_a_second(self, commands: int) -> int:
        """Return the rate since this was asked last, a second ago or more."""
        at, before, rate = self._sample
        now = self.monotonic()
        if now - at >= SAMPLE_S:
            rate = max(0, round((commands - before) / (now - at)))
            self._sample = (now, commands, rate)
        return rate


def text(house: "House", wanted: list[str]) -> bytes:
    """INFO: sections of `name:value` lines; all of them unless some are named."""
    everything = {"all", "default", "everything"}
    chosen = [one for one in SECTIONS if not wanted or one in wanted or everything & set(wanted)]
    parts = []
    for name in chosen:
        lines = [f"# {TITLES.get(name, name.capitalize())}"]
        lines += [f"{k}:{v}" for k, v in SECTIONS[name](house).items()]
        parts.append("\r\n".join(lines) + "\r\n")
    return "\r\n".join(parts).encode()


def _server(house: "House") -> dict[str, object]:
    facts = house.facts
    uptime, system = int(facts.monotonic() - facts.begun), os.uname()
    return {
        "redis_version": REDIS_VERSION, "redis_git_sha1": "00000000", "redis_git_dirty": 0,
        "redis_build_id": "0", "redis_mode": "standalone", "edgesync_version": __version__,
        "os": f"{system.sysname} {system.release} {system.machine}", "arch_bits": 64,
        "multiplexing_api": "epoll", "process_id": os.getpid(), "run_id": facts.run_id,
        "tcp_port": facts.port, "server_time_usec": facts.wall_ns() // 1000,
        "uptime_in_seconds": uptime, "uptime_in_days": uptime // 86400, "config_file": "",
        "io_threads_active": 0,
    }  # fmt: skip


def _clients(house: "House") -> dict[str, object]:
    return {
        "connected_clients": len(house.sessions), "cluster_connections": 0,
        "maxclients": house.facts.clients_max, "blocked_clients": house.waiters.count,
        "tracking_clients": 0, "clients_in_timeout_table": 0,
        "watching_clients": house.watched.clients, "monitor_clients": len(house.monitors),
    }  # fmt: skip


def _memory(house: "House") -> dict[str, object]:
    import psutil

    used = psutil.Process().memory_info().rss
    facts, scripts = house.facts, house.cells.call.scripts
    facts.memory_peak = max(facts.memory_peak, used)
    scripts_bytes = 0 if scripts is None else scripts.memory_bytes
    total = psutil.virtual_memory().total
    return {
        "used_memory": used, "used_memory_human": _human(used), "used_memory_rss": used,
        "used_memory_rss_human": _human(used), "used_memory_peak": facts.memory_peak,
        "used_memory_peak_human": _human(facts.memory_peak), "total_system_memory": total,
        "total_system_memory_human": _human(total), "used_memory_lua": scripts_bytes,
        "used_memory_scripts": scripts_bytes, "number_of_cached_scripts":
            0 if scripts is None else scripts.count,
        "maxmemory": 0, "maxmemory_human": "0B", "maxmemory_policy": "noeviction",
        "mem_fragmentation_ratio": 1, "mem_allocator": "libc",
        "lazyfree_pending_objects": 0,  # nothing is freed later than at once
    }  # fmt: skip


def _persistence(house: "House") -> dict[str, object]:
    return {
        "loading": 0, "async_loading": 0, "rdb_changes_since_last_save": 0,
        "rdb_bgsave_in_progress": 0, "rdb_last_bgsave_status": "ok", "aof_enabled": 1,
        "aof_rewrite_in_progress": 0, "aof_last_write_status": "ok",
        "edgesync_durability": house.facts.durability,
    }  # fmt: skip


def _stats(house: "House") -> dict[str, object]:
    facts = house.facts
    return {
        "total_connections_received": facts.connections,
        "total_commands_processed": house.commands,
        "instantaneous_ops_per_sec": facts.commands_a_second(house.commands),
        "rejected_connections": facts.rejected,
        "expired_keys": facts.expired, "evicted_keys": house.cells.space.evicted,
        "pubsub_channels": len(house.channels.names()),
        "pubsub_patterns": house.channels.patterns_count(),
        "total_error_replies": house.errors, "slowlog_commands": len(house.slowlog.entries),
    }  # fmt: skip


def _replication(house: "House") -> dict[str, object]:
    """What is replicated goes to the hub: [edgesync] and EDGE.STATUS tell of it."""
    return {
        "role": "master", "connected_slaves": 0, "master_failover_state": "no-failover",
        "master_replid": house.facts.run_id, "master_repl_offset": house.cells.space.n,
        "second_repl_offset": -1, "repl_backlog_active": 0,
    }  # fmt: skip


def _cpu(_house: "House") -> dict[str, object]:
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.RUSAGE_CHILDREN
    theirs = resource.getrusage(children)
    return {
        "used_cpu_sys": f"{own.ru_stime:.6f}", "used_cpu_user": f"{own.ru_utime:.6f}",
        "used_cpu_sys_children": f"{theirs.ru_stime:.6f}",
        "used_cpu_user_children": f"{theirs.ru_utime:.6f}",
    }  # fmt: skip


def _cluster(_house: "House") -> dict[str, object]:
    return {"cluster_enabled": 0}


def _edgesync(house: "House") -> dict[str, object]:
    space = house.cells.space
    return {
        "edge": house.facts.edge, "replica": space.r, "operations": space.n,
        "pending_ops": space.pending,
    }  # fmt: skip


def _keyspace(house: "House") -> dict[str, object]:
    keys = house.cells.space.keys
    return {"db0": f"keys={keys},expires=0,avg_ttl=0"} if keys else {}


SECTIONS: Final = {
    "server": _server, "clients": _clients, "memory": _memory, "persistence": _persistence,
    "stats": _stats, "replication": _replication, "cpu": _cpu, "cluster": _cluster,
    "edgesync": _edgesync, "keyspace": _keyspace,
}  # fmt: skip
TITLES: Final = {"cpu": "CPU"}


def _human(nbytes: int) -> str:
    size, unit = float(nbytes), "B"
    for unit in ("B", "K", "M", "G", "T"):
        if size < 1024 or unit == "T":
            break
        size /= 1024
    return f"{nbytes}B" if unit == "B" else f"{size:.2f}{unit}"


def config(house: "House") -> dict[bytes, bytes]:
    """Return what tools ask with CONFIG GET, as far as it is so here."""
    values: dict[str, object] = {
        "save": "", "appendonly": "yes", "appendfsync": house.facts.durability,
        "maxclients": house.facts.clients_max, "maxmemory": 0, "maxmemory-policy": "noeviction",
        "databases": 1, "port": house.facts.port, "timeout": 0, "tcp-keepalive": 0,
        "proto-max-bulk-len": house.cells.call.value_max, "cluster-enabled": "no",
        "notify-keyspace-events": house.notifications.shown,
        "slowlog-log-slower-than": house.slowlog.slower_than_us,
        "slowlog-max-len": house.slowlog.length_max, "latency-monitor-threshold": 0,
        "hash-max-listpack-entries": 0, "hash-max-listpack-value": 0,
        "hash-max-ziplist-entries": 0, "hash-max-ziplist-value": 0,
        "list-max-listpack-size": 0, "list-max-ziplist-size": 0, "list-compress-depth": 0,
        "set-max-intset-entries": 0, "zset-max-listpack-entries": 0,
        "zset-max-listpack-value": 0, "zset-max-ziplist-entries": 0, "zset-max-ziplist-value": 0,
    }  # fmt: skip
    return {name.encode(): str(value).encode() for name, value in values.items()}


def command_row(one: Command) -> list[object]:
    """Return one entry of COMMAND INFO: name, arity, flags, first key, last key, step."""
    flags = {"write" if one.writes else "readonly"} | ({"denyoom"} if one.grows else set())
    if one.movable is not None:
        flags.add("movablekeys")
    return [one.name.encode(), one.arity, flags, *one.keys, set(), [], [], []]

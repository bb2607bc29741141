"""The short form of the settings: `[server]`, `[edge]` and `[edge.resources]`, as guides to running
a store "in edge mode" write them. It is rewritten into the sections of edge.toml (or of hub.toml,
for `mode = "hub"`) before anything else looks at it, so there is one set of settings and one check.

Both forms may stand in one file. A key that is said in both is refused, and so is one that is not
known; what a rewritten value does wrong is told under the name it was written with.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NoReturn

import msgspec

from edgesync.errors import ConfigError
from edgesync.model import Strategy
from edgesync.nearest import guess

Table = dict[str, Any]

HUB_PORT: Final = 7400
# Schemes of what a hub's address may be taken for; none of them is spoken on the link.
SCHEMES: Final = ("redis", "tcp")
STRATEGIES: Final = {"lww": Strategy.LAST_WRITE_WINS, "crdt": Strategy.CRDT_MERGE} | {
    one.name.replace("_", "").lower(): one for one in Strategy
}
# The link always waits for connectivity and never sends the same twice: these ask for no more.
POLICIES: Final = ("opportunistic", "immediate", "realtime", "periodic")


class Wrong(ValueError):
    """A value that cannot be meant; `remedy` says what could."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(problem)
        self.remedy = remedy


def _strategy(value: Any) -> str:
    word = value.replace("_", "").replace("-", "").lower() if isinstance(value, str) else ""
    if word not in STRATEGIES:
        known = '"lww", "crdt", "cloud_wins" or "edge_wins"'
        raise Wrong(f"{value!r} is no way to resolve conflicts", f"write {known}")
    return STRATEGIES[word].name.lower()


def _policy(value: Any) -> None:
    word = value.lower() if isinstance(value, str) else value
    if word == "manual":
        raise Wrong(
            "an edge sends what it has whenever it can",
            'leave it out, and say how often with sync_interval = "1h"; EDGE.SYNC sends at once',
        )
    if word not in POLICIES:
        raise Wrong(f"{value!r} is not a known policy", f"write one of {', '.join(POLICIES)}")


def _hub_url(value: Any) -> str:
    """Return `tcp://host:port` for `redis://host:port`: the port is where the hub's link listens.

    The URL names the hub; who it is, and that nobody listens in, is settled by the keys exchanged
    when the edge joins.
    """
    from urllib.parse import urlsplit

    remedy = 'write "redis://host:port" or "tcp://host:port", the port of the hub\'s link'
    try:
        url = urlsplit(value if isinstance(value, str) else "")
        port = url.port or HUB_PORT
    except ValueError as error:
        raise Wrong(str(error), remedy) from error
    if url.scheme not in SCHEMES or not url.hostname or not str(value).isprintable():
        raise Wrong("is not an address of a hub", remedy)
    if url.username or url.password:
        raise Wrong(
            "holds a password", "leave it out: the hub knows an edge by its key (edgesync init)"
        )
    if url.path.strip("/") or url.query or url.fragment:
        raise Wrong("has more than a host and a port", remedy)
    host = f"[{url.hostname}]" if ":" in url.hostname else url.hostname
    return f"tcp://{host}:{port}"


def _budget(value: Any) -> Any:
    if value not in ("low", "medium", "high"):
        raise Wrong(f"{value!r} is no budget", 'write "low", "medium" or "high"')
    return value


def _queue_size(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise Wrong(f"{value!r} is no number of operations", "write 1 or more, such as 10000")
    return value


def _as_written(value: Any) -> Any:
    return value


class Rule(msgspec.Struct, frozen=True):
    """Where a key's value goes, read in its own words; `also` are fixed values beside it."""

    to: tuple[str, ...]
    read: Callable[[Any], Any] = _as_written
    also: Mapping[str, Any] = {}


_QUEUE = Rule(
    ("sync.lanes.normal.capacity", "sync.lanes.bulk.capacity"),
    _queue_size,
    # What this form promises: "when the queue is full, the oldest operations are dropped".
    also={
        "sync.lanes.normal.overflow": "drop_oldest",
        "sync.lanes.bulk.overflow": "drop_oldest",
    },
)

# The whole translation: what is written -> where it belongs.
EDGE: Final[Mapping[str, Rule]] = {
    "server.port": Rule(("cells.port",)),
    "server.host": Rule(("cells.host",)),
    "server.password": Rule(("cells.password",)),
    "edge.node_id": Rule(("edge.name",)),
    "edge.queue_path": Rule(("edge.data_dir",)),
    "edge.hub_url": Rule(("hub.url",), _hub_url),
    "edge.sync_interval": Rule(("sync.interval",)),
    "edge.sync_policy": Rule((), _policy),
    "edge.offline_queue_size": _QUEUE,
    "edge.max_offline_queue": _QUEUE,
    "edge.conflict_resolution": Rule(("cells.strategy",), _strategy),
    "edge.max_memory": Rule(("resources.memory_limit",)),
    "edge.resources.memory_limit": Rule(("resources.memory_limit",)),
    "edge.resources.storage_limit": Rule(("store.limit",)),
    "edge.resources.cpu_budget": Rule(("resources.cpu_budget",), _budget),
}
HUB: Final[Mapping[str, Rule]] = {
    "edge.queue_path": Rule(("hub.data_dir",)),
    "edge.conflict_resolution": Rule(("cells.strategy",), _strategy),
    "edge.resources.storage_limit": Rule(("log.limit",)),
}
# Read below rather than moved.
SWITCHES: Final = ("edge.enabled", "edge.mode")
# Of edge.toml itself, which has a section of the same name.
OWN: Final = ("edge.name", "edge.data_dir")


def mode_of(table: Mapping[str, Any]) -> str:
    """Return "edge" or "hub": which of the two programs the settings are for."""
    edge = table.get("edge")
    is_hub = isinstance(edge, Mapping) and edge.get("mode") == "hub"
    return "hub" if is_hub else "edge"


def for_edge(table: Table, file: str) -> Mapping[str, str]:
    """Rewrite the short form in `table`; returns new name -> name as written. Raises ConfigError.

    `enabled = false` is an edge that works for itself: it is told of no hub.
    """
    said = _taken(table, file, stays=OWN)
    _check_known(said, file, (*EDGE, *SWITCHES), also=OWN)
    mode, is_enabled = said.pop("edge.mode", "edge"), _enabled(said, file)
    if mode == "hub":
        _refuse(file, "edge.mode", 'is "hub": this file is a hub\'s', f"hubd --config {file} run")
    if mode != "edge":
        _refuse(file, "edge.mode", f"is {mode!r}", 'write "edge" or "hub"')
    names = _moved(said, table, file, EDGE)
    if not is_enabled and isinstance(table.get("hub"), dict):
        table["hub"] |= {"url": "", "endpoint": ""}
    return names


def for_hub(table: Table, file: str) -> Mapping[str, str]:
    """Do the same for a hub: `[server]` says where edges connect. Raises ConfigError."""
    said = _taken(table, file)
    if not said:
        return {}
    _check_known(said, file, (*EDGE, *SWITCHES))
    if said.pop("edge.mode", "edge") != "hub":
        remedy = f"edgesync --config {file} run"
        _refuse(file, "edge.mode", 'is not "hub": this file is an edge\'s', remedy)
    if not _enabled(said, file):
        _refuse(file, "edge.enabled", "is false: there would be nothing to run", "remove it")
    host, port = said.pop("server.host", "0.0.0.0"), said.pop("server.port", HUB_PORT)
    _put(table, file, "hub.listen", "server.port", [f"tcp://{host}:{port}"])
    for name in said.keys() - HUB.keys():
        _refuse(file, name, "is a setting of edges, and this file is a hub's", "remove it")
    return {"hub.listen[0]": "server.port", **_moved(said, table, file, HUB)}


def _taken(table: Table, file: str, stays: Iterable[str] = ()) -> Table:
    """Take what the short form says out of `table`: full name -> value."""
    said: Table = {}
    for section in ("server", "edge"):
        inner = table.pop(section, {})
        if not isinstance(inner, dict):
            _refuse(file, section, "is not a table", f"write [{section}] and its keys below it")
        for key, value in inner.items():
            name = f"{section}.{key}"
            if name in stays:
                table.setdefault(section, {})[key] = value
            elif name == "edge.resources" and isinstance(value, dict):
                said |= {f"{name}.{one}": amount for one, amount in value.items()}
            else:
                said[name] = value
    return said


def _check_known(said: Table, file: str, names: Iterable[str], also: Iterable[str] = ()) -> None:
    known = {*names, *also}
    for name in said:
        if name in known:
            continue
        section, _, key = name.rpartition(".")
        inner = f"{section}."
        allowed = sorted(
            {one[len(inner) :].split(".")[0] for one in known if one.startswith(inner)}
        )
        remedy = f"{guess(key, allowed)}allowed here: {', '.join(allowed)}"
        _refuse(file, name, "is not a known key", remedy)


def _enabled(said: Table, file: str) -> bool:
    value = said.pop("edge.enabled", True)
    if not isinstance(value, bool):
        _refuse(file, "edge.enabled", f"is {value!r}", "write true or false")
    return bool(value)


def _moved(said: Table, table: Table, file: str, rules: Mapping[str, Rule]) -> dict[str, str]:
    """Put every value where its rule says; returns new name -> name as written."""
    used = {name.rpartition(".")[0] for name in said}
    names = {
        to: name
        for name, rule in rules.items()
        if name.rpartition(".")[0] in used
        for to in rule.to
    }
    for name, value in said.items():
        rule = rules[name]
        try:
            read = rule.read(value)
        except ValueError as wrong:
            _refuse(file, name, str(wrong), getattr(wrong, "remedy", ""))
        for to in rule.to:
            _put(table, file, to, name, read)
            names[to] = name
        for to, fixed in rule.also.items():
            _put(table, file, to, name, fixed, is_default=True)
    return names


def _put(
    table: Table, file: str, to: str, name: str, value: Any, *, is_default: bool = False
) -> None:
    *sections, key = to.split(".")
    place = table
    for section in sections:
        inner = place.setdefault(section, {})
        if not isinstance(inner, dict):
            _refuse(file, section, "is not a table", f"write [{section}] and its keys below it")
        place = inner
    if place.setdefault(key, value) != value and not is_default:
        _refuse(file, name, f"says something else than {to}", "leave one of them out")


def _refuse(file: str, field: str, problem: str, remedy: str) -> NoReturn:
    raise ConfigError(file=file, field=field, problem=problem, remedy=remedy)

"""CLIENT, COMMAND, CONFIG and INFO as clients, exporters and redis-cli use them."""

import socket
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
import redis

from tests.edgesync.serve.resp.redis_server import open_redis
from tests.edgesync.serve.resp.test_server import PATIENCE_S, Edge

pytestmark = pytest.mark.feature("L4", "L9")

# The fields of CLIENT INFO in Redis 7.0.
FIELDS = set(
    [
        "id",
        "addr",
        "laddr",
        "fd",
        "name",
        "age",
        "idle",
        "flags",
        "db",
        "sub",
        "psub",
        "ssub",
        "multi",
        "qbuf",
        "qbuf-free",
        "argv-mem",
        "multi-mem",
        "rbs",
        "rbp",
        "obl",
        "oll",
        "omem",
        "tot-mem",
        "events",
        "cmd",
        "user",
        "redir",
        "resp",
    ]
)


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    made = Edge(tmp_path_factory.mktemp("edge"))
    yield made
    made.kill()


@pytest.fixture
def client(edge: Edge) -> Iterator[Any]:
    with edge.client(socket_timeout=PATIENCE_S) as made:
        yield made


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with open_redis(tmp_path_factory.mktemp("redis")) as path:
        made = redis.Redis(unix_socket_path=str(path))
        yield made
        made.close()


def said(client: Any, request: str) -> Any:
    try:
        words = request.split()
        if words[0] == "COMMAND":  # redis-py would read the reply as that of COMMAND itself
            words[:2] = [f"{words[0]} {words[1]}"]
        return client.execute_command(*words)
    except redis.ResponseError as error:
        return str(error)


@pytest.mark.parametrize(
    "request_text",
    [
        "CLIENT LIST TYPE foo", "CLIENT LIST ID abc", "CLIENT LIST ID 999999", "CLIENT LIST FOO",
        "CLIENT KILL ID abc", "CLIENT KILL ID 0", "CLIENT KILL TYPE foo", "CLIENT KILL 1.2.3.4:5",
        "CLIENT KILL ADDR 1.2.3.4:5", "CLIENT KILL SKIPME maybe", "CLIENT KILL FOO bar",
        "CLIENT KILL TYPE pubsub", "CLIENT KILL USER nobody", "CLIENT NO-EVICT maybe",
        "CLIENT UNBLOCK 999", "CLIENT UNBLOCK x", "CLIENT UNBLOCK 1 WHY", "CLIENT GETREDIR",
        "CLIENT SETNAME a\x01b", "CLIENT NOSUCH", "CLIENT SETNAME", "COMMAND GETKEYS get k",
        "COMMAND GETKEYS mset a 1 b 2", "COMMAND GETKEYS zunionstore d 2 a b",
        "COMMAND GETKEYS blpop a b 0", "COMMAND GETKEYS eval x 1 k", "COMMAND GETKEYS nosuch",
        "COMMAND GETKEYS get", "COMMAND GETKEYS eval x 0", "COMMAND GETKEYS blmpop 0 2 a b LEFT",
        "COMMAND GETKEYS zunion 0 a", "COMMAND GETKEYS bzmpop 0 x a MIN", "COMMAND GETKEYS sort a",
        "COMMAND GETKEYS ping", "COMMAND LIST FILTERBY", "ROLE",
        "COMMAND LIST FILTERBY PATTERN hget*", "COMMAND LIST FILTERBY FOO x", "SLOWLOG GET -2",
        "CONFIG SET nosuch 1", "CONFIG GET nosuch", "CONFIG GET maxmemory-p*", "SLOWLOG FOO",
        "CONFIG GET slowlog-max-len", "CONFIG GET slowlog-log-slower-than", "LATENCY LATEST",
        "CONFIG SET slowlog-max-len x", "CONFIG SET notify-keyspace-events q", "SELECT 0",
    ],
)  # fmt: skip
def test_tools_are_answered_as_by_redis(client: Any, theirs: Any, request_text: str) -> None:
    got, wanted = said(client, request_text), said(theirs, request_text)
    if isinstance(wanted, list) and request_text.startswith("COMMAND LIST"):
        got, wanted = sorted(got), sorted(wanted)
    assert got == wanted


def test_flags_of_keys_are_those_of_redis(client: Any, theirs: Any) -> None:
    def movable(asked: Any) -> set[bytes]:
        rows = asked.connection_pool.get_connection()
        rows.send_command("COMMAND")
        found = {row[0] for row in rows.read_response() if b"movablekeys" in map(bytes, row[2])}
        asked.connection_pool.release(rows)
        return found

    known = set(said(client, "COMMAND LIST"))
    assert movable(client) == movable(theirs) & known


@pytest.mark.parametrize("flags", ["KEA", "EKlsx$", "gE", "Kn", "mK", "Ktdez", "$ghlsxzetdK", ""])
def test_flags_of_notifications_are_shown_as_by_redis(client: Any, theirs: Any, flags: str) -> None:
    for asked in (client, theirs):
        asked.config_set("notify-keyspace-events", flags)
    assert client.config_get("notify-*") == theirs.config_get("notify-*")


def answered(address: str | tuple[str, int], requests: Iterable[str]) -> bytes:
    """Say it all at once; returns every byte of the answers until the connection ends."""
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with socket.socket(family) as raw:
        raw.settimeout(PATIENCE_S)
        raw.connect(address)
        raw.sendall("".join(f"{request}\r\n" for request in requests).encode())
        return b"".join(iter(lambda: raw.recv(4096), b""))


def test_replies_are_switched_off_and_on_as_by_redis(edge: Edge, theirs: Any) -> None:
    requests = (
        "CLIENT REPLY SKIP", "SET quiet 1", "GET quiet",
        "CLIENT REPLY OFF", "SET quiet 2", "NOSUCH", "MULTI", "GET quiet", "EXEC",
        "CLIENT REPLY SKIP", "PING", "SUBSCRIBE news", "UNSUBSCRIBE news", "BLPOP absent 0.01",
        "CLIENT REPLY ON", "GET quiet", "CLIENT REPLY SKIP", "CLIENT REPLY SKIP", "PING", "PING x",
        "CLIENT REPLY SKIP", "BLPOP absent 0.01", "PING y", "CLIENT REPLY SKIP", "CLIENT REPLY ON",
        "CLIENT REPLY maybe", "CLIENT REPLY OFF", "RESET", "DEL quiet", "QUIT",
    )  # fmt: skip
    wanted = answered(theirs.connection_pool.connection_kwargs["path"], requests)
    assert b"+RESET\r\n:1\r\n+OK\r\n" in wanted
    assert answered(("127.0.0.1", edge.port), requests) == wanted


def test_who_ends_its_own_connection_is_answered_first(edge: Edge) -> None:
    with socket.create_connection(("127.0.0.1", edge.port)) as raw, raw.makefile("rb") as answers:
        raw.settimeout(PATIENCE_S)
        raw.sendall(b"CLIENT ID\r\n")
        number = answers.readline()[1:-2]
        raw.sendall(b"CLIENT KILL ID %b SKIPME no\r\nPING\r\n" % number)
        assert answers.read() == b":1\r\n"
    with socket.create_connection(("127.0.0.1", edge.port)) as raw, raw.makefile("rb") as answers:
        raw.settimeout(PATIENCE_S)
        raw.sendall(b"CLIENT KILL 127.0.0.1:%d\r\n" % raw.getsockname()[1])
        assert answers.read() == b"+OK\r\n"


def test_a_client_is_shown_with_all_fields_and_its_library(edge: Edge, client: Any) -> None:
    info = client.client_info()
    assert set(info) >= FIELDS | {"lib-name", "lib-ver"}
    assert info["cmd"] == "client|info"
    assert info["qbuf"] is not None
    assert info["laddr"] == f"127.0.0.1:{edge.port}"
    client.get("k")
    with edge.client() as other:
        other.client_setname("other")
        listed = {one["id"]: one for one in other.client_list()}
        assert listed[str(info["id"])]["cmd"] == "get"
        assert [one["name"] for one in other.client_list(client_id=[other.client_id()])] == [
            "other"
        ]
        pubsub = client.pubsub()
        pubsub.subscribe("news")
        pubsub.get_message(timeout=PATIENCE_S)
        (subscriber,) = other.client_list(_type="pubsub")
        assert subscriber["flags"] == "P"
        assert other.client_kill_filter(_type="pubsub") == 1
        assert other.client_list(_type="pubsub") == []
        pubsub.close()
    with pytest.raises(redis.ResponseError, match="keyspace notifications"):
        client.execute_command("CLIENT", "TRACKING", "ON")
    with pytest.raises(redis.ResponseError, match="Unrecognized option 'badger'"):
        client.execute_command("CLIENT", "SETINFO", "badger", "x")


def test_every_command_is_described(client: Any) -> None:
    described = client.command()
    assert client.command_count() == len(described)
    assert {"get", "multi", "ping", "subscribe", "hello", "info", "blpop", "eval"} <= set(described)
    docs = client.execute_command("COMMAND DOCS", "get", "nosuch")
    assert b"get" in docs
    assert client.execute_command("COMMAND LIST", "FILTERBY", "ACLCAT", "hash")


def test_info_and_config_have_what_clients_read(client: Any) -> None:
    info = client.info()
    for name in (
        "redis_version", "arch_bits", "os", "run_id", "uptime_in_seconds", "connected_clients",
        "blocked_clients", "used_memory", "used_memory_human", "used_memory_rss", "maxmemory",
        "maxmemory_policy", "loading", "aof_enabled", "total_commands_processed",
        "instantaneous_ops_per_sec", "expired_keys", "evicted_keys", "role", "connected_slaves",
        "used_cpu_sys", "used_cpu_user", "cluster_enabled",
    ):  # fmt: skip
        assert name in info, name
    assert client.info("replication")["role"] == "master"
    assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
    assert client.config_get("hash-max-*")
    assert client.config_set("maxmemory", "0")
    with pytest.raises(redis.ResponseError, match="CONFIG SET changes nothing"):
        client.config_set("maxmemory", "100")
    with pytest.raises(redis.ResponseError, match=r"\[cells\] flush"):
        client.flushdb()

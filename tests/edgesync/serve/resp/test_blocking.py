"""BLPOP and its like at a real edge, and CLIENT, MONITOR and notifications beside them."""

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from edgesync._native.keyspace import KEY_BYTES_MAX, LIST
from edgesync._native.resp import ReplyError
from edgesync.serve.resp import blocking
from edgesync.serve.resp.blocking import Waiter
from tests.edgesync.serve.resp.sessions import Ours
from tests.edgesync.serve.resp.test_server import PATIENCE_S, Edge

pytestmark = pytest.mark.feature("L4")


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    made = Edge(tmp_path_factory.mktemp("edge"), flush="everywhere")
    yield made
    made.kill()


@pytest.fixture
def client(edge: Edge) -> Iterator[Any]:
    with edge.client(socket_timeout=PATIENCE_S) as made:
        made.flushall()
        made.config_set("notify-keyspace-events", "")
        yield made


class Blocked:
    """A client that asks for something and waits, in a thread of its own."""

    def __init__(self, edge: Edge, *request: object, protocol: int = 2) -> None:
        self.client = edge.client(socket_timeout=PATIENCE_S, protocol=protocol)
        self.number = self.client.client_id()
        self.client.connection = self.client.connection_pool.get_connection()
        self.number = int(self._say("CLIENT", "ID"))
        self.client.connection.send_command(*request)
        self.reply: Any = None
        self.thread = threading.Thread(target=self._read)
        self.thread.start()

    def _say(self, *request: object) -> Any:
        self.client.connection.send_command(*request)
        return self.client.connection.read_response()

    def _read(self) -> None:
        try:
            self.reply = self.client.connection.read_response()
        except redis.RedisError as error:
            self.reply = error

    def result(self) -> Any:
        self.thread.join(PATIENCE_S)
        assert not self.thread.is_alive()
        self.client.connection.disconnect()
        self.client.close()
        return self.reply


def wait_blocked(client: Any, count: int) -> None:
    """Return once so many clients wait."""
    while client.info("clients")["blocked_clients"] != count:
        pass


def blocked(edge: Edge, client: Any, *request: object, **options: Any) -> Blocked:
    before = client.info("clients")["blocked_clients"]
    made = Blocked(edge, *request, **options)
    wait_blocked(client, before + 1)
    return made


def test_a_pop_takes_what_is_there_and_waits_for_what_is_not(edge: Edge, client: Any) -> None:
    client.rpush("l", "a", "b", "c", "d", "e")
    client.zadd("z", {"x": 1, "y": 2, "w": 3, "v": 4.5})
    assert client.blpop(["absent", "l"], 1) == (b"l", b"a")
    assert client.brpop("l", 1) == (b"l", b"e")
    assert client.blmove("l", "m", 1, "LEFT", "RIGHT") == b"b"
    assert client.brpoplpush("l", "m", 1) == b"d"
    assert client.blmpop(1, 2, "absent", "m", direction="LEFT", count=5) == [b"m", [b"d", b"b"]]
    assert client.bzpopmin("z", 1) == (b"z", b"x", 1.0)
    assert client.bzpopmax("z", 1) == (b"z", b"v", 4.5)
    assert client.bzmpop(1, 1, ["z"], min=True, count=2) == [b"z", [[b"y", b"2"], [b"w", b"3"]]]
    waiting = {
        "l1": (blocked(edge, client, "BLPOP", "l0", "l1", 0), [b"l1", b"v"]),
        "l2": (blocked(edge, client, "BRPOP", "l2", 0), [b"l2", b"v"]),
        "l3": (blocked(edge, client, "BLMOVE", "l3", "to", "LEFT", "LEFT", 0), b"v"),
        "l4": (blocked(edge, client, "BRPOPLPUSH", "l4", "to", 0), b"v"),
        "l5": (blocked(edge, client, "BLMPOP", 0, 1, "l5", "LEFT"), [b"l5", [b"v"]]),
    }
    for key, (one, wanted) in waiting.items():
        client.rpush(key, "v")
        assert one.result() == wanted
        assert not client.exists(key)
    assert client.lrange("to", 0, -1) == [b"v", b"v"]
    lowest = blocked(edge, client, "BZPOPMIN", "z1", 0, protocol=3)
    many = blocked(edge, client, "BZMPOP", 0, 1, "z2", "MAX", "COUNT", 2)
    client.zadd("z1", {"a": 1.5, "b": 2})
    client.zadd("z2", {"a": 1.5, "b": 2})
    assert lowest.result() == [b"z1", b"a", 1.5]
    assert many.result() == [b"z2", [[b"b", b"2"], [b"a", b"1.5"]]]


def test_those_who_came_first_are_served_first(edge: Edge, client: Any) -> None:
    waiting = [blocked(edge, client, "BLPOP", "q", 0) for _ in range(4)]
    client.rpush("q", "1", "2")
    client.rpush("q", "3")
    pipe = client.pipeline(transaction=False)
    pipe.rpush("q", "4").lpop("q")
    assert pipe.execute() == [1, None]  # served before the next command of the same client
    assert [one.result() for one in waiting] == [[b"q", b"%d" % n] for n in (1, 2, 3, 4)]


def test_a_transaction_and_a_script_are_over_before_anybody_is_served(
    edge: Edge, client: Any
) -> None:
    first = blocked(edge, client, "BLPOP", "q", 0)
    pipe = client.pipeline()
    pipe.rpush("q", "a", "b").lpop("q").blpop("none", 0)
    assert pipe.execute() == [2, b"a", None]
    assert first.result() == [b"q", b"b"]
    second = blocked(edge, client, "BLPOP", "q", 0)
    script = "redis.call('rpush', 'q', 'x', 'y') return redis.call('lpop', 'q')"
    assert client.eval(script, 0) == b"x"
    assert second.result() == [b"q", b"y"]


def test_a_chain_of_moves_goes_through(edge: Edge, client: Any) -> None:
    last = blocked(edge, client, "BLPOP", "c", 0)
    middle = blocked(edge, client, "BLMOVE", "b", "c", "LEFT", "RIGHT", 0)
    first = blocked(edge, client, "BLMOVE", "a", "b", "LEFT", "RIGHT", 0)
    client.rpush("a", "v")
    assert (first.result(), middle.result(), last.result()) == (b"v", b"v", [b"c", b"v"])


def test_who_waits_is_not_disturbed_by_other_types_and_is_refused_a_wrong_one(
    edge: Edge, client: Any
) -> None:
    client.set("s", "x")
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        client.blpop("s", 1)
    waiting = blocked(edge, client, "BLPOP", "k", 0)
    client.set("k", "string")
    client.delete("k")
    client.sadd("k", "member")
    client.delete("k")
    client.rpush("k", "v")
    assert waiting.result() == [b"k", b"v"]
    moving = blocked(edge, client, "BLMOVE", "k", "s", "LEFT", "LEFT", 0)
    client.rpush("k", "v")
    assert "WRONGTYPE" in str(moving.result())


def test_waiting_ends_by_time_by_unblock_and_with_the_connection(edge: Edge, client: Any) -> None:
    assert client.blpop("none", 0.01) is None
    assert client.blmove("none", "x", 0.01) is None
    by_time = blocked(edge, client, "BLPOP", "none", 0)
    by_error = blocked(edge, client, "BZPOPMIN", "none", 0)
    assert client.client_unblock(by_time.number) == 1
    assert client.client_unblock(by_error.number, error=True) == 1
    assert client.client_unblock(by_error.number) == 0
    assert by_time.result() is None
    assert "client unblocked via CLIENT UNBLOCK" in str(by_error.result())
    gone = edge.client()
    connection = gone.connection_pool.get_connection()
    connection.send_command("BLPOP", "q", 0)
    wait_blocked(client, 1)
    connection.disconnect()
    wait_blocked(client, 0)
    client.rpush("q", "v")
    assert client.lpop("q") == b"v"  # nobody who has gone took it
    gone.close()


def test_the_lock_of_redis_py_is_one(edge: Edge, client: Any) -> None:
    lock = client.lock("door", timeout=60)
    assert lock.acquire(blocking=False)
    assert not client.lock("door").acquire(blocking=False)
    assert lock.extend(5)
    lock.release()
    with pytest.raises(redis.exceptions.LockError):
        lock.release()
    script = client.register_script("return redis.call('INCRBY', KEYS[1], ARGV[1])")
    client.script_flush()
    assert [script(keys=["n"], args=[2]) for _ in range(2)] == [2, 4]


def test_a_cache_is_cleared_where_the_setting_says_so(client: Any) -> None:
    client.mset({"a": 1, "b": 2})
    assert client.flushdb(asynchronous=True)
    assert client.dbsize() == 0
    client.set("a", 1)
    assert client.flushall()
    assert client.dbsize() == 0
    assert client.select(0)
    with pytest.raises(redis.ResponseError, match="leave the number out of the client's address"):
        client.select(1)


def test_nonsense_is_refused_as_by_redis(client: Any) -> None:
    for request, problem in {
        "BLPOP k x": "timeout is not a float or out of range",
        "BLPOP k -1": "timeout is negative",
        "BLPOP k inf": "timeout is not a float or out of range",
        "BLMOVE a b UP LEFT 0": "syntax error",
        "BLMPOP 0 0 k LEFT": "numkeys should be greater than 0",
        "BLMPOP 0 1 k UP": "syntax error",
        "BLMPOP 0 1 k": "wrong number of arguments",
        "BZMPOP 0 1 k MIN COUNT 0": "count should be greater than 0",
        "BLPOP": "wrong number of arguments",
    }.items():
        with pytest.raises(redis.ResponseError, match=problem):
            client.execute_command(*request.split())
    with pytest.raises(redis.ResponseError, match="too many keys"):
        client.blpop([f"k{n}" for n in range(2000)], 0)


def test_keyspace_notifications_tell_what_changes(edge: Edge, client: Any) -> None:
    listening = edge.client()
    pubsub = listening.pubsub(ignore_subscribe_messages=True)
    pubsub.psubscribe("__key*@*")
    with pytest.raises(redis.ResponseError, match="notify_keyspace_events"):
        pubsub.parse_response()
    pubsub.close()
    client.config_set("notify-keyspace-events", "KEA")
    assert client.config_get("notify-keyspace-events") == {"notify-keyspace-events": "AKE"}
    with pytest.raises(redis.ResponseError, match="Invalid event class"):
        client.config_set("notify-keyspace-events", "Kq")
    pubsub = listening.pubsub()
    pubsub.psubscribe("__keyevent@0__:*")
    assert pubsub.get_message(timeout=PATIENCE_S)["type"] == "psubscribe"
    client.set("s", 1)
    client.incr("s")
    client.hset("h", "f", 1)
    client.hdel("h", "f")
    client.rpush("l", "a", "b")
    client.lmove("l", "m", "LEFT", "RIGHT")
    client.rename("m", "n")
    client.smove("none", "set2", "x")
    client.expire("s", 100)
    client.zadd("z", {"a": 1})
    client.zpopmin("z")
    client.delete("s", "n")
    client.set("soon", 1, px=1)
    wanted = [
        "set s", "incrby s", "hset h", "hdel h", "del h", "rpush l", "lpop l", "rpush m",
        "rename_from m", "rename_to n", "expire s", "zadd z", "zpopmin z", "del z", "del s",
        "del n",
        "set soon", "expired soon",
    ]  # fmt: skip
    found = []
    for _ in wanted:
        message = pubsub.get_message(timeout=PATIENCE_S)
        event = message["channel"].decode().partition(":")[2]
        found.append(f"{event} {message['data'].decode()}")
    assert found == wanted
    pubsub.close()
    listening.close()


def test_monitor_shows_every_command_and_no_password(edge: Edge, client: Any) -> None:
    with edge.client() as watching, watching.monitor() as monitor:
        client.set("k", 'a "b" \n')
        with contextlib.suppress(redis.RedisError):
            client.execute_command("AUTH", "secret")
        client.get("k")
        shown = [monitor.next_command()["command"]]
        while shown[-1] != "GET k":
            shown.append(monitor.next_command()["command"])
    assert shown[0].startswith('SET k a "b" ')
    assert not [one for one in shown if "secret" in one]


def test_monitor_shows_what_is_carried_out_in_its_order(edge: Edge, client: Any) -> None:
    with edge.client() as watching, watching.monitor() as monitor:
        for request in ("NOSUCH", "GET", "MULTI", "SET k 0", "DISCARD", "MULTI", "NOSUCH", "EXEC"):
            with contextlib.suppress(redis.RedisError):
                client.execute_command(*request.split())
        with client.pipeline() as pipeline:
            pipeline.set("k", "1").get("k").execute()
        client.eval("redis.pcall('nosuch'); return redis.call('get', KEYS[1])", 1, "k")
        shown = list[tuple[str, str]]()
        while not shown or shown[-1] != ("lua", "get k"):
            command = monitor.next_command()
            shown.append((command["client_type"], command["command"]))
    assert shown[-2][1].startswith("EVAL redis.pcall")
    assert [command for kind, command in shown[:-2] if kind == "tcp"] == [
        "MULTI", "DISCARD", "MULTI", "EXEC", "MULTI", "SET k 1", "GET k", "EXEC",
    ]  # fmt: skip


def test_slow_commands_are_listed_with_their_client(client: Any) -> None:
    client.config_set("slowlog-log-slower-than", 0)
    client.slowlog_reset()
    client.client_setname("till")
    client.set("k", "x" * 500)
    client.config_set("slowlog-log-slower-than", 10_000)
    (entry,) = [one for one in client.slowlog_get() if one["command"].startswith(b"SET k")]
    assert entry["command"].endswith(b"... (372 more bytes)")
    assert client.slowlog_len() >= 1
    client.config_set("slowlog-log-slower-than", 0)
    client.slowlog_reset()
    client.ping()
    with contextlib.suppress(redis.RedisError):
        client.execute_command("AUTH", "secret")
    client.config_set("slowlog-log-slower-than", 10_000)
    commands = [entry["command"] for entry in client.slowlog_get(100)]
    own = (b"CLIENT", b"HELLO")  # of the library, when it connects
    assert [one for one in commands if not one.startswith(own)] == [b"PING", b"SLOWLOG RESET"]


def test_what_happens_between_requests_is_told_at_once(tmp_path: Path) -> None:
    """Nothing waits for a commit with `durability = "no"`, and nobody else asks for anything."""
    edge = Edge(tmp_path, durability="no", notify_keyspace_events="Ex")
    try:
        with edge.client() as client, edge.client() as other:
            pubsub = client.pubsub(ignore_subscribe_messages=True)
            pubsub.subscribe("__keyevent@0__:expired")
            pubsub.get_message(timeout=PATIENCE_S)
            other.set("soon", 1, px=1)
            assert pubsub.get_message(timeout=PATIENCE_S)["data"] == b"soon"
            pubsub.close()
    finally:
        edge.kill()


def test_a_subscriber_who_does_not_read_what_changes_is_cut_off(edge: Edge, client: Any) -> None:
    client.config_set("notify-keyspace-events", "KEA")
    with edge.socket() as deaf:
        deaf.sendall(b"PSUBSCRIBE __key*__:*\r\n")
        assert deaf.recv(5)
        value = {f"{'x' * 400}{n}": "v" for n in range(2000)}
        pipe = client.pipeline(transaction=False)
        for _ in range(20):
            pipe.mset(value)
        pipe.execute()
        assert client.client_list(_type="pubsub") == []
    assert client.ping()


def test_notifications_cost_nothing_while_nobody_subscribes(tmp_path: Path) -> None:
    ours = Ours(tmp_path / "store")
    session, house = ours.session, ours.session.house
    house.notifications.configure("KEA")
    assert not ours.cells.changes.has_listeners
    session.run([b"SUBSCRIBE", b"news"])
    assert not ours.cells.changes.has_listeners
    session.run([b"PSUBSCRIBE", b"__key*__:*"])
    assert ours.cells.changes.has_listeners
    session.run([b"PUNSUBSCRIBE"])
    assert not ours.cells.changes.has_listeners
    session.run([b"SUBSCRIBE", b"__keyspace@0__:k"])
    assert ours.cells.changes.has_listeners
    session.close()
    assert not ours.cells.changes.has_listeners
    assert ours.cells.rows.touched is None
    ours.close()


def test_who_listens_to_all_hears_of_keys_when_a_client_asked_for_it(tmp_path: Path) -> None:
    ours = Ours(tmp_path / "store")
    house, heard = ours.session.house, list[Any]()
    general, meant = (house.admit(name, heard.append) for name in ("general", "meant"))
    house.notifications.configure("KA")
    general.run([b"PSUBSCRIBE", b"*"])

    def hear() -> list[bytes]:
        heard.clear()
        ours.session.run([b"INCR", b"k"])
        ours.cells.note_changes()
        return [push.items[1] for push in heard]

    assert not ours.cells.changes.has_listeners
    assert hear() == []
    meant.run([b"PSUBSCRIBE", b"__key*__:*"])
    assert hear() == [b"__key*__:*"]
    ours.session.run([b"CONFIG", b"SET", b"notify-keyspace-events", b"KA"])
    assert sorted(hear()) == [b"*", b"__key*__:*"]
    meant.run([b"PUNSUBSCRIBE"])
    assert hear() == [b"*"]
    general.close()
    assert not ours.cells.changes.has_listeners
    ours.close()


def test_what_removes_nothing_is_no_change(tmp_path: Path) -> None:
    ours = Ours(tmp_path / "store")
    house, heard = ours.session.house, list[Any]()
    house.notifications.configure("KEA")
    watching = house.admit("watching", lambda push: None)
    for request in ("SADD s a", "HSET h f 1", "RPUSH l a b", "ZADD z 1 a", "WATCH s h l z"):
        watching.run(request.encode().split())
    house.admit("listening", heard.append).run([b"PSUBSCRIBE", b"__keyevent@*"])
    for request in (
        "SREM s x", "HDEL h g", "LREM l 0 x", "LTRIM l 0 -1", "ZREM z x", "SPOP s 0", "LPOP l 0",
        "ZPOPMIN z 0", "ZREMRANGEBYSCORE z 5 6", "SREM none x", "DEL none", "PERSIST s",
    ):  # fmt: skip
        ours.session.run(request.encode().split())
    assert [push.items[2:] for push in heard] == []
    for request in ("MULTI", "PING"):
        watching.run(request.encode().split())
    assert watching.run([b"EXEC"]) == [["PONG"]]
    ours.close()


def test_keys_that_are_waited_for_are_bounded_and_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def waiter(*keys: bytes) -> Waiter:
        return Waiter(keys, LIST, lambda _key: None, None)

    monkeypatch.setattr(blocking, "WAITING_MAX", 5)
    ours = Ours(tmp_path / "store")
    waiters, changes = ours.session.house.waiters, ours.cells.changes
    first, second, third = waiter(b"a", b"b", b"a"), waiter(b"a", b"c", b"d"), waiter(b"e", b"f")
    waiters.add(first)
    waiters.add(second)
    with pytest.raises(ReplyError, match="too many keys"):
        waiters.add(third)
    waiters.remove(first)
    waiters.remove(first)  # served meanwhile
    waiters.add(third)
    assert changes.has_listeners
    waiters.remove(second)
    waiters.remove(third)
    assert not changes.has_listeners, "changes cost nothing while nobody waits"
    long = b"k" * (KEY_BYTES_MAX + 1)
    assert "ERR a key of" in str(ours.ask([b"BLPOP", b"short", long, b"1"]))
    ours.close()

"""Real clients at a real edge, and clients that behave badly."""

import contextlib
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import psutil
import pytest
import redis

from edgesync import EdgeNode
from edgesync.demo.site import free_ports
from tests.edgesync.serve.resp.test_parser import packed

pytestmark = pytest.mark.feature("L1", "L9", "L14")

PATIENCE_S = 120.0


class Edge:
    """The daemon, in a process of its own."""

    def __init__(self, folder: Path, **cells: object) -> None:
        self.config = folder / "edge.toml"
        (self.port,) = free_ports(1)
        lines = {"port": self.port, **cells}
        text = "".join(f"{name} = {value!r}\n".replace("'", '"') for name, value in lines.items())
        self.config.write_text(
            f'[edge]\nname = "till"\n[http]\nport = 0\n[store]\nlimit = "256MiB"\n[cells]\n{text}'
        )
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "edgesync", "--config", str(self.config), "run"]
        with (self.config.parent / "edge.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), timeout=5).close()
                return
            time.sleep(0.02)
        raise AssertionError((self.config.parent / "edge.log").read_text())

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE_S)

    def client(self, **options: Any) -> Any:
        return redis.Redis(port=self.port, **options)

    def socket(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S)


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    made = Edge(tmp_path_factory.mktemp("edge"))
    yield made
    made.kill()


@pytest.fixture
def client(edge: Edge) -> Iterator[Any]:
    with edge.client() as made:
        made.execute_command("FLUSHDB", "YES")
        yield made


@pytest.mark.feature("L6")
def test_values_are_packed_where_that_saves(edge: Edge) -> None:
    noise = Random(3).randbytes(1000)
    kept = {
        b"x" * 64: b"lz4", b"x" * 63: b"raw", noise: b"raw",
        noise + bytes(40): b"raw",  # under 8 %
        noise + bytes(200): b"lz4",
    }  # fmt: skip
    with edge.client() as client:
        for value, encoding in kept.items():
            client.set("packed", value)
            assert client.object("ENCODING", "packed") == encoding
            assert client.get("packed") == value
            assert client.strlen("packed") == len(value)


def test_redis_py_works_with_its_defaults(client: Any) -> None:
    assert client.set("sensor:temp:001", "23.5", ex=86400)
    assert client.get("sensor:temp:001") == b"23.5"
    assert client.hincrby("store:42:daily_revenue", "2025-02-19", 4999) == 4999
    assert client.lpush("store:42:transactions", '{"id":"tx-001","amount":49.99}') == 1
    assert client.hgetall("store:42:daily_revenue") == {b"2025-02-19": b"4999"}
    assert client.zadd("z", {"a": 1, "b": 2.5}) == 2
    assert dict(client.zrange("z", 0, -1, withscores=True)) == {b"a": 1.0, b"b": 2.5}
    assert client.sadd("s", "x", "y") == 2
    assert client.smembers("s") == {b"x", b"y"}
    assert client.zscore("z", "b") == 2.5
    assert client.config_get("append*") == {"appendonly": "yes", "appendfsync": "always"}
    assert set(client.scan_iter("s*")) == {
        b"sensor:temp:001", b"store:42:daily_revenue", b"store:42:transactions", b"s",
    }  # fmt: skip
    assert client.info("server")["redis_version"]
    assert client.execute_command("EDGE.STATUS")[b"pending_ops"] > 0
    assert client.execute_command("EDGE STATUS")[b"node_id"] == b"till"
    assert client.client_id() > 0
    assert b"lib-name=redis-py" in client.execute_command("CLIENT", "INFO")


def test_shutdown_stops_the_edge_and_answers_like_redis_not_at_all(tmp_path: Path) -> None:
    edge = Edge(tmp_path)
    with edge.client() as client:
        client.set("k", "v")
        pipe = client.pipeline()
        pipe.execute_command("SHUTDOWN")
        with pytest.raises(redis.ResponseError, match="not allowed inside a transaction"):
            pipe.execute()
        client.shutdown()  # raises if anything comes back
    assert edge.process.wait(PATIENCE_S) == 0
    edge.start()
    with edge.client() as client:
        assert client.get("k") == b"v"
    command = ["redis-cli", "-p", str(edge.port), "shutdown", "nosave"]
    done = subprocess.run(command, capture_output=True, timeout=PATIENCE_S, check=True)
    assert done.stdout == b""
    assert edge.process.wait(PATIENCE_S) == 0


def test_a_damaged_row_costs_its_key_and_nothing_else(tmp_path: Path) -> None:
    edge = Edge(tmp_path)
    with edge.client() as client:
        client.set("bad", "x", px=100)
        client.set("good", "y")
    assert edge.stop() == 0
    with EdgeNode({"store": {"limit": "256MiB"}}, folder=tmp_path) as node:
        node.cells.rows.put(b"kbad", b"\xff nonsense")
        node.cells.commit()
    edge.start()
    with edge.client() as client:
        time.sleep(1.0)  # it has been removed by now, were it whole
        with pytest.raises(redis.ResponseError, match="the record of key b'bad' is damaged"):
            client.get("bad")
        assert client.get("good") == b"y"
    assert edge.stop() == 0


def test_the_older_protocol_too(edge: Edge, client: Any) -> None:
    with edge.client(protocol=2) as old:
        old.hset("h", mapping={"a": 1, "b": 2})
        assert old.hgetall("h") == {b"a": b"1", b"b": b"2"}
        old.zadd("z", {"a": 1})
        assert dict(old.zrange("z", 0, -1, withscores=True)) == {b"a": 1.0}
        assert isinstance(old.execute_command("EDGE.QUEUE"), list)


def test_a_transaction_is_all_or_nothing(edge: Edge, client: Any) -> None:
    with client.pipeline() as pipe:
        pipe.set("a", 1).incr("a").hset("a", "f", 1)
        results = pipe.execute(raise_on_error=False)
    assert results[:2] == [True, 2]
    assert "WRONGTYPE" in str(results[2]) or "wrong kind" in str(results[2])
    with client.pipeline() as pipe:
        pipe.watch("a")
        with edge.client() as other:
            other.set("a", 5)
        pipe.multi()
        pipe.set("a", 6)
        with pytest.raises(redis.WatchError):
            pipe.execute()
    assert client.get("a") == b"5"
    with client.pipeline() as pipe:
        pipe.set("a", 7).execute_command("NOSUCH")
        with pytest.raises(redis.ResponseError, match="unknown command 'NOSUCH'"):
            pipe.execute()
    assert client.get("a") == b"5"


def test_a_client_can_be_named_listed_and_closed(edge: Edge, client: Any) -> None:
    with edge.client() as other:
        other.client_setname("till-2")
        number = other.client_id()
        assert any(one["name"] == "till-2" for one in client.client_list())
        assert client.client_kill_filter(_id=number) == 1
        assert not any(one["name"] == "till-2" for one in client.client_list())


def test_messages_reach_those_who_listen(edge: Edge, client: Any) -> None:
    for proto in (2, 3):
        with edge.client(protocol=proto) as listener, listener.pubsub() as channel:
            channel.subscribe("news")
            channel.psubscribe("n?ws*")
            for _ in range(2):
                assert channel.get_message(timeout=100)
            assert client.publish("news", "hello") == 2
            found = [channel.get_message(timeout=100) for _ in range(2)]
            assert {one["type"] for one in found if one} == {"message", "pmessage"}
            assert all(one and one["data"] == b"hello" for one in found)
            assert client.pubsub_channels() == [b"news"]
    # That a client has gone is noticed a little after it has.
    assert any(client.publish("news", "nobody") == 0 for _ in range(10_000))
    with edge.socket() as wire:
        wire.sendall(
            packed([b"hello", b"3"]) + packed([b"subscribe", b"me"]) + packed([b"get", b"k"])
        )
        wire.sendall(packed([b"publish", b"me", b"hi"]))
        said = b""
        while b":1\r\n" not in said[-4:]:
            said += wire.recv(4096)
        assert said.endswith(b"_\r\n>3\r\n$7\r\nmessage\r\n$2\r\nme\r\n$2\r\nhi\r\n:1\r\n")


def test_redis_cli_and_redis_benchmark_run_clean(edge: Edge, client: Any) -> None:
    cli = ["redis-cli", "-p", str(edge.port)]
    for version in ("-2", "-3"):
        done = subprocess.run([*cli, version, "set", "k", "v"], capture_output=True, text=True)
        assert done.stdout == "OK\n"
        talk = subprocess.run(
            [*cli, version], input="hset h f 1\nhgetall h\nget k\nnope\n",
            capture_output=True, text=True, timeout=PATIENCE_S,
        )  # fmt: skip
        assert "f" in talk.stdout
        assert "unknown command 'nope'" in talk.stdout + talk.stderr
        client.delete("h")
    tests = "ping,set,get,incr,lpush,rpush,lpop,rpop,sadd,hset,spop,zadd,zpopmin,lrange,mset"
    command = ["redis-benchmark", "-p", str(edge.port), "-q", "-n", "500", "-c", "20", "-t", tests]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S * 3)
    assert done.returncode == 0
    assert "rror" not in done.stdout + done.stderr
    assert done.stdout.count("requests per second") >= 15


@pytest.mark.slow
def test_every_write_answered_is_there_after_the_process_is_killed(tmp_path: Path) -> None:
    """`EDGESYNC_KILLS=1000` kills more often."""
    random = Random(5)
    edge = Edge(tmp_path)
    answered: dict[bytes, int] = {}
    counted = 0
    for life in range(int(os.environ.get("EDGESYNC_KILLS", "6"))):
        if life:
            edge.start()
        with edge.socket() as wire:
            wire.sendall(packed([b"get", b"count"]))
            said = wire.recv(100).split(b"\r\n")
            kept = 0 if said[0] == b"$-1" else int(said[1])
            assert kept in (counted, counted + 1)
            counted = kept
            for key, value in answered.items():
                wire.sendall(packed([b"get", key]))
                found = int(wire.recv(100).split(b"\r\n")[1])
                assert found >= value, "an answered write is gone"
            end = time.monotonic() + random.uniform(0.02, 0.3)
            number = 0
            while time.monotonic() < end:
                key = b"key:%d" % random.randrange(20)
                number += 1
                value = life * 10**6 + number
                wire.sendall(packed([b"set", key, b"%d" % value]))
                assert wire.recv(100) == b"+OK\r\n"
                answered[key] = value
                wire.sendall(packed([b"incr", b"count"]))
                counted = int(wire.recv(100)[1:])
            wire.sendall(packed([b"incr", b"count"]))  # whose answer nobody waits for
            edge.kill()
    edge.start()
    with edge.client() as client:
        assert int(client.get("count") or 0) in (counted, counted + 1)
    assert edge.stop() == 0


def test_what_was_written_is_there_after_a_stop(tmp_path: Path) -> None:
    edge = Edge(tmp_path, durability="everysec")
    with edge.client() as client:
        client.set("k", "v")
    assert edge.stop() == 0
    with EdgeNode.local(tmp_path / "data") as node:
        assert node.get("k") == b"v"


def test_without_the_password_nothing_is_said(tmp_path: Path) -> None:
    edge = Edge(tmp_path, password="s3cret")
    try:
        with edge.client() as client, pytest.raises(redis.AuthenticationError):
            client.get("k")
        with edge.client(password="wrong") as client, pytest.raises(redis.AuthenticationError):
            client.get("k")
        with edge.client(password="s3cret") as client:
            assert client.set("k", "v")
        with edge.socket() as wire:
            wire.sendall(b"*100\r\n")
            assert b"unauthenticated multibulk length" in wire.recv(1000)
        log = (tmp_path / "edge.log").read_text()
        assert "s3cret" not in log
    finally:
        edge.kill()


def test_who_does_not_show_the_password_gives_way_to_who_does(tmp_path: Path) -> None:
    edge = Edge(tmp_path, password="s3cret", clients_max=4)
    try:
        silent = [edge.socket() for _ in range(6)]
        with edge.client(password="s3cret") as client:
            assert client.set("k", "v")
            silent += [edge.socket() for _ in range(6)]
            assert client.get("k") == b"v"
        assert silent[0].recv(100) == b""
        for one in silent:
            one.close()
    finally:
        edge.kill()


@pytest.mark.parametrize(
    "raw",
    [
        b"*4000000000\r\n",
        b"*1\r\n$-5\r\n",
        b"*2\r\n$3\r\nget\r\n:1\r\n",
        b'set "x\r\n',
        b"z" * 99999,
    ],
)
def test_nonsense_is_answered_and_the_door_closed(edge: Edge, client: Any, raw: bytes) -> None:
    with edge.socket() as wire:
        with contextlib.suppress(OSError):
            wire.sendall(raw)
        said = b""
        with contextlib.suppress(OSError):
            while more := wire.recv(1000):
                said += more
        assert said.startswith(b"-ERR Protocol error")
    assert client.ping()


def test_what_is_too_large_is_refused_and_nothing_changes(client: Any) -> None:
    client.set("k", "before")
    with pytest.raises(redis.ResponseError, match="larger than this edge takes"):
        client.set("k", b"x" * ((1 << 20) + 1))
    with pytest.raises(redis.ResponseError, match="at most 500"):
        client.set(b"k" * 501, "v")
    with pytest.raises(redis.ResponseError, match="at most 479"):
        client.hset("h", "f" * 480, "v")
    assert client.get("k") == b"before"
    assert client.exists("h") == 0


def test_a_value_over_the_limit_costs_one_command_of_a_pipeline(edge: Edge) -> None:
    with edge.client() as client:
        pipeline = client.pipeline(transaction=False)
        pipeline.set("p1", "a").set("p2", b"x" * (2 << 20)).set("p3", "c").get("p1")
        replies = pipeline.execute(raise_on_error=False)
        assert replies[0] is True
        assert "value_limit" in str(replies[1])
        assert replies[2:] == [True, b"a"]
        assert client.exists("p2") == 0
        transaction = client.pipeline().set("p1", "b").set("p2", b"x" * (2 << 20))
        with pytest.raises(redis.ResponseError, match="value_limit"):
            transaction.execute()
        assert client.get("p1") == b"a", "none of a transaction with a mistake is carried out"


def test_half_a_command_and_then_nothing(edge: Edge, client: Any) -> None:
    with edge.socket() as wire:
        wire.sendall(b"*3\r\n$3\r\nset\r\n$1\r\nk\r\n$100\r\nhalf")
        assert client.set("other", "fine")
    assert client.get("k") is None


def test_a_client_that_never_reads_is_not_served_for_ever(edge: Edge, client: Any) -> None:
    client.set("big", b"x" * 500_000)
    before = psutil.Process(edge.process.pid).memory_info().rss
    with edge.socket() as wire:
        wire.setblocking(False)
        request = packed([b"get", b"big"]) * 1000
        sent = 0
        until = time.monotonic() + 2
        while time.monotonic() < until and sent < 50 * len(request):
            try:
                sent += wire.send(request)
            except BlockingIOError:
                time.sleep(0.01)
        assert client.ping()
        grown = psutil.Process(edge.process.pid).memory_info().rss - before
        assert grown < 64 << 20, f"{grown / 1e6:.0f} MB for one client"
    assert client.get("big")


def test_a_subscriber_that_does_not_read_is_cut_off(edge: Edge, client: Any) -> None:
    with edge.socket() as wire:
        wire.sendall(packed([b"subscribe", b"news"]))
        assert wire.recv(1000)
        for _ in range(400):
            if client.publish("news", b"x" * 100_000) == 0:
                break
        else:
            pytest.fail("it was never cut off")
    assert client.ping()


@pytest.mark.slow
def test_thousands_of_idle_connections_leave_others_alone(edge: Edge, client: Any) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(10_000, hard - 200) if hard != resource.RLIM_INFINITY else 10_000
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted + 200), hard))
    before = psutil.Process(edge.process.pid).memory_info().rss
    with contextlib.ExitStack() as stack:
        for _ in range(wanted - 50):
            stack.enter_context(edge.socket())
        assert client.set("k", "v")
        grown = psutil.Process(edge.process.pid).memory_info().rss - before
        assert grown / wanted < 4096, f"{grown / wanted:.0f} bytes a connection"
    assert client.get("k") == b"v"

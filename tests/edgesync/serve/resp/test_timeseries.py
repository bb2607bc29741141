"""TS.* as clients of RedisTimeSeries expect it, and every point on disk before its reply."""

import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from edgesync import EdgeNode, SensorIngestion
from edgesync._native import batch
from edgesync._native.points import Columns
from edgesync.errors import StoreFull
from edgesync.model import Lane, RecordKind
from edgesync.serve.resp.gather import Gather
from edgesync.serve.resp.timeseries import TimeSeries
from edgesync.store.points import AHEAD_NS, Staged
from tests.edgesync.serve.resp.test_server import Edge

pytestmark = pytest.mark.feature("L9", "L10")

START = 1_700_000_000_000


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    made = Edge(tmp_path_factory.mktemp("edge"))
    yield made
    made.kill()


@pytest.fixture(params=[2, 3], ids=["resp2", "resp3"])
def client(edge: Edge, request: pytest.FixtureRequest) -> Iterator[Any]:
    with edge.client(protocol=request.param) as made:
        yield made


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    return f"{request.node.name}:{time.time_ns()}"


def raw(client: Any, *words: object) -> Any:
    """The reply as it came, without what redis-py makes of those it knows."""
    connection = client.connection_pool.get_connection()
    try:
        connection.send_command(*words)
        return connection.read_response()
    finally:
        client.connection_pool.release(connection)


def is_new_protocol(client: Any) -> bool:
    return bool(client.connection_pool.connection_kwargs.get("protocol") == 3)


def test_replies_are_those_of_redistimeseries(client: Any, name: str) -> None:
    def value(number: float, text: str) -> object:
        return number if is_new_protocol(client) else text.encode()

    assert raw(client, "TS.ADD", name, START, "23.50", "LABELS", "room", "cellar") == START
    assert (
        raw(client, "TS.MADD", name, START + 10, 24, "nobody", 1, 2, name, "x", 1)[0] == START + 10
    )
    assert raw(client, "TS.GET", name) == [START + 10, value(24.0, "24")]
    assert raw(client, "TS.RANGE", name, "-", "+") == [
        [START, value(23.5, "23.5")], [START + 10, value(24.0, "24")],
    ]  # fmt: skip
    assert raw(client, "TS.REVRANGE", name, "-", "+", "COUNT", 1) == [
        [START + 10, value(24.0, "24")]
    ]
    assert raw(client, "TS.CREATE", name + "x") == b"OK"
    assert raw(client, "TS.GET", name + "x") == []
    assert raw(client, "TS.RANGE", name + "x", "-", "+") == []
    info = raw(client, "TS.INFO", name)
    if is_new_protocol(client):
        assert info[b"labels"] == {b"room": b"cellar"}
        assert info[b"totalSamples"] == 2
    else:
        assert info[info.index(b"labels") + 1] == [[b"room", b"cellar"]]
        assert info[:2] == [b"totalSamples", 2]


def test_redis_py_understands_all_of_it(client: Any, name: str) -> None:
    series = client.ts()
    assert series.create(name, retention_msecs=0, labels={"unit": "K"}, duplicate_policy="last")
    assert series.add(name, START, 1.5) == START
    assert series.madd([(name, START + n, n) for n in (1, 2, 3)]) == [START + n for n in (1, 2, 3)]
    assert [list(one) for one in series.range(name, "-", "+")] == [
        [START, 1.5], [START + 1, 1.0], [START + 2, 2.0], [START + 3, 3.0],
    ]  # fmt: skip
    assert list(series.get(name)) == [START + 3, 3.0]
    found = series.range(name, START, START + 3, aggregation_type="sum", bucket_size_msec=2)
    assert [list(one) for one in found] == [[START, 2.5], [START + 2, 5.0]]
    info = series.info(name)
    if is_new_protocol(client):
        assert (info[b"totalSamples"], info[b"labels"]) == (4, {b"unit": b"K"})
    else:
        assert (info.total_samples, info.labels) == (4, {"unit": "K"})
        assert (info.first_timestamp, info.last_timestamp) == (START, START + 3)


def test_a_star_is_now(client: Any, name: str) -> None:
    before = time.time_ns() // 10**6
    at = raw(client, "TS.ADD", name, "*", 1)
    assert before <= at <= time.time_ns() // 10**6
    assert raw(client, "TS.GET", name)[0] == at


WORDS: dict[str, Callable[[Sequence[float]], float]] = {
    "avg": statistics.fmean, "sum": math.fsum, "min": min, "max": max,
    "range": lambda v: max(v) - min(v), "count": len, "first": lambda v: v[0],
    "last": lambda v: v[-1], "std.p": statistics.pstdev, "var.p": statistics.pvariance,
    "std.s": lambda v: statistics.stdev(v) if len(v) > 1 else 0,
    "var.s": lambda v: statistics.variance(v) if len(v) > 1 else 0,
}  # fmt: skip


@pytest.mark.parametrize("word", WORDS)
def test_aggregations(client: Any, name: str, word: str) -> None:
    random = Random(word)
    points = {START + random.randrange(1000): random.gauss(20, 5) for _ in range(200)}
    order = list(points.items())
    random.shuffle(order)
    raw(client, "TS.CREATE", name)
    raw(client, "TS.MADD", *[part for at, value in order for part in (name, at, repr(value))])
    wanted: dict[int, list[float]] = {}
    for at in sorted(points):
        if START + 100 <= at <= START + 900:
            wanted.setdefault(at - at % 70, []).append(points[at])
    found = raw(client, "TS.RANGE", name, START + 100, START + 900, "AGGREGATION", word, 70)
    assert [at for at, _ in found] == list(wanted)
    for (_, value), values in zip(found, wanted.values(), strict=True):
        assert math.isclose(float(value), WORDS[word](values), rel_tol=1e-9)
    few = raw(client, "TS.REVRANGE", name, START + 100, START + 900,
              "COUNT", 2, "AGGREGATION", word, 70)  # fmt: skip
    assert few == found[::-1][:2]


def test_options_of_a_range(client: Any, name: str) -> None:
    raw(client, "TS.CREATE", name)
    points = [(START + n, n % 10) for n in range(100)]
    raw(client, "TS.MADD", *[part for at, value in points for part in (name, at, value)])

    def found(*options: object) -> list[tuple[int, float]]:
        reply = raw(client, "TS.RANGE", name, START + 5, START + 24, *options)
        return [(at - START, float(value)) for at, value in reply]

    assert found("FILTER_BY_VALUE", 3, 4) == [(13, 3), (14, 4), (23, 3), (24, 4)]
    assert found("LATEST", "COUNT", 1) == [(5, 5)]
    assert found("COUNT", 0) == []
    assert found("AGGREGATION", "count", 10) == [(0, 5), (10, 10), (20, 5)]
    assert found("ALIGN", "start", "AGGREGATION", "count", 10) == [(5, 10), (15, 10)]
    assert found("ALIGN", "end", "AGGREGATION", "count", 10) == [(4, 9), (14, 10), (24, 1)]
    assert found("ALIGN", 7, "AGGREGATION", "min", 10) == [(-3, 5), (7, 0), (17, 0)]
    middle = found("AGGREGATION", "count", 10, "BUCKETTIMESTAMP", "mid")
    assert middle == [(5, 5), (15, 10), (25, 5)]


def test_a_time_written_twice_shows_what_came_last(client: Any, name: str) -> None:
    raw(client, "TS.ADD", name, START, 1)
    raw(client, "TS.ADD", name, START, 2, "ON_DUPLICATE", "LAST")
    assert [float(value) for _, value in raw(client, "TS.RANGE", name, "-", "+")] == [2.0]


REFUSED = [
    (("TS.ADD", "{}", "soon", 1), "TSDB: invalid timestamp"),
    (("TS.ADD", "{}", -1, 1), "TSDB: invalid timestamp"),
    (("TS.ADD", "{}", 10**17, 1), "TSDB: invalid timestamp"),
    (("TS.ADD", "{}", START * 2, 1), "5 minutes ahead of this edge's clock"),
    (("TS.ADD", "{}", START, "warm"), "TSDB: invalid value"),
    (("TS.ADD", "{}", START), "wrong number of arguments for 'ts.add' command"),
    (("TS.ADD", "{}", START, 1, "ON_DUPLICATE", "SUM"), "DUPLICATE_POLICY is LAST"),
    (("TS.ADD", "{}", START, 1, "LABELS", "a"), "Couldn't parse LABELS"),
    (("TS.ADD", b"\xff{}", START, 1), "UTF-8"),
    (("TS.ADD", "x" * 256, START, 1), "1 to 255 characters"),
    (("TS.MADD", "{}", START, 1, "{}"), "wrong number of arguments for 'ts.madd' command"),
    (("TS.CREATE", "there"), "TSDB: key already exists"),
    (("TS.CREATE", "{}", "RETENTION", "long"), "Couldn't parse RETENTION"),
    (("TS.CREATE", "{}", "COLOUR", "red"), "wrong number or order of arguments"),
    (("TS.GET", "{}"), "TSDB: the key does not exist"),
    (("TS.INFO", "{}"), "TSDB: the key does not exist"),
    (("TS.RANGE", "{}", "-", "+"), "TSDB: the key does not exist"),
    (("TS.RANGE", "there", "x", "+"), "TSDB: wrong fromTimestamp"),
    (("TS.RANGE", "there", "-", "x"), "TSDB: wrong toTimestamp"),
    (("TS.RANGE", "there", "-", "+", "COUNT", "x"), "TSDB: Couldn't parse COUNT"),
    (("TS.RANGE", "there", "-", "+", "AGGREGATION", "avg"), "Couldn't parse AGGREGATION"),
    (("TS.RANGE", "there", "-", "+", "AGGREGATION", "mode", 5), "Unknown aggregation type"),
    (("TS.RANGE", "there", "-", "+", "AGGREGATION", "avg", 0), "must be greater than zero"),
    (("TS.RANGE", "there", "-", "+", "FILTER_BY_VALUE", "a", 1), "Couldn't parse MIN"),
    (("TS.RANGE", "there", "-"), "wrong number of arguments for 'ts.range' command"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "problem"), REFUSED, ids=lambda one: str(one)[:50])
def test_errors_say_what_is_wrong(client: Any, words: tuple[object, ...], problem: str) -> None:
    client.execute_command("TS.ADD", "there", START, 1)
    with pytest.raises(redis.ResponseError, match=problem):
        client.execute_command(*[one if one != "{}" else "absent" for one in words])


def test_madd_says_of_each_point_what_became_of_it(client: Any, name: str) -> None:
    raw(client, "TS.CREATE", name)
    found = raw(client, "TS.MADD", name, START, 1, "absent", START, 2, name, START + 1, "x")
    assert found[0] == START
    assert "the key does not exist" in str(found[1])
    assert "invalid value" in str(found[2])


def test_names_of_series_are_apart_from_keys(client: Any, name: str) -> None:
    client.set(name, "text")
    raw(client, "TS.ADD", name, START, 1)
    assert client.get(name) == b"text"
    client.delete(name)
    assert raw(client, "TS.GET", name)[0] == START


def test_in_a_pipeline_answers_keep_their_order(client: Any, name: str) -> None:
    pipe = client.pipeline(transaction=False)
    pipe.execute_command("TS.ADD", name, START, 1).set(name, "x").get(name)
    pipe.execute_command("TS.RANGE", name, "-", "+").ping()
    added, was_set, got, points, pong = pipe.execute()
    assert (added, was_set, got, pong) == (START, True, b"x", True)
    assert len(points) == 1
    pipe = client.pipeline(transaction=True)
    pipe.execute_command("TS.ADD", name, START + 1, 1).set(name, "y")
    pipe.execute_command("TS.GET", name)
    assert pipe.execute()[2][0] == START + 1


@pytest.mark.slow
@pytest.mark.feature("S2")
def test_a_reply_means_on_disk_for_the_hub_and_for_questions(tmp_path: Path) -> None:
    edge = Edge(tmp_path)
    answered = 0
    try:
        with edge.client() as client:
            client.execute_command("TS.CREATE", "t")
            for n in range(40):
                words = [part for m in range(25) for part in ("t", START + 25 * n + m, n)]
                client.execute_command("TS.MADD", *words)
                answered += 25
    finally:
        edge.kill()
    with EdgeNode.local(tmp_path / "data") as node:
        stats = SensorIngestion(node).aggregate("t")
        assert stats is not None
        assert stats.count == answered
        rows = batch.records(node.store.read(Lane.BULK, 1).data)
        assert sum(row.kind == RecordKind.READINGS for row in rows) == answered
    edge.start()
    with edge.client() as client:
        assert len(client.execute_command("TS.RANGE", "t", "-", "+")) == answered
    edge.kill()


@pytest.mark.slow
def test_when_the_store_is_full_it_says_so_and_goes_on(tmp_path: Path) -> None:
    edge = Edge(tmp_path)
    edge.kill()
    edge.config.write_text(edge.config.read_text().replace("256MiB", "8MiB"))
    edge.start()
    try:
        with edge.client() as client:
            client.execute_command("TS.CREATE", "t")
            answered, words = 0, list[object]()
            problem = ""
            while not problem:
                words = [part for m in range(500) for part in ("t", START + answered + m, 1)]
                try:
                    client.execute_command("TS.MADD", *words)
                    answered += 500
                except redis.ResponseError as error:
                    problem = str(error)
            assert "nothing was stored" in problem
            # What was refused is not there, and nothing is let through unstored after it.
            for _ in range(3):
                with pytest.raises(redis.ResponseError, match=r"OOM|nothing was stored"):
                    client.execute_command("TS.MADD", *words)
            newest = client.execute_command("TS.GET", "t")
            assert newest[0] == START + answered - 1
            assert client.ping()
    finally:
        edge.kill()


async def test_what_was_built_on_a_refused_commit_has_not_happened(tmp_path: Path) -> None:
    told: list[tuple[int, bool]] = []
    with EdgeNode.local(tmp_path) as node:
        place = node.points.place("t", "value")

        async def record(staged: Staged) -> None:
            # Meanwhile a client writes, and another one asks.
            gather.add(place, START + 1, 2.0)
            gather.settle()
            assert gather.gate() == 2
            node.points.withdraw(staged)
            raise StoreFull(used_bytes=1, limit_bytes=1)

        gather = Gather(node.points, record)
        gather.on_commit(lambda generation, error: told.append((generation, error is None)))
        gather.add(place, START, 1.0)
        assert gather.gate() == 1
        await gather.commit()
        assert told == [(2, False)]
        assert gather.gate() == 0
        assert node.points.find("t", "value") is None
        assert node.points.readings(node.points.kept_at(place)) == []
        gather.add(place, START + 2, 3.0)
        assert gather.gate() == 2


ARGUMENTS = st.one_of(
    st.sampled_from(b"t u * soon -1 . 1. .5 1e -0 inf nan 1_0 0x1 1e5 -1.25E-3 1e9999".split()),
    st.sampled_from([b"", b" 1", b"1 ", b"LABELS", b"1e99999"]),
    st.integers(-5, START * 2).map(lambda one: b"%d" % one),
    st.floats(allow_nan=False).map(lambda one: repr(one).encode()),
    st.from_regex(rb"[-+]?[0-9]{0,18}(\.[0-9]{0,18})?([eE][-+]?[0-9]{1,3})?", fullmatch=True),
)  # fmt: skip
REQUESTS = st.one_of(
    st.tuples(st.sampled_from([b"TS.ADD", b"ts.add"]), st.sampled_from([b"t", b"u"]),
              st.integers(-5, START + 10**6).map(lambda one: b"%d" % one), ARGUMENTS),
    st.lists(ARGUMENTS, max_size=7).map(lambda some: (b"TS.MADD", *some)),
    st.lists(ARGUMENTS, max_size=5).map(lambda some: (b"TS.ADD", *some)),
)  # fmt: skip


@pytest.fixture(scope="module")
def gathering(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gather]:
    with EdgeNode.local(tmp_path_factory.mktemp("edge")) as node:
        yield Gather(node.points, node.record)


@pytest.mark.slow
@given(REQUESTS)
def test_the_quick_path_does_what_the_plain_one_does(
    gathering: Gather, words: tuple[bytes, ...]
) -> None:
    def wall_ns() -> int:
        return START * 10**6

    series = TimeSeries(gathering, wall_ns)
    series.run(b"ts.add", [b"t", b"1", b"1"], 2)
    gathering.columns.take()
    quick = Columns()
    quick.names[b"t"] = gathering.columns.names[b"t"]
    found = quick.answer(list(words), wall_ns(), AHEAD_NS)
    if found is None:
        assert len(quick) == 0
        return
    assert series.run(words[0].lower(), words[1:], 2) == found
    mine, plain = quick.take(), gathering.columns.take()
    assert [one.tobytes() for one in mine] == [one.tobytes() for one in plain]

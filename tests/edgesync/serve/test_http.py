"""Metrics, health and status of an edge, for a scraper and for whoever else connects."""

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import trio

from edgesync import EdgeNode, Reading
from edgesync.serve.http import CONNECTIONS_MAX, HEAD_BYTES_MAX, health, metrics, serve_http

pytestmark = pytest.mark.feature("F11")

SAMPLE = re.compile(r'^edgesync_[a-z_]+\{edge="edge"(,[a-z]+="[^"]*")*\} -?[0-9.e+-]+$')


class Served:
    def __init__(self, node: EdgeNode, port: int) -> None:
        self.node = node
        self.port = port

    async def say(self, raw: bytes) -> bytes:
        """Send bytes and return everything that comes back until the end."""
        stream = await trio.open_tcp_stream("127.0.0.1", self.port)
        async with stream:
            found = b""
            try:
                await stream.send_all(raw)
                async for data in stream:
                    found += data
            except trio.BrokenResourceError:
                pass
            return found

    async def get(self, path: str, method: str = "GET") -> tuple[int, str, str]:
        """Return status, content type and body."""
        raw = await self.say(f"{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        head, _, body = raw.partition(b"\r\n\r\n")
        kind = re.search(rb"(?i)content-type: ([^\r]+)", head)
        return int(head.split()[1]), kind[1].decode() if kind else "", body.decode()


@pytest.fixture
async def served(tmp_path: Path, nursery: trio.Nursery) -> AsyncIterator[Served]:
    async with EdgeNode({"edge": {"name": "edge"}}, folder=tmp_path) as node:
        port = await nursery.start(serve_http, node, "127.0.0.1", 0)
        yield Served(node, port)


async def test_metrics_are_what_prometheus_reads(served: Served) -> None:
    await served.node.ingest([Reading("m", "P", 1.5, 10**18)])
    status, kind, body = await served.get("/metrics")
    assert (status, kind) == (200, "text/plain; version=0.0.4")
    samples = [line for line in body.splitlines() if not line.startswith("#")]
    assert [line for line in samples if not SAMPLE.match(line)] == []
    assert 'edgesync_readings_total{edge="edge"} 1' in samples
    # The reading, and before it the declaration of its series.
    assert 'edgesync_lane_tail{edge="edge",lane="bulk"} 2' in samples
    families = re.findall(r"^# TYPE (\S+) (counter|gauge|histogram)$", body, re.M)
    assert len(families) == len(set(families)) == len(re.findall("^# HELP", body, re.M))


async def test_status_is_that_of_the_command(served: Served) -> None:
    _, kind, body = await served.get("/status?x=1")
    assert kind == "application/json"
    assert json.loads(body)["edge"] == "edge"


async def test_health_names_what_cannot_be_promised(served: Served) -> None:
    status, _, body = await served.get("/healthz")
    assert (status, json.loads(body)) == (200, {"ok": True, "problems": []})
    now = served.node.status()
    sick = msgspec.structs.replace(now.store, problem="input/output error")
    assert health(msgspec.structs.replace(now, store=sick))[0] == 503
    full = msgspec.structs.replace(now.store, used_bytes=now.store.limit_bytes)
    code, _, answer = health(msgspec.structs.replace(now, store=full))
    assert code == 503
    assert b"store full" in answer
    # There is still time, and room: nothing is refused yet.
    code, _, answer = health(msgspec.structs.replace(now, series=90, series_max=100))
    assert code == 200
    assert b"90 of 100 series" in answer


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n", b"404"),
        (b"DELETE /status HTTP/1.1\r\nHost: x\r\n\r\n", b"405"),
        (b"GET /status HTTP/1.1\r\n\r\n", b"400"),  # no Host
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"400"),
        (b"GET /" + b"a" * (HEAD_BYTES_MAX + 10) + b" HTTP/1.1\r\n\r\n", b"4"),
    ],
)
async def test_what_is_no_question_is_answered_as_such(
    served: Served, raw: bytes, status: bytes
) -> None:
    answer = await served.say(raw)
    assert answer.startswith(b"HTTP/1.1 " + status), answer
    assert (await served.get("/healthz"))[0] == 200


@pytest.mark.slow
async def test_connections_that_say_nothing_do_not_shut_out_others(served: Served) -> None:
    idle = [await trio.open_tcp_stream("127.0.0.1", served.port) for _ in range(CONNECTIONS_MAX)]
    # They are dropped after a while; then the question is answered.
    assert (await served.get("/healthz"))[0] == 200
    for stream in idle:
        await stream.aclose()


async def test_head_has_no_body(served: Served) -> None:
    status, _, body = await served.get("/status", "HEAD")
    assert (status, body) == (200, "")


async def test_the_level_of_resources_is_a_metric_where_they_are_watched(served: Served) -> None:
    now = served.node.status()
    assert b"resource_level" not in metrics(now)
    high = metrics(msgspec.structs.replace(now, resource_level="high"))
    assert b'edgesync_resource_level{edge="edge"} 2\n' in high

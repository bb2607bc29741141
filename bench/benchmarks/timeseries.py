"""How many points a second does an edge take from a Redis client, each on disk before its reply?

Decides whether programs that speak RedisTimeSeries may write to the edge as they are: 50,000 a
second by TS.MADD. One client, which waits for every reply or has some requests under way.
"""

import socket
import tempfile
import time
from pathlib import Path
from typing import Any, ClassVar

from bench.benchmarks.resp import open_edge

START = 1_700_000_000_000
SERIES = 100
SECONDS = 3.0


def madd(first: int, points: int) -> bytes:
    """A request of `points` points over all series, as a client sends it."""
    words = [b"TS.MADD"]
    for n in range(first, first + points):
        words += [b"temp-%03d" % (n % SERIES), b"%d" % (START + n // SERIES), b"%.1f" % (n % 97)]
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in words)


def add(first: int, _points: int) -> bytes:
    words = [b"TS.ADD", b"temp-%03d" % (first % SERIES), b"%d" % (START + first // SERIES), b"1.5"]
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in words)


def read_replies(connection: socket.socket, lines: int) -> None:
    """Read that many lines; none of them may be an error."""
    seen, last = 0, b""
    while seen < lines:
        chunk = connection.recv(1 << 16)
        assert chunk, "the edge has hung up"
        assert b"-" not in chunk, chunk
        seen += chunk.count(b"\n")
        last = chunk
    assert last.endswith(b"\n")


def per_s(port: int, command: str, points: int, under_way: int) -> float:
    make, lines = (madd, points + 1) if command == "madd" else (add, 1)
    with socket.create_connection(("127.0.0.1", port)) as connection:
        for n in range(SERIES):
            connection.sendall(add(n, 1))
        read_replies(connection, SERIES)
        requests = [
            b"".join(make(SERIES + (n * under_way + m) * points, points) for m in range(under_way))
            for n in range(400)
        ]
        started, done = time.perf_counter(), 0
        for request in requests:
            connection.sendall(request)
            read_replies(connection, lines * under_way)
            done += points * under_way
            if time.perf_counter() - started > SECONDS:
                break
        return done / (time.perf_counter() - started)


class Points:
    params: ClassVar[list[list[Any]]] = [["madd 10", "madd 100", "madd 1000", "add 1"], [1, 16]]
    param_names: ClassVar = ["command", "requests_under_way"]
    timeout = 120
    unit = "points/s"

    def track_points_per_s(self, command: str, under_way: int) -> float:
        name, points = command.split()
        with tempfile.TemporaryDirectory() as folder, open_edge(Path(folder)) as port:
            return per_s(port, name, int(points), under_way)


if __name__ == "__main__":
    for command in Points.params[0]:
        for under_way in Points.params[1]:
            found = Points().track_points_per_s(command, under_way)
            print(f"TS.{command:10} {under_way:3} under way: {found:10,.0f} points/s", flush=True)

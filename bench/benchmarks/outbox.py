"""What a user builds instead in an afternoon: readings in a SQLite table, sent by HTTP.

The yardstick of `mixed`. An edge commits readings to a table and deletes those that a hub has
answered for; the hub commits a body to a table before it answers. It does what edgesync does with
readings, and no more: no latest values, rollups, retries, identity or order between edges.
`outbox FILE.DB` is the hub; it prints its port.
"""

import gzip
import http.client
import json
import sqlite3
import sys
import time
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

from edgesync import Reading

BODY_READINGS = 5000


def open_database(path: Path, table: str) -> sqlite3.Connection:
    database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = FULL")
    database.execute(
        f"CREATE TABLE IF NOT EXISTS {table}"
        " (id INTEGER PRIMARY KEY, device TEXT, key TEXT, time_ns INTEGER, value REAL)"
    )
    return database


def insert(database: sqlite3.Connection, table: str, rows: Sequence[Sequence[Any]]) -> None:
    database.execute("BEGIN")
    database.executemany(
        f"INSERT INTO {table} (device, key, time_ns, value) VALUES (?, ?, ?, ?)", rows
    )
    database.execute("COMMIT")


class Outbox:
    """The edge's side."""

    def __init__(self, path: Path) -> None:
        self.database = open_database(path, "outbox")
        self.sent_bytes = 0

    def ingest(self, readings: Sequence[Reading]) -> None:
        insert(self.database, "outbox", [(r.entity, r.key, r.time_ns, r.value) for r in readings])

    def drain(self, port: int) -> None:
        """Send everything, a body at a time."""
        client = http.client.HTTPConnection("127.0.0.1", port)
        query = "SELECT id, device, key, time_ns, value FROM outbox ORDER BY id LIMIT ?"
        while rows := self.database.execute(query, (BODY_READINGS,)).fetchall():
            body = gzip.compress(json.dumps([row[1:] for row in rows]).encode(), 1)
            client.request("POST", "/readings", body)
            answer = client.getresponse()
            answer.read()
            if answer.status != 200:
                raise RuntimeError(f"the hub answered {answer.status}")
            self.sent_bytes += len(body)
            self.database.execute("DELETE FROM outbox WHERE id <= ?", (rows[-1][0],))
        client.close()


def serve(path: Path) -> None:
    database = open_database(path, "readings")
    database.execute("CREATE INDEX IF NOT EXISTS by_series ON readings (device, key, time_ns)")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            insert(database, "readings", json.loads(gzip.decompress(body)))
            self.answer(b"")

        def do_GET(self) -> None:
            (count,) = database.execute("SELECT count(*) FROM readings").fetchone()
            self.answer(json.dumps({"rows": count, "cpu_s": time.process_time()}).encode())

        def answer(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        print(server.server_port, flush=True)
        server.serve_forever()


if __name__ == "__main__":
    serve(Path(sys.argv[1]))

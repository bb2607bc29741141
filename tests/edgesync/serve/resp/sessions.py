"""A session of an edge without the sockets."""

import time
from pathlib import Path
from random import Random

import hiredis

from edgesync._native.resp import encode
from edgesync.cells import DATABASE
from edgesync.serve.resp.session import House, Session
from edgesync.store.edgecells import EdgeCells
from edgesync.store.journal import EdgeStore


class Ours:
    """An edge's store behind a session, without the sockets.

    later_s  by so much its clocks are ahead
    """

    def __init__(self, folder: Path) -> None:
        self.later_s = 0
        self.store = EdgeStore(folder, databases=(DATABASE,), sync="none")
        self.cells = EdgeCells(
            self.store,
            random=Random(1),
            wall_ns=lambda: time.time_ns() + self.later_s * 10**9,
            monotonic_ns=lambda: time.monotonic_ns() + self.later_s * 10**9,
        )
        self.session = Session(House(self.cells), 1, "test", lambda push: None)

    def ask(self, request: list[bytes], proto: int = 2) -> object:
        reader = hiredis.Reader()
        reader.feed(encode(self.session.run(request), proto))
        return reader.gets()

    def close(self) -> None:
        self.cells.commit()
        self.store.close()

"""The demo's edge: the daemon, with a clock that can be stepped and a witness of what it stored.

    python -m edgesync.demo.edge EDGE.TOML CLOCK WITNESS

CLOCK holds the seconds to add to the wall clock. To WITNESS one line is appended for each group of
readings after the node said they are stored: proof from outside the store.
"""

import json
import logging
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import trio

from edgesync import daemon
from edgesync.logs import set_up_logging
from edgesync.model import Reading, series_id
from edgesync.node import EdgeNode


class SteppedClock:
    """The wall clock plus what the file says; the file is read when it changes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp = 0
        self._offset_ns = 0

    def __call__(self) -> int:
        try:
            stamp = self._path.stat().st_mtime_ns
            if stamp != self._stamp:
                self._offset_ns = int(self._path.read_text()) * 10**9
                self._stamp = stamp
        except FileNotFoundError:
            pass
        return time.time_ns() + self._offset_ns


class WitnessedNode(EdgeNode):
    """A node that notes what it has acknowledged in a file beside its store."""

    witness: int  # file descriptor, opened for appending

    async def ingest(self, readings: Sequence[Reading]) -> None:
        await super().ingest(readings)
        rows = [[series_id(one.entity, one.key), one.time_ns, one.value] for one in readings]
        # One write call: a kill leaves whole lines.
        os.write(self.witness, json.dumps(rows).encode() + b"\n")


def main() -> None:
    config, clock, witness = (Path(argument) for argument in sys.argv[1:])
    set_up_logging(logging.INFO, as_json=True)
    stepped = SteppedClock(clock)

    def make_node() -> EdgeNode:
        node = WitnessedNode(config, wall_ns=stepped)
        node.witness = os.open(witness, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        return node

    trio.run(daemon.run, make_node)


if __name__ == "__main__":
    main()

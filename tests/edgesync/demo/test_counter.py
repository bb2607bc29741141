"""The ledger on the screen is in readings: positions are turned into them by looking outside."""

import sys
from pathlib import Path

import trio

from edgesync.demo.counter import ReadingCounter
from edgesync.node import STORE

WRITER = """
import sys
from edgesync import EdgeNode, Event, EventType, Lane, Reading
with EdgeNode.local(sys.argv[1]) as node:
    for n in range(1, 4):
        node.ingest_sync([Reading("meter", key, n, n) for key in "abcd"])
        node.emit_sync(Event(type=EventType.LIFECYCLE, time_ns=n), Lane.BULK)
    print(node.store.state(Lane.BULK).tail, flush=True)
    sys.stdin.read()
"""


async def test_readings_up_to_a_position_are_counted_beside_the_writer(tmp_path: Path) -> None:
    counter = ReadingCounter(tmp_path / STORE)
    counter.look()  # nothing is there yet
    assert counter.total == 0
    writer = await trio.lowlevel.open_process(
        [sys.executable, "-c", WRITER, str(tmp_path)], stdin=-1, stdout=-1
    )
    assert writer.stdin is not None
    assert writer.stdout is not None
    tail = int(await writer.stdout.receive_some())
    counter.look()
    counter.look()  # what was counted is not counted again
    assert counter.total == counter.up_to((0, 0, tail)) == 12
    sums = [counter.up_to((0, 0, seq)) for seq in range(tail + 1)]
    assert sums == sorted(sums)
    assert {0, 4, 8, 12} == {*sums}
    assert counter.up_to((9, 9, 0)) == 0
    await writer.stdin.aclose()
    assert await writer.wait() == 0

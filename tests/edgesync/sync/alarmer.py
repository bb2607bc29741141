"""An edge that raises an alarm after the other until it is killed: `alarmer.py FOLDER SETTINGS`.

Each says its own seq of the critical lane, which is told on standard output once it is on disk.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import trio

from edgesync import EdgeNode, Event, EventType, Lane

PAUSE_S = 0.01


async def main(folder: Path, settings: dict[str, Any]) -> None:
    async with EdgeNode(settings, folder=folder) as node:
        while True:
            seq = node.store.state(Lane.CRITICAL).tail + 1
            alarm = Event(type=EventType.ALARM, entity_id="pump", body=b"%d" % seq,
                          time_ns=time.time_ns())  # fmt: skip
            await node.emit(alarm, Lane.CRITICAL)
            print(seq, flush=True)
            await trio.sleep(PAUSE_S)


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]), json.loads(sys.argv[2]))

"""A process that appends and reports what was acknowledged, until it is killed.

    appender.py DIRECTORY SYNC PAUSE_MS

Each record's body says its own seq, so a reader knows the right value of every position. One line
a commit on standard output, written only after the commit has returned: the tail.
"""

import os
import sys
import time

from edgesync._native.journal import Journal
from edgesync._native.store import Store, Write

BULK = 2


def body_of(seq: int) -> bytes:
    return b"%012d" % seq * (seq % 17 + 1)


def main(path: str, sync: str, pause_ms: float) -> None:
    store = Store(
        path,
        databases=("lanes",),
        map_bytes=1 << 20,
        map_bytes_max=24 << 20,
        sync=sync,  # type: ignore[arg-type]
    )
    journal = Journal(store)
    tail = journal.state(BULK).tail
    os.write(1, b"%d\n" % tail)
    while True:
        write = Write()
        count = tail % 40 + 1
        write.append_many(BULK, 1, [body_of(seq) for seq in range(tail + 1, tail + count + 1)])
        if tail > 20_000:  # keep the file small, and deletes in the game
            write.mark(BULK, tail, tail)
            write.trim(BULK, tail - 10_000)
        tail = store.apply(write)[BULK]
        os.write(1, b"%d\n" % tail)
        if pause_ms:
            time.sleep(pause_ms / 1000)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]))

"""How near is a commit of keys to what the disk can do?

Decides whether keys need the write-ahead log beside LMDB: the same rows, overwritten as a client
overwrites its keys, as an entry of the log, as a transaction of LMDB, and as a plain write and sync
of as many bytes. All three take turns on the same disk, because the disk's own pace drifts.
"""

import os
import select
import statistics
import tempfile
import time
from pathlib import Path

from edgesync._native.store import Store, Write
from edgesync._native.wal import Wal
from edgesync.store.directory import WAL, make_wal

ROOT = Path(__file__).parent.parent.parent
SIZE = 4 << 20
VALUE = bytes(256)
ROUNDS = 200
# One key overwritten by many clients: its record, its note for the hub, counters. Fifty keys.
ROWS = [4, 150]


def milliseconds(rows: int) -> tuple[float, float, float]:
    """Medians: the log, LMDB, and the plain write."""
    changes: dict[bytes, bytes | None] = {b"row:%08d" % (n * 7919): VALUE for n in range(rows)}
    nbytes = sum(len(key) + len(VALUE) for key in changes)
    with (
        tempfile.TemporaryDirectory(dir=ROOT / "build") as name,
        Store(f"{name}/store", databases=("x",), map_bytes_max=64 << 20) as store,
        open(f"{name}/plain", "w+b", buffering=0) as plain,
    ):
        make_wal(Path(name), SIZE)
        plain.write(bytes(SIZE))
        os.fsync(plain)
        wal = Wal(str(Path(name) / WAL))
        at = 0

        def log() -> None:
            if not wal.append(changes):
                wal.begin(os.urandom(8))
                wal.append(changes)
            select.select([wal], [], [])
            assert wal.landed()

        def transact() -> None:
            write = Write()
            for key in changes:
                write.put("x", key, VALUE)
            store.apply(write)

        def write_plainly() -> None:
            nonlocal at
            at = at + nbytes if at + 2 * nbytes < SIZE else 0
            os.pwrite(plain.fileno(), bytes(nbytes), at)
            os.fdatasync(plain)

        seconds = {step: list[float]() for step in (log, transact, write_plainly)}
        for _ in range(ROUNDS):
            for step, found in seconds.items():
                started = time.perf_counter()
                step()
                found.append(time.perf_counter() - started)
        wal.close()
    one, two, three = (statistics.median(found) * 1000 for found in seconds.values())
    return one, two, three


class Log:
    params = ROWS
    param_names = ("rows",)
    timeout = 120
    unit = "of the other"

    def track_share_of_a_plain_write(self, rows: int) -> float:
        log, _, plain = milliseconds(rows)
        return plain / log

    def track_share_of_lmdbs_time(self, rows: int) -> float:
        log, transaction, _ = milliseconds(rows)
        return log / transaction


def main() -> None:
    for rows in ROWS:
        log, transaction, plain = milliseconds(rows)
        print(
            f"{rows:4} rows: log {log:.2f} ms, LMDB {transaction:.2f} ms, plain write and sync "
            f"{plain:.2f} ms; of the plain one {plain / log:.2f}"
        )


if __name__ == "__main__":
    main()

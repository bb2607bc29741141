"""How soon does an edge answer after a kill that left both laps of the write-ahead log full?

Decides how large a lap may be. LMDB is held back, so that a second lap fills while the first waits;
beside it the same start with an empty log, because most of it is Python's.
"""

import socket
import statistics
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from random import randbytes, randrange

from bench.benchmarks.resp import open_edge, per_s
from edgesync._native.wal import replay
from edgesync.store.directory import WAL

ROUNDS = 7
KEYS = 100_000
PIPELINE = 16
# Laps that are full by their rows, and by their bytes.
VALUE_BYTES = [100, 2000]
# No answer for so long: there is no room in the log.
STALL_S = 5.0
# An edge whose laps do not go to LMDB any more once the file `hold` is there.
HOLDING = """
import sys
from pathlib import Path
import trio
from edgesync.store.edgecells import EdgeCells

settle = EdgeCells._keep_settling

async def held(self, write, settling):
    if Path(sys.argv[2]).with_name("hold").exists():
        await trio.sleep_forever()
    await settle(self, write, settling)

EdgeCells._keep_settling = held
from edgesync.cli import main
sys.exit(main())
"""


def fill(folder: Path, value_bytes: int) -> None:
    """Leave a store of KEYS keys and a full log behind, by SIGKILL."""
    with open_edge(folder, program=["-c", HOLDING], is_killed=True) as port:
        per_s(port, "set", 16, KEYS)
        (folder / "hold").touch()
        with socket.create_connection(("127.0.0.1", port)) as client, suppress(TimeoutError):
            client.settimeout(STALL_S)
            while True:
                for _ in range(PIPELINE):
                    key, value = b"key:%012d" % randrange(KEYS), randbytes(value_bytes)
                    client.sendall(
                        b"*3\r\n$3\r\nSET\r\n$16\r\n%b\r\n$%d\r\n%b\r\n" % (key, value_bytes, value)
                    )
                client.recv(5 * PIPELINE, socket.MSG_WAITALL)
        (folder / "hold").unlink()


def wal_of(folder: Path) -> Path:
    return next(folder.rglob(WAL))


def laps(path: Path) -> list[tuple[int, int]]:
    """Rows and bytes of the entries at the beginning of each half of the log."""
    data = path.read_bytes()
    half = len(data) // 2
    found = []
    for part in (data[:half], data[half:]):
        lap, at = part[8:16], 0
        while part[at + 8 : at + 16] == lap:
            at += 24 + int.from_bytes(part[at + 4 : at + 8], "little")
        found.append((len(replay(part, lap)), at))
    return found


def start_s(folder: Path) -> float:
    """Seconds from the start of the process to its first answer."""
    begun = time.perf_counter()
    with open_edge(folder, is_killed=True):
        return time.perf_counter() - begun


def measure(value_bytes: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder, spare = Path(name) / "edge", Path(name) / "spare"
        folder.mkdir()
        fill(folder, value_bytes)
        print("rows and bytes of each half:", laps(wal_of(folder)))
        full, empty = [], []
        for _ in range(ROUNDS):
            subprocess.run(["cp", "-a", "--reflink=auto", folder, spare], check=True)
            full.append(start_s(spare))
            with open_edge(spare):  # ends in peace: nothing is in the log alone
                pass
            empty.append(start_s(spare))
            subprocess.run(["rm", "-r", spare], check=True)
        for what, found in (("full log", full), ("empty log", empty)):
            print(f"{what}: {statistics.median(found):.2f} s, {min(found):.2f} to {max(found):.2f}")


def main() -> None:
    for value_bytes in VALUE_BYTES:
        measure(value_bytes)


if __name__ == "__main__":
    main()

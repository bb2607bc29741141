"""How near is a durable append to what LMDB itself can do?

Decides whether checksums, running hashes and event ids may stay in the commit path: the journal
must reach 0.7 of raw LMDB at 1,000 records a commit. Both run in turns on the same disk, because
the disk's own pace drifts.
"""

import ctypes
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from edgesync._native.store import Store, Write

ROOT = Path(__file__).parent.parent.parent
BULK = 2
RECORD_BYTES = 120  # 32 of them are our header
BODY = bytes(RECORD_BYTES - 32)
COMMITS = 40
# A Modbus poll commits a handful; a drain or a burst of group commit, thousands.
RECORDS = [1, 10, 100, 1000, 10_000]


def raw_library() -> ctypes.CDLL:
    """Compile raw_append.c with the LMDB sources the build has unpacked."""
    sources = next((ROOT / "build" / "sources").glob("lmdb-*")) / "lib"
    target = ROOT / "build" / "raw_append.so"
    files = [ROOT / "bench" / "raw_append.c", sources / "mdb.c", sources / "midl.c"]
    if not target.exists() or target.stat().st_mtime < files[0].stat().st_mtime:
        command = ["cc", "-O3", "-shared", "-fPIC", "-w", f"-I{sources}", "-o", str(target)]
        subprocess.run([*command, *map(str, files), "-lpthread"], check=True)
    return ctypes.CDLL(str(target))


def raw_seconds(folder: Path, commits: int, records: int) -> list[float]:
    folder.mkdir()
    seconds = (ctypes.c_double * commits)()
    code = raw_library().raw_append(str(folder).encode(), commits, records, RECORD_BYTES, seconds)
    if code:
        raise RuntimeError(f"LMDB answered {code}")
    return list(seconds)


def our_seconds(folder: Path, commits: int, records: int) -> list[float]:
    bodies = [BODY] * records
    seconds = []
    with Store(str(folder), databases=("lanes",), map_bytes_max=4 << 30) as store:
        for _ in range(commits):
            started = time.perf_counter()
            write = Write()
            write.append_many(BULK, 1, bodies)
            store.apply(write)
            seconds.append(time.perf_counter() - started)
    return seconds


class Append:
    params = RECORDS
    param_names = ("records_a_commit",)
    timeout = 300

    def setup(self, records: int) -> None:
        self.folder = Path(tempfile.mkdtemp(dir=ROOT / "build"))

    def teardown(self, records: int) -> None:
        shutil.rmtree(self.folder)

    def track_records_per_second(self, records: int) -> float:
        return records / statistics.median(our_seconds(self.folder / "ours", COMMITS, records))

    def track_share_of_raw_lmdb(self, records: int) -> float:
        """Our rate over raw LMDB's, median of five pairs of runs."""
        shares = []
        for run in range(5):
            raw = statistics.median(raw_seconds(self.folder / f"raw{run}", COMMITS, records))
            ours = statistics.median(our_seconds(self.folder / f"ours{run}", COMMITS, records))
            shares.append(raw / ours)
        return statistics.median(shares)

    track_records_per_second.unit = "records/s"  # type: ignore[attr-defined]
    track_share_of_raw_lmdb.unit = "of raw LMDB"  # type: ignore[attr-defined]


if __name__ == "__main__":
    for count in RECORDS:
        one = Append()
        for measure in (one.track_records_per_second, one.track_share_of_raw_lmdb):
            one.setup(count)
            print(f"{count:6} {measure.__name__:26} {measure(count):,.2f}")
            one.teardown(count)

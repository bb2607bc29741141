"""A disk that answers with errors (F6): no acknowledgement, nothing half-written, one reopening."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edgesync._native.store import Store
from tests.crash.survivors import check

PROGRAM = """
import sys
from edgesync._native.store import Store, Write
from edgesync.errors import StoreUnwritable
from edgesync.store.commit import GroupCommit
from tests.crash.appender import BULK, body_of
tail = refused = 0
with Store(sys.argv[1], databases=("lanes",), map_bytes_max=24 << 20) as store:
    with GroupCommit(store) as commit:
        for _ in range(40):
            write = Write()
            write.append_many(BULK, 1, [body_of(tail + 1), body_of(tail + 2)])
            try:
                tail = commit.submit_sync(write)[BULK]
            except StoreUnwritable:
                refused += 1
        print(tail, refused, commit.broken is not None)
"""


def under_strace(store: Path, call: str, fault: str) -> tuple[int, int, bool]:
    if not shutil.which("strace"):
        pytest.fail("needs strace to let system calls fail")
    command = [
        "strace",
        "-f",
        "-o",
        "/dev/null",
        "-e",
        f"trace={call}",
        "-e",
        f"inject={call}:{fault}",
    ]
    answer = subprocess.run(
        [*command, sys.executable, "-c", PROGRAM, str(store)],
        check=True, capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    tail, refused, broken = answer.stdout.split()
    return int(tail), int(refused), broken == "True"


def made(path: Path) -> Path:
    Store(str(path), databases=("lanes",), map_bytes_max=24 << 20).close()
    return path


@pytest.mark.slow
@pytest.mark.feature("S2")
@pytest.mark.parametrize("call", ["fdatasync", "pwrite64", "writev"])
def test_one_error_costs_one_answer(tmp_path: Path, call: str) -> None:
    store = made(tmp_path / "store")
    tail, refused, broken = under_strace(store, call, "error=EIO:when=9")
    assert refused == 1
    assert not broken
    assert tail == 2 * 39
    assert check(store) == tail


@pytest.mark.slow
def test_errors_that_do_not_end_stop_the_writer(tmp_path: Path) -> None:
    store = made(tmp_path / "store")
    tail, refused, broken = under_strace(store, "fdatasync", "error=EIO:when=9+")
    assert broken
    assert refused == 40 - tail // 2
    assert check(store) == tail

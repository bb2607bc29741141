"""What is answered as done is on disk, by the system calls that were made: files of keys, the
registry, and the write-ahead log. Files of the store are held by cut power (test_power_loss.py).
"""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.feature("S2")

# strace -y shows a descriptor with its path: fsync(3</tmp/x>) = 0
CALL = re.compile(r"^\d+ +(\w+)\((.*)\) = (-?\d+)")
SYNCS = ("fsync", "fdatasync")

KEYS = """
from edgesync_transport.keys import load_or_create_keys
load_or_create_keys(folder / "curve.key")
"""
LOG = """
from edgesync.store.directory import make_wal
make_wal(folder, 1 << 16)
"""
REGISTRY = """
from hubd.registry import open_registry
registry = open_registry(folder)
mark("begin")
invitation = registry.enrolments.invite("barn", tenant="default", valid_s=900)
mark("end")
"""
PROLOGUE = """
import os, sys
from pathlib import Path
folder = Path(sys.argv[1])
def mark(what):
    os.path.exists(folder / f"mark-{what}")
"""


def calls(program: str, folder: Path) -> list[str]:
    """Return what was asked of the system below `folder`, as "call path" or "rename to"."""
    trace = folder.parent / "trace"
    kinds = "trace=fsync,fdatasync,rename,renameat,renameat2,openat,stat,newfstatat,write,pwrite64"
    command = ["strace", "-f", "-y", "-s", "0", "-e", kinds, "-o", str(trace)]
    python = [sys.executable, "-c", PROLOGUE + program, str(folder)]
    subprocess.run([*command, *python], check=True)
    found = []
    for line in trace.read_text().splitlines():
        call = CALL.match(line)
        if call is None or str(folder) not in call[2]:
            continue
        paths = re.findall(rf"{re.escape(str(folder))}[^\"><, ]*", call[2])
        found.append(f"{call[1]} {paths[-1].removeprefix(str(folder)) or '/'}")
    return found


def first(done: list[str], pattern: str, after: int = -1) -> int:
    """Return where a call is, behind `after`."""
    for at in range(after + 1, len(done)):
        if re.fullmatch(pattern, done[at]):
            return at
    raise AssertionError(f"no {pattern} after call {after}: {done}")


@pytest.mark.parametrize(
    ("program", "unfinished", "name"),
    [
        (KEYS, r"/\.curve\.key\.[0-9a-f]+", r"/curve\.key"),
        (LOG, r"/wal\.new", "/wal"),
    ],
    ids=["keys", "log"],
)
def test_a_file_is_on_disk_before_its_name_and_its_name_before_the_answer(
    tmp_path: Path, program: str, unfinished: str, name: str
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    done = calls(program, folder)
    written = first(done, f"p?write(64)? {unfinished}")
    synced = first(done, f"f(data)?sync {unfinished}", written)
    renamed = first(done, f"rename(at2?)? {name}", synced)
    first(done, "fsync /", renamed)


def test_an_invitation_is_on_disk_when_it_is_given_out(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    done = calls(REGISTRY, folder)
    begin, end = first(done, ".* /mark-begin"), first(done, ".* /mark-end")
    # First the write-ahead log, then the database that it is emptied into.
    for name in (r"/registry\.db-wal", r"/registry\.db"):
        writes = [at for at in range(begin, end) if re.fullmatch(f"p?write(64)? {name}", done[at])]
        assert writes, done
        assert first(done, f"f(data)?sync {name}", writes[-1]) < end


def test_only_their_owner_reads_what_a_hub_knows_of_its_edges(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    calls(REGISTRY, folder)
    modes = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}
    assert modes["registry.db"] == 0o600
    assert not [name for name, mode in modes.items() if mode & 0o077]

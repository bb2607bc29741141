"""What both kinds of crash tests do: run an appender, end it, and look at what it left."""

import subprocess
import sys
import time
from pathlib import Path

from edgesync._native.batch import records
from edgesync._native.journal import Journal
from edgesync._native.store import Store
from tests.crash.appender import BULK, body_of

APPENDER = Path(__file__).parent / "appender.py"


class Victim:
    """A running appender; `acknowledged` is the last tail it reported before it ended."""

    def __init__(self, store: Path, report: Path, *, sync: str, pause_ms: float = 0) -> None:
        self.report = report
        with report.open("wb") as out:
            command = [sys.executable, str(APPENDER), str(store), sync, str(pause_ms)]
            self.process = subprocess.Popen(command, stdout=out, stderr=subprocess.DEVNULL)

    def acknowledged(self) -> int:
        # A line may be cut by the kill; only whole ones count.
        lines = self.report.read_bytes().split(b"\n")[:-1]
        return int(lines[-1]) if lines else 0

    def commits(self) -> int:
        return self.report.read_bytes().count(b"\n")

    def wait_for_commits(self, count: int) -> None:
        while self.commits() < count:
            if self.process.poll() is not None:
                raise AssertionError(f"the appender ended by itself: {self.process.returncode}")
            time.sleep(0.002)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def check(store: Path) -> int:
    """Verify every record that is there; returns the tail."""
    with Store(str(store), databases=("lanes",), map_bytes_max=24 << 20) as opened:
        journal = Journal(opened)
        state = journal.state(BULK)
        seq = state.trimmed + 1
        while len(rows := journal.read(BULK, seq)):
            for offset, one in enumerate(records(rows.data)):
                assert one.body == body_of(rows.first + offset)
            seq = rows.last + 1
        assert seq == state.tail + 1, f"records {seq}..{state.tail} are missing"
        return state.tail

"""Two hubs on one folder or one database: the second is told who is there, until that dies."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

from hubd.db.engine import parse_url
from hubd.errors import HubHeld, OwnedUnusable
from hubd.hold import LOCK, DatabaseHold, holding_folder
from tests.postgresql import Server

pytestmark = pytest.mark.feature("K6")

FOLDER = """
import sys
from pathlib import Path
from hubd.hold import holding_folder
with holding_folder(Path(sys.argv[1])):
    print("has it", flush=True)
    sys.stdin.read()
"""
DATABASE = """
import sys
from hubd.db.engine import parse_url
from hubd.hold import DatabaseHold
DatabaseHold(parse_url(sys.argv[1])).take()
print("has it", flush=True)
sys.stdin.read()
"""


@contextmanager
def other_hub(program: str, place: str) -> Iterator[subprocess.Popen[bytes]]:
    """Start a process that has the place until it is killed."""
    with subprocess.Popen(
        [sys.executable, "-c", program, place], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"has it\n"
        try:
            yield process
        finally:
            process.kill()


def test_a_folder_is_one_hubs(tmp_path: Path) -> None:
    with other_hub(FOLDER, str(tmp_path)) as other:
        with pytest.raises(HubHeld) as held, holding_folder(tmp_path):
            pytest.fail("two have it")
        assert str(tmp_path) in str(held.value)
        assert f"process {other.pid} on {socket.gethostname()}, since 20" in str(held.value)
        os.kill(other.pid, signal.SIGKILL)
        other.wait()
        with holding_folder(tmp_path):
            assert str(os.getpid()).encode() in (tmp_path / LOCK).read_bytes()
    with holding_folder(tmp_path):
        pass


async def test_a_database_is_one_hubs_and_the_next_ones_once_that_is_killed(database: str) -> None:
    with ExitStack() as stack:
        other = stack.enter_context(other_hub(DATABASE, database))
        mine = stack.enter_context(closing(DatabaseHold(parse_url(database))))
        for _ in range(2):
            with pytest.raises(HubHeld) as held:
                mine.take()
            assert "postgresql://hub@/hub" in str(held.value)
            assert f"process {other.pid} on {socket.gethostname()}, since 20" in str(held.value)
        os.kill(other.pid, signal.SIGKILL)
        await mine.begin()
        mine.take()
        with closing(DatabaseHold(parse_url(database))) as third:
            with pytest.raises(HubHeld, match=f"process {os.getpid()} on"):
                third.take()
            mine.close()
            await third.begin()


async def test_a_hub_that_waits_in_vain_is_refused(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hubd.hold.HELD_S", 0.0)
    with (
        closing(DatabaseHold(parse_url(database))) as first,
        closing(DatabaseHold(parse_url(database))) as second,
    ):
        first.take()
        with pytest.raises(HubHeld):
            await second.begin()


def test_a_server_that_starts_again_has_forgotten_who_had_it(
    database: str, postgresql: Server
) -> None:
    """Whoever is first then has it; the other one is told, and has to stop."""
    with (
        closing(DatabaseHold(parse_url(database))) as first,
        closing(DatabaseHold(parse_url(database))) as second,
    ):
        first.take()
        postgresql.kill()
        try:
            for each in (first, second):
                with pytest.raises(OwnedUnusable):
                    each.take()
        finally:
            postgresql.start()
        second.take()
        with pytest.raises(HubHeld):
            first.take()
        second.take()


def test_a_file_of_the_registry_is_kept_with_its_folder() -> None:
    with closing(DatabaseHold(None)) as first, closing(DatabaseHold(None)) as second:
        first.take()
        second.take()

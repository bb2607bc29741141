"""Operations that cannot be read, and files of the keys that rotted."""

import random
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
import trio

from edgesync.errors import RecordError
from edgesync.model import RecordKind
from edgesync_transport.messages import Codec
from hubd.cells import Answers, HubCells
from hubd.cells.keyspaces import CELLS
from hubd.cells.proposals import GiveUp
from hubd.log.base import LogFull
from hubd.log.lmdb import LmdbLog
from hubd.log.memory import MemoryLog
from hubd.serve import make_answers, open_cells
from hubd.settings import Settings
from tests.hubd.keys import Till, open_answers, proposed, running


@pytest.mark.parametrize(
    "body", [b"", b"\0", b"\7abc", b"\2goes on", b"\0" + b"\xff" * 40, b"\1never ends"]
)
def test_a_record_that_cannot_be_read_is_skipped_alone(tmp_path: Path, body: bytes) -> None:
    till = Till("till")
    with open_answers(tmp_path) as answers:
        cells = answers.cells
        till._edge.record(RecordKind.CELLS, body)
        till.do("SET", "honest", "1")
        for _ in cells.project(till.entry(1)):
            pass
        assert cells.run([b"GET", b"honest"]) == b"1"
        assert cells.position == 1
        assert cells.skipped == answers.skipped == (0 if body[:1] == b"\1" else 1)


async def test_an_entry_that_is_too_large_is_skipped_and_counted(tmp_path: Path) -> None:
    till = Till("till")
    with open_answers(tmp_path) as answers:
        till.do("SET", "k", "1")
        entry = till.entry(1)
        bad = msgspec.structs.replace(entry, codec=Codec.ROWS, payload=b"\xff\xff\xff\xff\1\0\0\0")
        await answers._project(bad)
        assert answers.skipped == 1
        assert answers.cells.position == 1


def test_what_an_edge_says_is_no_proposal_of_the_hub(tmp_path: Path) -> None:
    """Who sent an entry is known by its key, not by what it claims to be (I12)."""
    with open_answers(tmp_path) as answers:
        forged = msgspec.structs.replace(proposed(GiveUp(("barn",))), edge="till")
        with pytest.raises(RecordError, match="till, which is no hub"):
            list(answers.cells.project(forged))


def test_a_proposal_of_a_later_version_is_skipped_alone(tmp_path: Path) -> None:
    with open_answers(tmp_path) as answers:
        later = msgspec.structs.replace(proposed(GiveUp(())), payload=msgspec.msgpack.encode(["X"]))
        with pytest.raises(RecordError, match="cannot be read"):
            list(answers.cells.project(later))


async def test_a_write_that_the_log_has_no_room_for_has_not_happened(tmp_path: Path) -> None:
    log = MemoryLog(limit_bytes=4096)
    with closing(HubCells(tmp_path, log.generation, 0, random=random.Random(1))) as cells:
        async with running(Answers(cells, log)) as answers:
            assert await answers.run_commands([[b"SET", b"k", b"small"]]) == ["OK"]
            with pytest.raises(LogFull):
                await answers.run_commands([[b"SET", b"k", bytes(5000)]])
            assert await answers.run_commands([[b"GET", b"k"]]) == [b"small"]


async def fill(answers: Answers) -> None:
    """Write until the log takes no more."""
    with pytest.raises(LogFull):  # noqa: PT012  # which of them is refused, nobody knows
        while True:
            await answers.run_commands([[b"SET", b"k", bytes(100_000)]])


@pytest.mark.slow
async def test_a_hub_with_a_full_log_serves_its_keys_when_it_starts_again(tmp_path: Path) -> None:
    """That it is there has to go in; what its clients want to add has not."""
    log = LmdbLog(tmp_path / "log", map_bytes_max=2 << 20)
    for starts in range(3):
        cells = HubCells(tmp_path / "cells", log.generation, log.head, random=random.Random(starts))
        with closing(cells):
            async with running(Answers(cells, log)) as answers:
                await fill(answers)
                while not cells.is_started:  # noqa: ASYNC110  # it says so by being so
                    await trio.sleep(0.01)
                assert cells.run([b"STRLEN", b"k"]) == 100_000
    log.close()


async def test_damaged_files_of_the_keys_are_made_again(tmp_path: Path) -> None:
    """Of the log, with what the hub's own clients wrote: nobody has to tell anything again."""
    log, settings = LmdbLog(tmp_path / "log"), Settings()
    with closing(open_cells(settings, tmp_path, log)) as cells:
        async with running(make_answers(settings, cells, log)) as answers:
            assert await answers.run_commands([[b"SET", b"k", b"v"]]) == ["OK"]
        keyspace = cells.mark.keyspace
    (file,) = [path for path in (tmp_path / CELLS).iterdir() if path.stat().st_size > 8192]
    file.write_bytes(random.Random(1).randbytes(file.stat().st_size))
    with closing(open_cells(settings, tmp_path, log)) as cells:
        assert cells.position == 0
        async with running(make_answers(settings, cells, log)) as answers:
            assert await answers.run_commands([[b"GET", b"k"]]) == [b"v"]
        assert cells.mark.keyspace == keyspace
    assert (tmp_path / f"{CELLS}.damaged" / file.name).exists()
    await log.aclose()

"""Operations that cannot be read, and files of the keys that rotted."""

import random
from pathlib import Path

import msgspec
import pytest

from edgesync.model import RecordKind
from edgesync_transport.messages import Codec
from hubd.cells.keyspaces import CELLS
from hubd.log.lmdb import LmdbLog
from hubd.serve import open_cells
from hubd.settings import Settings
from tests.hubd.keys import Till, open_answers


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


async def test_damaged_files_of_the_keys_are_made_again(tmp_path: Path) -> None:
    log = LmdbLog(tmp_path / "log")
    cells = open_cells(Settings(), tmp_path, log)
    keyspace = cells.mark.keyspace
    cells.run([b"SET", b"k", b"v"])
    cells.close()
    (file,) = [path for path in (tmp_path / CELLS).iterdir() if path.stat().st_size > 8192]
    file.write_bytes(random.Random(1).randbytes(file.stat().st_size))
    cells = open_cells(Settings(), tmp_path, log)
    assert cells.mark.keyspace != keyspace
    assert cells.position == 0
    assert cells.run([b"GET", b"k"]) is None
    assert (tmp_path / f"{CELLS}.damaged" / file.name).exists()
    cells.close()
    await log.aclose()

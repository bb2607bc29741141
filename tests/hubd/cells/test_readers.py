"""Keys are a function of the log: whoever reads it reaches the same bytes (I9, I17)."""

import os
import subprocess
import sys
import tempfile
from contextlib import closing
from itertools import count
from pathlib import Path
from random import Random

import msgspec
import pytest

from edgesync._native.cells import Dot, Op, encode_ops
from edgesync._native.cells import Entry as KeyEntry
from edgesync.cells.held import Opening, encode_piece
from edgesync.cells.parts import HELD
from hubd.cells import HubCells, proposals
from hubd.cells.hearing import OPS_A_TURN, RESTORED_A_TURN
from hubd.cells.store import operations_of
from hubd.log.base import Entry
from tests.hubd.batches import START_NS
from tests.hubd.cells import readers
from tests.hubd.cells.wider import Wider
from tests.hubd.keys import Till, proposed

pytestmark = pytest.mark.feature("L4", "S32")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seed", "steps"),
    [
        *((seed, 100) for seed in (954, 1080, 1517, 4657, 5192, 5773)),
        *((seed, 60) for seed in range(10)),
    ],
)
def test_two_readers_of_a_log_reach_the_same_bytes(seed: int, steps: int) -> None:
    """The first ones met keys that were looked at between two changes of strategy, or not, and an
    answer to a conflict of which a crash left only a part of its log's next entry.
    """
    different, _ = readers.differences(seed, steps)
    assert different == []


@pytest.mark.slow
def test_two_readers_of_many_logs() -> None:
    """`make converge` has 10,000 of them, and 2,000 wider ones."""
    for seed in range(1000, 1040):
        different, _ = readers.differences(seed, 100)
        assert (seed, different) == (seed, [])


@pytest.mark.slow
def test_two_readers_of_logs_with_what_comes_seldom() -> None:
    """Edges heard before the first start, what they hold, copies, damage, commits refused."""
    for seed in (17, 27, 37):
        different, _ = readers.differences(seed, 100, Wider)
        assert (seed, different) == (seed, [])


@pytest.mark.slow
def test_no_order_of_sets_decides(tmp_path: Path) -> None:
    """Another process has its members of a set in another order."""
    paths, digests = [], []
    for seed in range(12):
        with tempfile.TemporaryDirectory() as folder:
            world = readers.World(seed, Path(folder))
            world.run(80)
            digests.append(readers.digest(readers.rows_of(world.live)))
            world.live.close()
        path = tmp_path / f"{seed}.log"
        path.write_bytes(msgspec.msgpack.encode(world.log))
        paths.append(str(path))
    for hash_seed in ("1", "2"):
        told = subprocess.run(
            [sys.executable, "-m", "tests.hubd.cells.readers", *paths],
            env={**os.environ, "PYTHONHASHSEED": hash_seed}, capture_output=True, text=True,
            check=True,
        )  # fmt: skip
        assert told.stdout.split() == digests


def test_a_group_of_records_that_was_cut_short_is_carried_out_to_its_end(tmp_path: Path) -> None:
    """The power fails between two steps of its last record: those before it are needed again."""
    till, noise = Till("barn"), Random(2)
    for n in range(2 * OPS_A_TURN):
        till.do("SET", f"k{n}", noise.randbytes(300))
    entry = till.entry(1)
    assert len(operations_of(entry)) > 1

    def opened() -> HubCells:
        return HubCells(tmp_path, readers.GENERATION, 1, random=Random(1))

    cells = opened()
    next(cells.project(entry))
    cells.commit()
    assert 0 < cells.space.keys < 2 * OPS_A_TURN
    cells._own.close()
    with closing(opened()) as cells:
        for _ in cells.project(entry):
            pass
        assert (cells.space.keys, cells.skipped) == (2 * OPS_A_TURN, 0)


# -- cut short, and read by others, between any two steps -------------------------------------


def start(folder: Path) -> Entry:
    with closing(HubCells(folder / "starts", readers.GENERATION, 0, random=Random(1))) as cells:
        return proposed(cells.start_proposal())


def open_keys(folder: Path, log: list[Entry]) -> HubCells:
    return HubCells(folder, readers.GENERATION, len(log), random=Random(1))


def carry_out_steps(cells: HubCells, log: list[Entry], steps: int) -> bool:
    """Carry out so many steps, and commit after each; returns whether there are no more."""
    for entry in log[cells.position :]:
        for _ in cells.project(entry):
            if not steps:
                return False
            steps -= 1
            cells.run([b"GET", b"k0"])  # a client reads, at another time
            cells.commit()
        cells.commit()
    return True


def same_rows(log: list[Entry], folder: Path) -> None:
    """See that the power may fail after any of the steps."""
    at_once = readers.read(log, folder / "at once", Random(1))
    is_over = False
    for steps in count():
        cells = open_keys(folder / str(steps), log)
        is_over = carry_out_steps(cells, log, steps)
        cells._own.close()
        with closing(open_keys(folder / str(steps), log)) as cells:
            assert carry_out_steps(cells, log, 1000)
            assert readers.rows_of(cells) == at_once
        if is_over:
            assert steps > 1
            return


def test_an_answer_to_a_conflict_comes_before_the_conflict_if_it_did_so(tmp_path: Path) -> None:
    """It changed nothing, so its place in the log was not stored with a part of what came next."""
    barn, mill = Till("barn"), Till("mill")
    barn.do("SET", "k0", "barn")
    for n in range(2 * OPS_A_TURN):
        mill.do("SET", f"k{n}", "mill")
    answer = proposals.Resolve(1, (b"WINNER",))
    same_rows([start(tmp_path), barn.entry(2), proposed(answer, 2, 3), mill.entry(4)], tmp_path)


STAMP = START_NS // 1_000_000 << 16
HELD_KEYS = [b"k%d" % n for n in range(2 * RESTORED_A_TURN)]


def held() -> bytes:
    """Return what an edge tells of many keys, in more than one step."""
    entries = [
        KeyEntry(key, 0, True, [], [(b"s", [Dot(9, n, STAMP, 0, b"barn", seq=n)])])
        for n, key in enumerate(HELD_KEYS, 1)
    ]
    return HELD + encode_piece(1, Opening(5, 0, False, (), {}), None, None, entries)


def test_what_meets_in_what_an_edge_holds_is_found_when_that_came(tmp_path: Path) -> None:
    sets = proposals.Run(tuple((b"SET", key, b"hub") for key in HELD_KEYS))
    barn = Till("barn")
    barn.tell(held())
    same_rows([start(tmp_path), proposed(sets, 2, 2), barn.entry(3)], tmp_path)


def test_a_record_that_was_skipped_half_way_is_not_carried_out_again(tmp_path: Path) -> None:
    """What comes behind it in its entry was cut short."""
    bad = [Op(1, STAMP, 0, 0, b"k0", b"s", b"barn"), Op(2, STAMP, 0, 0, b"k1", b"?no type", b"")]
    sets = proposals.Run(((b"SET", b"k0", b"hub"),))
    barn = Till("barn")
    barn.tell(encode_ops(5, bad))
    barn.tell(held())
    same_rows([start(tmp_path), proposed(sets, 2, 2), barn.entry(3)], tmp_path)


def test_what_comes_before_the_first_start_is_heard_by_nobodys_settings(tmp_path: Path) -> None:
    """A log that is read again is read by a hub that was given others since."""
    log = []
    for position, name in enumerate(("barn", "mill"), 1):
        till = Till(name)
        till.do("SET", "k", name)
        log.append(till.entry(position))
    rows = []
    for strategy in (0, 1):
        folder = tmp_path / str(strategy)
        with closing(
            HubCells(folder, readers.GENERATION, 2, random=Random(1), strategies=[(b"", strategy)])
        ) as cells:
            assert carry_out_steps(cells, log, 9)
            rows.append(readers.rows_of(cells))
    assert rows[0] == rows[1]

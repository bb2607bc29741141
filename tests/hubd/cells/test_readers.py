"""Keys are a function of the log: whoever reads it reaches the same bytes (I9, I17)."""

import os
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from random import Random

import msgspec
import pytest

from hubd.cells import HubCells
from hubd.cells.hearing import OPS_A_TURN
from hubd.cells.store import operations_of
from tests.hubd.cells import readers
from tests.hubd.keys import Till

pytestmark = pytest.mark.feature("L4", "S32")


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "steps"), [(1080, 100), *((seed, 60) for seed in range(10))])
def test_two_readers_of_a_log_reach_the_same_bytes(seed: int, steps: int) -> None:
    """The first one met keys that were written to after a change of strategy, and not read."""
    different, _ = readers.differences(seed, steps)
    assert different == []


@pytest.mark.slow
def test_two_readers_of_many_logs() -> None:
    """`make converge` has 10,000 of them."""
    for seed in range(1000, 1040):
        different, _ = readers.differences(seed, 100)
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

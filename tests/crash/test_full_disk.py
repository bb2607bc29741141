"""The edge's disk is full while devices publish and the hub calls and edits.

Nothing is acknowledged then, the edge lives and says why, also when it is killed and starts on the
full disk; once there is room it goes on, and crew.py says what has to be so.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edgesync.demo.site import Site, open_site
from tests.crash.crew import check_all, open_crew, until
from tests.edgesync.resources.rig import mount_memory, run

ROUNDS = 2
# What the store has reserved on the disk is to be used up soon.
PAD_CHARS = 12_000


class FullDisk:
    """The disk of an edge's data, in memory; `fill` takes what is left of it."""

    def __init__(self, site: Site) -> None:
        self._place = site.edge_folder / "data"
        self._ballast = self._place / "ballast"

    def fill(self) -> None:
        with self._ballast.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(b"x" * 4096)
            except OSError:
                pass

    def free(self) -> None:
        self._ballast.unlink()


@contextmanager
def small_disk(site: Site) -> Iterator[FullDisk]:
    """Move the data of an edge that does not run to a disk of its own."""
    place, aside = site.edge_folder / "data", site.edge_folder / "aside"
    place.rename(aside)
    place.mkdir(mode=0o700)
    mount_memory(place)
    try:
        shutil.copytree(aside, place, dirs_exist_ok=True)
        yield FullDisk(site)
    finally:
        run("umount", "-l", str(place))


def says_why(site: Site) -> bool:
    status = site.edge_status()
    return status is not None and bool(status["mqtt"]["problem"])


@pytest.mark.long  # its end waits for the whole fleet of devices to settle
@pytest.mark.mounts
@pytest.mark.feature("F1", "S2", "S24", "S29")
async def test_a_full_disk_costs_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    async with open_site(tmp_path, seed=1, every="1s") as site:
        await site.stop("edge")
        with small_disk(site) as disk:
            async with open_crew(site, ROUNDS, PAD_CHARS) as crew:
                for number in range(ROUNDS):
                    await crew.until_busy()
                    disk.fill()
                    await until(lambda: says_why(site))
                    assert site.processes["edge"].poll() is None
                    if number == 1:
                        await site.kill("edge")
                        await site.start_edge()
                        await until(lambda: says_why(site))
                    disk.free()
                views = await crew.settle()
            await check_all(crew, views)

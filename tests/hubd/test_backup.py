"""A copy of a hub beside one that runs."""

from contextlib import closing
from pathlib import Path

import pytest

from hubd import serve
from hubd.backup import backup
from hubd.log.lmdb import LmdbLog
from hubd.registry import open_registry

pytestmark = pytest.mark.feature("C14")


async def test_an_edge_that_comes_meanwhile_is_whose_it_is_in_the_copy(tmp_path: Path) -> None:
    """Its entries are in the copied log; of an edge nobody knows they are the default tenant's."""
    folder, target = tmp_path / "hub", tmp_path / "copy"
    folder.mkdir()
    with closing(open_registry(folder)) as registry:
        registry.tenants.add("acme")

        class LongLog(LmdbLog):
            async def backup(self, path: Path, *, stored: int = 0) -> None:
                registry.enrolments.invite("barn", tenant="acme", valid_s=900)
                await super().backup(path, stored=stored)

        hub_log = LongLog(folder / serve.LOG)
        try:
            await backup(hub_log, {}, folder, target)
        finally:
            await hub_log.aclose()
    with closing(open_registry(target)) as copied:
        assert copied.edges.owners() == {"barn": "acme"}

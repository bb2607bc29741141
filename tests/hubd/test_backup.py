"""A copy of a hub beside one that runs."""

from contextlib import closing
from pathlib import Path

import pytest

from hubd import serve
from hubd.backup import backup
from hubd.edges.registry import Registry
from hubd.log.lmdb import LmdbLog

pytestmark = pytest.mark.feature("C14")


async def test_an_edge_that_comes_meanwhile_is_whose_it_is_in_the_copy(tmp_path: Path) -> None:
    """Its entries are in the copied log; of an edge nobody knows they are the default tenant's."""
    folder, target = tmp_path / "hub", tmp_path / "copy"
    folder.mkdir()
    with closing(Registry(folder / serve.REGISTRY)) as registry:
        registry.add_tenant("acme")

        class LongLog(LmdbLog):
            async def backup(self, path: Path) -> None:
                registry.invite("barn", tenant="acme", valid_s=900)
                await super().backup(path)

        hub_log = LongLog(folder / serve.LOG)
        try:
            await backup(hub_log, {}, folder, target)
        finally:
            await hub_log.aclose()
    with closing(Registry(target / serve.REGISTRY)) as copied:
        assert copied.owners() == {"barn": "acme"}

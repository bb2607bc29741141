"""The keys of tenants while the hub's disk refuses, and afterwards."""

from contextlib import closing
from pathlib import Path
from random import Random

import pytest

from edgesync.cells.scope import granted
from edgesync.entities.keys import keys_of
from edgesync.entities.model import entity
from hubd.cells import Answers, HubCells
from hubd.cells.feed import Feed
from hubd.cells.keyspaces import Keyspaces, cells_path
from hubd.log.memory import MemoryLog

pytestmark = pytest.mark.feature("C14")


def test_a_tenants_keys_are_tried_again_until_they_open(tmp_path: Path) -> None:
    hub_log = MemoryLog()

    def open_answers(tenant: str, feed: Feed) -> Answers:
        path = cells_path(tmp_path, tenant)
        path.parent.mkdir(parents=True, exist_ok=True)
        cells = HubCells(path, hub_log.generation, 0, random=Random(1))
        return Answers(cells, hub_log, feed=feed)

    with closing(Keyspaces(hub_log, open_answers)) as keyspaces:
        (tmp_path / "tenants").write_text("in the way")
        keyspaces.set_tenants(["default", "acme"], {"barn": "acme"})
        assert keyspaces.of("acme") is None
        (tmp_path / "tenants").unlink()
        keyspaces.open_missing()
        assert keyspaces.of("acme") is not None
        assert keyspaces.of(keyspaces.owner_of("barn")) is not keyspaces.default


def test_an_edge_that_is_granted_some_keys_is_granted_its_own_entities(tmp_path: Path) -> None:
    hub_log = MemoryLog()

    def open_answers(tenant: str, feed: Feed) -> Answers:
        path = cells_path(tmp_path, tenant)
        return Answers(HubCells(path, hub_log.generation, 0, random=Random(1)), hub_log, feed=feed)

    with closing(Keyspaces(hub_log, open_answers)) as keyspaces:
        keyspaces.set_tenants(["default"], {}, {"barn": (b"site/",), "shed": ()})
        grant = keyspaces.grant_of("barn")
        for key in (b"site/1", *keys_of(entity("barn", "device", "a"))):
            assert granted(key, grant)
        for key in (b"other", *keys_of(entity("shed", "device", "a"))):
            assert not granted(key, grant)
        assert keyspaces.grant_of("shed") == keyspaces.grant_of("new") == ()

"""A hub's data folder of an earlier version is taken over, whole, by the first start."""

import shutil
import sqlite3
import tarfile
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import pytest

from hubd import data_folder
from hubd.owned.migrate import MIGRATIONS
from tests.hubd.test_settings_act import served
from tests.hubd.yard import Yard, send

pytestmark = [pytest.mark.slow, pytest.mark.feature("K6", "C14", "S32")]

GOLDEN = Path(__file__).parents[1] / "golden" / "hub_folder"
START_NS: Final = 1_767_225_600 * 10**9
HOUR_NS: Final = 3600 * 10**9
GATEWAYS: Final = ("barn-7", "mill-2")


@pytest.fixture
def yard(tmp_path: Path) -> Yard:
    with tarfile.open(GOLDEN / "before-tenants.tar.xz") as archive:
        # Debian 12's Python 3.11.2 has no filters yet; the archive is our own.
        safely: Any = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
        archive.extractall(tmp_path, **safely)
    for name in GATEWAYS:
        shutil.move(tmp_path / name, tmp_path / "hub" / name)
    return Yard(tmp_path / "hub", "")


async def get(yard: Yard, *words: str, tenant: str = "") -> Any:
    status, answer = await yard.ask(
        "/api/v1/keys/command" + (f"?tenant={tenant}" if tenant else ""), command=list(words)
    )
    assert status == 200, answer
    return answer["reply"]


async def readings_of(yard: Yard, edge: str, start_ns: int) -> list[float]:
    path = f"/api/v1/edges/{edge}/history?entity=meter&key=Power&resolution=raw"
    _, answer = await yard.ask(f"{path}&from={start_ns}&to={start_ns + HOUR_NS}")
    return list(answer["raw"]["value"])


async def test_a_hub_from_before_tenants_goes_on_with_all_it_had(yard: Yard) -> None:
    keys = data_folder.load_keys(yard.folder)
    with closing(sqlite3.connect(yard.folder / "registry.db")) as old:
        before = list(old.iterdump())
    async with served(yard.settings, yard.folder):
        _, answer = await yard.ask("/api/v1/edges")
        found = {edge["link"]["edge"]: edge["link"] for edge in answer["edges"]}
        assert {name: (one["tenant"], one["state"]) for name, one in found.items()} == {
            "barn-7": ("default", "disconnected"),
            "mill-2": ("acme", "disconnected"),
            "shed-1": ("default", "invited"),
            "lost-3": ("acme", "revoked"),
        }
        for name in GATEWAYS:
            await yard.wait_for(
                f"/api/v1/edges/{name}", lambda edge: edge["state"]["readings"] == 300
            )
            for hour in range(3):
                values = await readings_of(yard, name, START_NS + hour * HOUR_NS)
                assert values == [100.0 * hour + second for second in range(50)]
        # What a gateway wrote is its tenant's now, and nobody else's.
        assert await get(yard, "GET", "price:barn-7") == "4.20"
        await yard.wait_for("/api/v1/keys?tenant=acme", lambda found: len(found["keys"]) == 2)
        assert await get(yard, "GET", "price:mill-2", tenant="acme") == "4.20"
        assert await get(yard, "HGETALL", "basket", tenant="acme") == {"mill-2": "3"}
        assert await get(yard, "GET", "price:barn-7", tenant="acme") is None
        for name in GATEWAYS:  # each with the key it has
            async with yard.edge(name) as node:
                await send(node)
    assert data_folder.load_keys(yard.folder) == keys
    aside = yard.folder / f"registry.db.before-{MIGRATIONS.newest}"
    assert aside.exists()
    with closing(sqlite3.connect(aside)) as copy:
        assert list(copy.iterdump()) == before
    # And once more: now nothing is left to be taken over.
    async with served(yard.settings, yard.folder):
        for name in GATEWAYS:
            await yard.wait_for(
                f"/api/v1/edges/{name}", lambda edge: edge["state"]["readings"] == 301
            )
        assert (await yard.ask("/healthz"))[1]["status"] == "ok"

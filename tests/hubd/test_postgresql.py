"""A hub whose SQL is in PostgreSQL: what it does there, and what it does while that is away."""

import contextlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from click.testing import CliRunner

from edgesync import EdgeNode, Reading
from edgesync.demo.site import free_ports
from edgesync.errors import EdgesyncError
from edgesync.serve.control import ask_hub
from edgesync_transport.keys import new_key_pair, write_keys
from hubd import serve
from hubd.cli import main as hubd_command
from hubd.errors import DatabaseTaken, HubHeld
from hubd.project import base
from hubd.registry import open_registry
from hubd.settings import Settings
from hubd.state import schema
from tests.hubd.conftest import HUB
from tests.hubd.test_settings_act import served, settings_of, status_of
from tests.postgresql import Server
from tests.sites import PATIENCE_S

EDGE = "barn"

pytestmark = pytest.mark.feature("C1")


@pytest.fixture
def settings(database: str) -> Settings:
    return settings_on(database)


def settings_on(database: str) -> Settings:
    link, http = free_ports(2)
    return settings_of(
        hub={"listen": [f"tcp://127.0.0.5:{link}"], "database": database},
        api={"host": "127.0.0.4", "port": http},
    )


def enrol(settings: Settings, folder: Path) -> dict[str, Any]:
    """Let an edge in; returns its settings."""
    hub_keys, pair = serve.load_keys(folder / "hub"), new_key_pair()
    registry = open_registry(folder / "hub", serve.database_url(settings))
    with contextlib.closing(registry):
        invitation = registry.enrolments.invite(EDGE, tenant="default", valid_s=60)
        registry.enrolments.redeem(invitation.routing_key, invitation.secret, pair.public)
    write_keys(folder / "edge.keys", pair)
    return {"hub": {"endpoint": settings.hub.listen[0], "server_key": hub_keys.public}}


def url_of(settings: Settings) -> str:
    return f"http://{settings.api.host}:{settings.api.port}"


async def values_shown(settings: Settings) -> list[float]:
    """Return the values that the API has of the one series; [] where there is no answer."""
    question = f"/api/v1/edges/{EDGE}/history?entity=m&key=A&from=0&limit=5000&resolution=raw"
    code, text = await status_of(url_of(settings) + question)
    assert code in (200, 404, 503), text
    return list(json.loads(text)["raw"]["value"]) if code == 200 else []


async def shown(settings: Settings, wanted: list[float]) -> None:
    """Return once the API shows exactly that."""
    with trio.fail_after(PATIENCE_S):
        while await values_shown(settings) != wanted:  # noqa: ASYNC110
            await trio.sleep(0.02)


async def send(node: EdgeNode, values: range) -> None:
    now_ns = time.time_ns()
    await node.ingest([Reading("m", "A", float(one), now_ns + one) for one in values])
    await node.sync(PATIENCE_S)


def ledger(settings: Settings, folder: Path) -> list[Any]:
    path = folder / "hub.toml"
    path.write_text(f'[hub]\ndata_dir = "hub"\ndatabase = "{settings.hub.database}"\n')
    arguments = ["--config", str(path), "ledger", "--edge", EDGE]
    done = CliRunner().invoke(hubd_command, arguments, catch_exceptions=False)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    return [value for row in rows if row["place"] == "state" for _, value in row["points"]]


async def test_a_hub_answers_from_postgresql_as_from_a_file(
    settings: Settings, tmp_path: Path
) -> None:
    edge = enrol(settings, tmp_path)
    async with served(settings, tmp_path / "hub"), EdgeNode(edge, folder=tmp_path) as node:
        await send(node, range(10))
        await shown(settings, [float(one) for one in range(10)])
        assert (await status_of(url_of(settings) + "/healthz"))[0] == 200
    assert not (tmp_path / "hub" / serve.STATE).exists()
    assert await trio.to_thread.run_sync(ledger, settings, tmp_path) == list(range(10))
    async with served(settings, tmp_path / "hub"):
        await shown(settings, [float(one) for one in range(10)])


@pytest.fixture(autouse=True)
def _without_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "RETRY_DELAYS_S", (0.05,))
    monkeypatch.setattr(schema, "LEASE_S", 0.5)


async def test_two_hubs_do_not_write_to_one_database(settings: Settings, tmp_path: Path) -> None:
    other = settings_on(settings.hub.database)
    async with served(settings, tmp_path / "hub"):
        url = serve.database_url(other)
        assert url is not None
        # Also when it is not held for the whole of the hub any more.
        with pytest.raises(HubHeld, match=rf"in use by another hub: process {os.getpid()} on"):
            await trio.to_thread.run_sync(schema.open_schema, url, HUB, b"g" * 16)
    with pytest.RaisesGroup(
        pytest.RaisesExc(DatabaseTaken, match="state of another hub"), flatten_subgroups=True
    ):
        async with served(other, tmp_path / "copy"):
            pass


@pytest.fixture(scope="module")
def mortal() -> Iterator[Server]:
    """A server that is killed again and again."""
    server = Server(is_durable=True)
    yield server
    server.close()


async def test_a_database_that_is_away_holds_up_no_acknowledgement(
    mortal: Server, tmp_path: Path
) -> None:
    mortal.start()
    settings = settings_on(mortal.new_database())
    edge = enrol(settings, tmp_path)
    async with served(settings, tmp_path / "hub"), EdgeNode(edge, folder=tmp_path) as node:
        await send(node, range(10))
        await shown(settings, [float(one) for one in range(10)])
    mortal.kill()
    async with served(settings, tmp_path / "hub"), EdgeNode(edge, folder=tmp_path) as node:
        await send(node, range(10, 20))  # acknowledged: the log has them
        code, text = await status_of(url_of(settings) + "/healthz")
        assert code == 503
        assert "projector telemetry waits" in text
        code, _ = await status_of(url_of(settings) + "/api/v1/edges")
        assert code == 503
        with pytest.raises(EdgesyncError, match=r"(?s)state cannot be read.*/healthz says"):
            await trio.to_thread.run_sync(ask_hub, tmp_path / "hub", "status")
        await trio.to_thread.run_sync(mortal.start)
        await shown(settings, [float(one) for one in range(20)])
        with trio.fail_after(PATIENCE_S):
            while (await status_of(url_of(settings) + "/healthz"))[0] != 200:  # noqa: ASYNC110
                await trio.sleep(0.02)
    mortal.kill()


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.long)])
async def test_a_server_killed_under_load_loses_and_doubles_nothing(
    mortal: Server, tmp_path: Path, kills: int
) -> None:
    mortal.start()
    settings = settings_on(mortal.new_database())
    edge = enrol(settings, tmp_path)
    sent = 0
    async with served(settings, tmp_path / "hub"), EdgeNode(edge, folder=tmp_path) as node:
        for kill in range(kills):
            for turn in range(8):
                await send(node, range(sent, sent + 5))
                sent += 5
                if turn == 1 + kill % 6:
                    await trio.to_thread.run_sync(mortal.kill)
            await trio.to_thread.run_sync(mortal.start)
            await send(node, range(sent, sent + 5))
            sent += 5
            await shown(settings, [float(one) for one in range(sent)])
    mortal.kill()

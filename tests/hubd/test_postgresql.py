"""A hub whose SQL is in PostgreSQL: what it does there, and what it does while that is away."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import psycopg
import pytest
import trio
from click.testing import CliRunner

from edgesync import EdgeNode, Reading
from edgesync.demo.site import free_ports
from edgesync.errors import EdgesyncError
from edgesync.serve.control import ask_hub
from edgesync_transport.keys import new_key_pair, write_keys
from hubd import data_folder
from hubd.cli import main as hubd_command
from hubd.errors import DatabaseTaken, HubHeld, OwnedUnusable
from hubd.owned.migrate import MIGRATIONS
from hubd.project import base
from hubd.registry import Invitation, open_registry
from hubd.settings import Settings
from hubd.state import schema
from tests.hubd.conftest import HUB
from tests.hubd.test_settings_act import served, settings_of, status_of
from tests.hubd.yard import Yard
from tests.hubd.yard import send as send_one
from tests.postgresql import EMPTY, Server
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
    hub_keys, pair = data_folder.load_keys(folder / "hub"), new_key_pair()
    registry = open_registry(folder / "hub", data_folder.database_url(settings))
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
    assert not (tmp_path / "hub" / data_folder.STATE).exists()
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
        url = data_folder.database_url(other)
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


async def health_of(settings: Settings) -> tuple[int, str]:
    return await status_of(url_of(settings) + "/healthz")


async def healthy(settings: Settings) -> None:
    with trio.fail_after(PATIENCE_S):
        while (await health_of(settings))[0] != 200:  # noqa: ASYNC110
            await trio.sleep(0.05)


async def unhealthy(settings: Settings, *problems: str) -> None:
    """Return once health names all of these."""
    code, text = 0, ""
    with trio.fail_after(PATIENCE_S):
        while not all(problem in text for problem in problems):
            code, text = await health_of(settings)
            await trio.sleep(0.05)
    assert code == 503


@pytest.mark.slow
async def test_a_server_that_fails_over_loses_and_doubles_nothing(
    mortal: Server, tmp_path: Path
) -> None:
    """A copy of before takes over: it lacks the newest commits, and is read-only at first."""
    mortal.start()
    settings = settings_on(mortal.new_database())
    edge = enrol(settings, tmp_path)
    async with served(settings, tmp_path / "hub"), EdgeNode(edge, folder=tmp_path) as node:
        await send(node, range(10))
        await shown(settings, [float(one) for one in range(10)])
        await trio.to_thread.run_sync(mortal.back_up)
        await send(node, range(10, 20))
        await shown(settings, [float(one) for one in range(20)])
        await trio.to_thread.run_sync(mortal.fail_over)
        await send(node, range(20, 30))  # acknowledged: the log has them
        with (
            contextlib.closing(
                open_registry(tmp_path / "hub", data_folder.database_url(settings))
            ) as registry,
            pytest.raises(OwnedUnusable, match="read-only transaction"),
        ):
            registry.tenants.add("acme")
        await unhealthy(settings, "projector events waits", "read-only transaction")
        await trio.to_thread.run_sync(mortal.promote)
        await shown(settings, [float(one) for one in range(30)])
        await healthy(settings)
    mortal.kill()


@pytest.fixture
def small_disk(postgresql: Server, database: str) -> Iterator[Server]:
    """Have tables made on a disk of 12 MiB."""
    with postgresql.tablespace("little", "12m"):
        postgresql.execute("ALTER DATABASE hub SET default_tablespace = little", "hub")
        yield postgresql
        postgresql.execute("ALTER DATABASE hub RESET default_tablespace", "hub")
        postgresql.execute(EMPTY, "hub")


def fill_registry(yard: Yard) -> None:
    """Fill the pages that it has, too."""
    with contextlib.closing(yard.registry()) as registry:
        for number in range(10_000):
            registry.enrolments.invite(f"shed-{number}", valid_s=900)


@pytest.mark.root
@pytest.mark.slow
async def test_a_full_disk_of_the_server_keeps_nobody_out_who_was_in(
    small_disk: Server, tmp_path: Path, database: str
) -> None:
    (tmp_path / "barn").mkdir()
    yard = Yard(tmp_path, database)
    yard.enrol("barn")
    with contextlib.closing(yard.registry()) as registry:
        token = registry.enrolments.invite("mill", valid_s=900)
    fill = "CREATE TABLE filler.t{} AS SELECT md5(random()::text) FROM generate_series(1, {}::int)"
    async with served(yard.settings, tmp_path), yard.edge("barn") as node:
        await send_one(node)
        await yard.health(lambda text: text == "[]")
        small_disk.execute("CREATE SCHEMA filler", "hub")
        for rows in (100_000, 30_000, 10_000, 3000, 1000, 300, 100):
            with contextlib.suppress(psycopg.errors.DiskFull):
                for table in range(20):
                    small_disk.execute(fill.format(f"{rows}_{table}", rows), "hub")
        with pytest.raises(OwnedUnusable, match="No space left on device"):
            await trio.to_thread.run_sync(fill_registry, yard)
        status, answer = await yard.redeem(token)
        assert (status, answer["code"]) == (503, "busy")
        problem = await yard.health(lambda text: "the registry refused a change at" in text)
        assert "No space left on device" in problem
        assert "nobody enrols" in problem
        await send_one(node)
        small_disk.execute("DROP SCHEMA filler CASCADE", "hub")
        assert (await yard.redeem(token))[0] == 200
        await yard.wait_for("/healthz", lambda health: health["status"] == "ok")


async def test_a_registry_that_a_newer_version_has_migrated_keeps_nobody_out_who_was_in(
    settings: Settings, postgresql: Server, tmp_path: Path
) -> None:
    edge = enrol(settings, tmp_path)
    async with served(settings, tmp_path / "hub"), EdgeNode(edge, folder=tmp_path) as node:
        await send(node, range(10))
        version = "UPDATE edgesync.alembic_version SET version_num = '{}'"
        postgresql.execute(version.format("0999"), "hub")
        await unhealthy(settings, "the registry cannot be read", "upgrade edgesync")
        await send(node, range(10, 20))
        await shown(settings, [float(one) for one in range(20)])
        postgresql.execute(version.format(MIGRATIONS.newest), "hub")
        await healthy(settings)


SKEWED = """
import sys, time
ahead_ns, now, now_ns = int(sys.argv.pop(1)) * 10**9, time.time, time.time_ns
time.time, time.time_ns = lambda: now() + ahead_ns / 1e9, lambda: now_ns() + ahead_ns
from hubd.cli import main
main()
"""


@contextlib.contextmanager
def process(*command: str) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as found:
        try:
            yield found
        finally:
            found.kill()


@pytest.mark.slow
@pytest.mark.parametrize("ahead_s", [300, -300])
async def test_a_hub_whose_clock_is_five_minutes_from_its_databases_works_as_any(
    settings: Settings, tmp_path: Path, ahead_s: int
) -> None:
    edge, folder = enrol(settings, tmp_path), tmp_path / "hub"
    config = tmp_path / "hub.toml"
    config.write_text(
        f'[hub]\ndata_dir = "hub"\ndatabase = "{settings.hub.database}"\n'
        f'listen = ["{settings.hub.listen[0]}"]\n'
        f'[api]\nhost = "{settings.api.host}"\nport = {settings.api.port}\n'
        '[log]\nkeep = "1h"\n'
    )
    command = [sys.executable, "-c", SKEWED, str(ahead_s), "--config", str(config)]
    url = data_folder.database_url(settings)
    with process(*command, "run") as hub:
        async with EdgeNode(edge, folder=tmp_path) as node:
            await send(node, range(10))
            await shown(settings, [float(one) for one in range(10)])
            await healthy(settings)
            with contextlib.closing(open_registry(folder, url)) as registry:
                token = registry.enrolments.invite("mill", valid_s=900)
            code, text = await redeem(settings, token)
            assert code == 200, text
            elsewhere = os.environ | {"HUBD_HUB__DATA_DIR": str(tmp_path / "other")}
            done = await trio.run_process(
                [*command, "run"], capture_stderr=True, check=False, env=elsewhere
            )
            assert b"in use by another hub: process %d" % hub.pid in done.stderr
            # Who is revoked is noticed, whoever says when.
            with contextlib.closing(open_registry(folder, url)) as registry:
                registry.edges.revoke(EDGE)
            with trio.fail_after(PATIENCE_S):
                while "revoked" not in await link_state(settings):  # noqa: ASYNC110
                    await trio.sleep(0.05)


async def redeem(settings: Settings, token: Invitation) -> tuple[int, str]:
    body = {
        "routing_key": token.routing_key, "secret": token.secret,
        "public_key": new_key_pair().public,
    }  # fmt: skip
    async with httpx2.AsyncClient() as client:
        answer = await client.post(url_of(settings) + "/api/v1/enroll", json=body)
        return answer.status_code, answer.text


async def link_state(settings: Settings) -> str:
    _, text = await status_of(url_of(settings) + f"/api/v1/edges/{EDGE}")
    return str(json.loads(text)["link"]["state"])


@pytest.mark.slow
async def test_a_state_ahead_of_the_log_is_made_anew_and_what_was_lost_comes_again(
    settings: Settings, tmp_path: Path
) -> None:
    """The log was put back from a copy of the disk, by hand; the edge still has what it lacks."""
    edge, folder = enrol(settings, tmp_path), tmp_path / "hub"
    async with served(settings, folder), EdgeNode(edge, folder=tmp_path) as node:
        await send(node, range(10))
        await shown(settings, [float(one) for one in range(10)])
    shutil.copytree(folder / data_folder.LOG, tmp_path / "earlier")
    async with served(settings, folder), EdgeNode(edge, folder=tmp_path) as node:
        await send(node, range(10, 20))
        await shown(settings, [float(one) for one in range(20)])
    shutil.rmtree(folder / data_folder.LOG)
    (tmp_path / "earlier").rename(folder / data_folder.LOG)
    async with served(settings, folder), EdgeNode(edge, folder=tmp_path) as node:
        await send(node, range(20, 30))
        await shown(settings, [float(one) for one in range(30)])
        await healthy(settings)

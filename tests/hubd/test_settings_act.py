"""What hub.toml says reaches the part that does it (see tests/edgesync/test_settings_act.py)."""

import contextlib
import hashlib
import json
import logging
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest
import sqlalchemy as sa
import trio
from click.testing import CliRunner

from edgesync import EdgeNode, Reading
from edgesync._native.window import Window
from edgesync.demo.site import free_ports
from edgesync.errors import CommandError, ConfigError
from edgesync.model import RecordKind
from edgesync_transport.keys import decode_token, new_key_pair, write_keys
from hubd import data_folder, serve
from hubd.cli import main as hubd_command
from hubd.link.rates import Rate, RateSettings
from hubd.log.lmdb import LmdbLog
from hubd.registry import open_registry
from hubd.settings import Settings, from_table, read_settings
from hubd.state import open_state, tables
from hubd.state.file import open_beside
from hubd.state.rollups import HOUR_NS, MINUTE_NS, Bucket, merge
from tests.hubd.conftest import kept_up
from tests.hubd.keys import proposed
from tests.hubd.log.test_contract import Lanes, begin
from tests.hubd.state.filled import HOURS_BEGIN, write_hours
from tests.native.rowsmith import Draft
from tests.postgresql import LOCKED, PASSWORD, USER
from tests.sites import PATIENCE_S


def settings_of(**sections: Any) -> Settings:
    return from_table(sections, file="hub.toml", environment={})


@pytest.mark.feature("S6")
@pytest.mark.setting("hub.toml hub.data_dir", "hub.toml hub.public", "hub.toml hub.public_url")
@pytest.mark.setting("hub.toml enrol.valid")
def test_a_token_says_what_the_file_says(tmp_path: Path) -> None:
    path = tmp_path / "hub.toml"
    path.write_text(
        '[hub]\ndata_dir = "there"\npublic = "tcp://hub.example:7"\n'
        'public_url = "https://hub.example"\n[enrol]\nvalid = "2h"\n'
    )
    before_ns = time.time_ns()
    done = CliRunner().invoke(hubd_command, ["--config", str(path), "enroll", "barn", "--json"])
    assert done.exit_code == 0, done.output
    answer = json.loads(done.stdout)
    token = decode_token(answer["token"])
    assert (token.address, token.enrol_url) == ("tcp://hub.example:7", "https://hub.example")
    assert answer["expires_ns"] >= before_ns + 7200 * 10**9
    assert (tmp_path / "there" / "registry.db").exists()


@pytest.mark.feature("S17", "S26")
@pytest.mark.setting("hub.toml link.heartbeat", "hub.toml link.heartbeats_missed_max")
@pytest.mark.setting("hub.toml link.window_batches", "hub.toml link.takeovers_max")
@pytest.mark.setting("hub.toml link.holdoff", "hub.toml log.managed_backups")
def test_the_link_is_as_the_file_says() -> None:
    link = {
        "heartbeat": "2s", "heartbeats_missed_max": 4, "window_batches": 7, "takeovers_max": 5,
        "holdoff": "9s",
    }  # fmt: skip
    found = serve._receiver_settings(settings_of(link=link, log={"managed_backups": True}), 0)
    assert (found.heartbeat_s, found.heartbeats_missed_max) == (2, 4)
    assert (found.limits.window_batches, found.takeovers_max, found.holdoff_s) == (7, 5, 9)
    assert found.restore_safe


@pytest.mark.setting("hub.toml limits.edge_readings", "hub.toml limits.edge_bytes")
@pytest.mark.setting("hub.toml limits.tenant_readings", "hub.toml limits.tenant_bytes")
@pytest.mark.setting("hub.toml limits.burst", "hub.toml limits.tenant_series")
def test_what_may_be_sent_is_as_the_file_says() -> None:
    """What each rate does: test_rates.py."""
    limits = {
        "edge_readings": 1, "edge_bytes": "2 KiB", "tenant_readings": 3, "tenant_bytes": "4 KiB",
        "burst": "5s",
    }  # fmt: skip
    series = settings_of(limits={"series": 6, "tenant_series": 7}).limits.series_limits(str)
    assert (series.edge_max, series.tenant_max) == (6, 7)
    found = settings_of(limits=limits).limits.rates()
    assert found == RateSettings(edge=Rate(1, 2048), tenant=Rate(3, 4096), burst_s=5)


@pytest.mark.setting("hub.toml log.limit", "hub.toml log.managed_backups", "hub.toml cells.limit")
@pytest.mark.setting("hub.toml cells.value_limit", "hub.toml cells.retire_after")
@pytest.mark.setting("hub.toml cells.conflicts_for")
async def test_log_and_keys_are_as_the_file_says(tmp_path: Path) -> None:
    settings = settings_of(
        log={"limit": "32 MiB", "managed_backups": True},
        cells={
            "limit": "16 MiB", "value_limit": "1kb", "retire_after": "3d", "conflicts_for": "2d",
        },
    )  # fmt: skip
    async with serve.open_log(settings, tmp_path) as hub_log:
        assert hub_log.stats().limit_bytes == 32 << 20
        assert hub_log._book.has_backups
        with contextlib.closing(serve.open_cells(settings, tmp_path, hub_log)) as cells:
            assert cells._own.store.map_bytes_max == 16 << 20
            for _ in cells.project(proposed(cells.start_proposal(), 1, 1)):  # from there on
                pass
            with pytest.raises(CommandError, match="value_limit"):
                cells.ask("SET", ("key", "x" * 2000))
            answers = serve.make_answers(settings, cells, hub_log)
            assert answers._retire_after_s == 3 * 86400
            assert answers._conflicts_s == 2 * 86400


@pytest.mark.parametrize("section", ["log", "cells"])
def test_a_limit_that_no_batch_fits_into_is_refused(section: str) -> None:
    """Elsewhere, "0b" means no limit."""
    for limit in ("0b", "3 MiB"):
        with pytest.raises(ConfigError, match=rf"{section}: .*at least 4 MiB"):
            settings_of(**{section: {"limit": limit}})
    found = settings_of(**{section: {"limit": "4 MiB"}})
    assert getattr(found, section).limit == 4 << 20


async def dropped(folder: Path, log: dict[str, object]) -> int:
    """Return the oldest position of a hub's log of twenty entries once something is dropped."""
    hour_ago_ns = time.time_ns() - 3600 * 10**9
    with contextlib.closing(
        LmdbLog(folder / data_folder.LOG, clock_ns=lambda: hour_ago_ns)
    ) as hub_log:
        records = [Draft(RecordKind.EVENT, Random(n).randbytes(10_000), 7, n) for n in range(20)]
        lane, epoch = Lanes(records), await begin(hub_log)
        await hub_log.append([lane.cut(n, n, epoch=epoch) for n in range(1, 21)])
    link, http = free_ports(2)
    settings = settings_of(hub={"listen": [f"tcp://127.0.0.1:{link}"]}, api={"port": http}, log=log)
    async with served(settings, folder):
        while True:
            stats = json.loads((await status_of(f"http://127.0.0.1:{http}/api/v1/stats"))[1])
            if stats["log"]["oldest"] > 1:
                return int(stats["log"]["oldest"])
            await trio.sleep(0.05)


@pytest.mark.slow
@pytest.mark.feature("S32")
@pytest.mark.setting("hub.toml log.keep")
async def test_entries_go_by_age_as_the_file_says(tmp_path: Path) -> None:
    assert await dropped(tmp_path, {"keep": "50m"}) == 21  # the hub's own start


@pytest.mark.slow
@pytest.mark.feature("S32")
@pytest.mark.setting("hub.toml log.keep_bytes")
async def test_entries_go_by_size_as_the_file_says(tmp_path: Path) -> None:
    assert 5 < await dropped(tmp_path, {"keep_bytes": "200 KiB"}) < 20


@pytest.mark.feature("L11")
@pytest.mark.setting("hub.toml retention.minutes", "hub.toml retention.hours")
@pytest.mark.setting("hub.toml retention.windows")
def test_what_is_old_goes_as_the_file_says(tmp_path: Path) -> None:
    keep = settings_of(retention={"minutes": "1h", "hours": "2h", "windows": "3h"}).retention
    start = 1_700_000_000 * 10**9 // HOUR_NS * HOUR_NS
    old = Bucket(7, start, 1, 1.0, 1.0, 1.0, 1.0, 1.0, start, start)
    with contextlib.closing(open_state(tmp_path / "state.db", b"g" * 16)) as state:
        for table in (tables.rollup_1m, tables.rollup_1h):
            state.write_now(partial(merge, table=table, buckets=[old]))
            assert kept_up(state, keep, start + 4 * HOUR_NS) == 1
        window = {"edge": "barn", "series": 1, "width_ns": MINUTE_NS, "start_ns": start,
                  "revision": 1, "data": Window().encode()}  # fmt: skip
        state.write_now(lambda c: c.execute(tables.windows.insert(), window))
        assert kept_up(state, keep, start + 5 * HOUR_NS) == 1


@pytest.mark.feature("L11")
@pytest.mark.setting("hub.toml retention.readings")
def test_readings_go_as_the_file_says(tmp_path: Path) -> None:
    keep = settings_of(retention={"readings": "1h"}).retention
    with contextlib.closing(open_state(tmp_path / "state.db", b"g" * 16)) as state:
        write_hours(state, 1, 1)
        assert kept_up(state, keep, HOURS_BEGIN + 2 * HOUR_NS - MINUTE_NS) == 0
        assert kept_up(state, keep, HOURS_BEGIN + 2 * HOUR_NS) == 1


@contextlib.asynccontextmanager
async def served(
    settings: Settings, folder: Path, patience_s: float = PATIENCE_S
) -> AsyncIterator[serve.Running]:
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        running = await nursery.start(partial(serve.run, settings, folder, stop=stop))
        try:
            with trio.fail_after(patience_s):
                yield running
        finally:
            stop.set()


async def status_of(url: str, **headers: str) -> tuple[int, str]:
    def get() -> tuple[int, str]:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    return await trio.to_thread.run_sync(get)


@pytest.mark.slow
@pytest.mark.feature("K6")
@pytest.mark.setting("hub.toml hub.listen", "hub.toml limits.series", "hub.toml api.host")
@pytest.mark.setting("hub.toml state.memory")
@pytest.mark.setting("hub.toml api.port", "hub.toml api.token_sha256", "hub.toml api.allowed_hosts")
@pytest.mark.setting("hub.toml api.write_token_sha256")
async def test_a_hub_serves_where_and_whom_the_file_says(tmp_path: Path) -> None:
    link, http = free_ports(2)
    digests = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("reads", "writes")}
    settings = settings_of(
        hub={"listen": [f"tcp://127.0.0.5:{link}"]},
        limits={"series": 1},
        state={"memory": "1 KiB"},
        api={
            "host": "127.0.0.4", "port": http, "token_sha256": [digests["reads"]],
            "write_token_sha256": [digests["writes"]], "allowed_hosts": ["hub.example"],
        },
    )  # fmt: skip
    hub_keys, pair = data_folder.load_keys(tmp_path / "hub"), new_key_pair()
    with contextlib.closing(open_registry(tmp_path / "hub")) as registry:
        invitation = registry.enrolments.invite("barn", tenant="default", valid_s=60)
        registry.enrolments.redeem(invitation.routing_key, invitation.secret, pair.public)
    write_keys(tmp_path / "edge.keys", pair)
    edge = {"hub": {"endpoint": f"tcp://127.0.0.5:{link}", "server_key": hub_keys.public}}
    async with (
        served(settings, tmp_path / "hub"),
        EdgeNode(edge, folder=tmp_path) as node,
    ):
        await node.ingest([Reading("m", key, 1.0, time.time_ns()) for key in ("A", "B")])
        await node.sync(PATIENCE_S)
        url = f"http://127.0.0.4:{http}"
        reads = {"Authorization": "Bearer reads"}
        assert (await status_of(f"{url}/api/v1/edges"))[0] == 401
        assert (await status_of(f"{url}/api/v1/edges", **reads))[0] == 200
        assert (await status_of(f"{url}/api/v1/edges", Authorization="Bearer writes"))[0] == 200
        assert (await status_of(f"{url}/api/v1/edges", Host="hub.example", **reads))[0] == 200
        assert (await status_of(f"{url}/api/v1/edges", Host="evil.example", **reads))[0] == 421
        health = ""
        for _ in range(1000):
            health = (await status_of(f"{url}/healthz", **reads))[1]
            if "1 readings are in the log only" in health:
                break
            await trio.sleep(0.02)
        else:
            pytest.fail(f"no series is beyond the limit: {health}")
        with contextlib.closing(open_beside(tmp_path / "hub" / data_folder.STATE)) as rows:
            # With room for little, what has just come is in pages already.
            for _ in range(1000):
                if rows.read_now(lambda c: c.execute(sa.select(tables.page.c.points)).all()):
                    break
                await trio.sleep(0.02)
            else:
                pytest.fail("readings stay in memory")


@pytest.mark.feature("F11")
@pytest.mark.setting("hub.toml logging.level", "hub.toml logging.json")
def test_the_log_is_as_the_file_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trio, "run", lambda serving: None)
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", root.level)
    path = tmp_path / "hub.toml"
    path.write_text('[logging]\nlevel = "error"\njson = false\n')
    assert CliRunner().invoke(hubd_command, ["--config", str(path), "run"]).exit_code == 0
    record = logging.LogRecord("hubd", logging.ERROR, "", 1, "broken", (), None)
    assert root.level == logging.ERROR
    assert not root.handlers[0].format(record).startswith("{")


@pytest.mark.slow
@pytest.mark.feature("S6")
@pytest.mark.setting("hub.toml hub.database", "hub.toml hub.password_file")
def test_the_registry_is_in_the_database_that_is_named(tmp_path: Path, database: str) -> None:
    path = tmp_path / "hub.toml"
    locked = database.replace(f"//{USER}@", f"//{LOCKED}@")
    path.write_text(
        f'[hub]\ndatabase = "{locked}"\npassword_file = "password"\n'
        'public = "tcp://hub.example:7"\n'
    )
    (tmp_path / "password").write_text("not the password\n")
    wrong = CliRunner().invoke(hubd_command, ["--config", str(path), "tenant", "add", "acme"])
    assert wrong.exit_code != 0
    assert "password authentication failed" in wrong.output
    assert "not the password" not in wrong.output
    (tmp_path / "password").write_text(f"{PASSWORD}\n")

    def run(*words: str) -> str:
        done = CliRunner().invoke(hubd_command, ["--config", str(path), *words])
        assert done.exit_code == 0, done.output
        return done.stdout

    run("tenant", "add", "acme")
    assert "registry.db" not in {found.name for found in tmp_path.rglob("*")}
    path.write_text('[hub]\npublic = "tcp://hub.example:7"\n')
    option = ("--database", database)
    run("enroll", "barn", "--tenant", "acme", *option)
    assert [edge["edge"] for edge in json.loads(run("edges", "--json", *option))] == ["barn"]
    run("revoke", "barn", *option)
    assert json.loads(run("edges", "--json", *option))[0]["state"] == "revoked"
    assert "acme: 1 edges, 0 tokens" in run("tenant", "list", *option)
    run("forget", "barn", "--yes", *option)
    run("tenant", "token", "acme", *option)
    run("tenant", "remove", "acme", "--yes", *option)
    assert run("tenant", "list", *option) == "default: 0 edges, 0 tokens\n"
    assert run("tenant", "list") == "default: 0 edges, 0 tokens\n"
    assert (tmp_path / "data" / "registry.db").exists()


@pytest.mark.feature("S6")
def test_the_password_of_the_database_is_in_a_file_alone(tmp_path: Path) -> None:
    (tmp_path / "hub.toml").write_text(
        '[hub]\ndatabase = "postgresql://hub@db.example/hub"\npassword_file = "password"\n'
    )
    (tmp_path / "password").write_text("a secret\n")
    url = data_folder.database_url(read_settings(tmp_path / "hub.toml", {}))
    assert url is not None
    assert url.password == "a secret"
    for given in ("postgresql://hub:a-secret@db.example/hub", "postgresql://db/hub?password=x"):
        config = str(tmp_path / "hub.toml")
        done = CliRunner().invoke(
            hubd_command, ["--config", config, "tenant", "list", "--database", given]
        )
        assert done.exit_code == 2
        assert "password_file" in done.output
        assert "a-secret" not in done.output

"""kill -9 of a real hub while it is copied and while its log drops: each copy is whole or refused.

The edge forgets what a backup holds (`managed_backups`), and the log drops it: so what a killed
backup had wrongly declared safe would be missing when the hub is lost and restored.
"""

import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from edgesync import EdgeNode, Reading
from edgesync.demo.site import free_ports
from edgesync_transport.keys import new_key_pair, write_keys
from hubd import data_folder
from hubd.backup import check
from hubd.log.lmdb import LmdbLog
from hubd.manifest import MANIFEST, UNFINISHED, BackupRefused
from hubd.registry import open_registry
from hubd.settings import read_settings
from tests.hubd.test_settings_act import status_of
from tests.sites import PATIENCE_S

EDGE = "barn"
# Sent while one hub lives, each with what does not compress, so that the log has to drop.
READINGS = 60
BALLAST_BYTES = 8000

pytestmark = [pytest.mark.slow, pytest.mark.feature("S32", "K6")]


class Hub:
    """A hub in a process of its own, whose log drops what is beyond 1 MiB."""

    def __init__(self, folder: Path, database: str) -> None:
        self.folder = folder
        self.config = folder / "hub.toml"
        link, http = free_ports(2)
        self.endpoint, self.url = f"tcp://127.0.0.1:{link}", f"http://127.0.0.1:{http}"
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir()
        self.configure("data", database)

    def configure(self, data: str, database: str) -> None:
        self.data = self.folder / data
        self.config.write_text(
            f'[hub]\ndata_dir = "{data}"\ndatabase = "{database}"\nlisten = ["{self.endpoint}"]\n'
            f"[api]\nport = {self.url.rpartition(':')[2]}\n"
            '[log]\nlimit = "8 MiB"\nkeep_bytes = "1 MiB"\nmanaged_backups = true\n'
        )

    def enrol(self, folder: Path) -> dict[str, Any]:
        keys, pair = data_folder.load_keys(self.data), new_key_pair()
        url = data_folder.database_url(read_settings(self.config))
        with closing(open_registry(self.data, url)) as registry:
            token = registry.enrolments.invite(EDGE, valid_s=900)
            registry.enrolments.redeem(token.routing_key, token.secret, pair.public)
        folder.mkdir()
        write_keys(folder / "edge.keys", pair)
        return {
            "hub": {"endpoint": self.endpoint, "server_key": keys.public},
            "store": {"retain": "0b"},
        }

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "hubd", "--config", str(self.config), *words]

    @contextmanager
    def running(self) -> Iterator[None]:
        with (self.folder / "hub.log").open("ab") as log:
            process = subprocess.Popen(self.command("run"), stderr=log)
        self._process = process
        try:
            yield
        finally:
            self.kill()

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    async def status(self) -> dict[str, Any]:
        """Return what the API says of the edge; {} where it does not answer."""
        try:
            code, text = await status_of(f"{self.url}/api/v1/edges/{EDGE}")
        except OSError:
            return {}
        return json.loads(text) if code == 200 else {}

    async def shows(self, readings: int) -> None:
        """Return once so many are there."""
        with trio.fail_after(PATIENCE_S):
            while (found := await self.status()).get("state", {}).get("readings") != readings:
                assert found.get("state", {}).get("readings", 0) <= readings
                await trio.sleep(0.05)

    async def values(self) -> list[float]:
        question = f"/api/v1/edges/{EDGE}/history?entity=m&key=n&from=0&limit=5000&resolution=raw"
        code, text = await status_of(self.url + question)
        assert code == 200, text
        return list(json.loads(text)["raw"]["value"])


@pytest.fixture(params=["sqlite", "postgresql"])
def hub(request: pytest.FixtureRequest, tmp_path: Path) -> Hub:
    url = request.getfixturevalue("database") if request.param == "postgresql" else ""
    return Hub(tmp_path / "hub", url)


async def send(node: EdgeNode, first: int, noise: random.Random) -> None:
    for value in range(first, first + READINGS):
        now_ns = time.time_ns()
        ballast = noise.randbytes(BALLAST_BYTES // 2).hex()
        await node.ingest(
            [Reading("m", "n", float(value), now_ns), Reading("m", "ballast", ballast, now_ns)]
        )


async def copy(hub: Hub, target: Path) -> None:
    await trio.run_process(
        hub.command("backup", str(target)), check=False, capture_stdout=True, capture_stderr=True
    )


def is_whole(target: Path) -> bool:
    if (target / MANIFEST).exists() and not (target / UNFINISHED).exists():
        return check(target) is not None
    with pytest.raises(BackupRefused):
        check(target)
    return False


def dropped(hub: Hub) -> int:
    with closing(LmdbLog(hub.data / data_folder.LOG, readonly=True)) as hub_log:
        return hub_log.oldest - 1


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("kills", [2, pytest.param(40, marks=pytest.mark.long)])
async def test_what_a_killed_backup_holds_is_not_forgotten(
    hub: Hub, tmp_path: Path, kills: int
) -> None:
    chance = random.Random(kills)
    settings = hub.enrol(tmp_path / "barn")
    whole: list[Path] = []
    sent = 0
    async with EdgeNode(settings, folder=tmp_path / "barn") as node:
        for turn in range(2 * kills):
            target = tmp_path / f"copy{turn}"
            with hub.running():
                await send(node, sent, chance)
                sent += READINGS
                with trio.fail_after(PATIENCE_S):
                    await node.sync()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(copy, hub, target)
                    # The last one is killed before its manifest: no later one has what it holds.
                    is_killed = turn % 2 == 1
                    piece = (
                        chance.choice(("", data_folder.LOG))
                        if turn < 2 * kills - 1
                        else data_folder.LOG
                    )
                    begun = target / (piece if is_killed else MANIFEST)
                    while not begun.exists():  # noqa: ASYNC110
                        await trio.sleep(0.001)
                    await trio.sleep(chance.uniform(0.0, 0.1 if is_killed else 1.0))
                    hub.kill()
            if is_whole(target):
                whole.append(target)
        assert whole
        with hub.running():
            await hub.shows(2 * sent)
            with trio.fail_after(PATIENCE_S):  # a busy hub was killed before it came to that
                while not dropped(hub):  # noqa: ASYNC110 - it is another process
                    await trio.sleep(0.05)
            assert await hub.values() == [float(value) for value in range(sent)]
        # And now it is lost, with all that came after the newest copy.
        hub.configure("restored", "")
        restored = await trio.run_process(
            hub.command("restore", str(whole[-1])), capture_stdout=True, capture_stderr=True
        )
        assert b"restored up to" in restored.stdout
        with hub.running():
            await hub.shows(2 * sent)
            assert await hub.values() == [float(value) for value in range(sent)]

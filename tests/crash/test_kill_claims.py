"""kill -9 of a real edge and a real hub while a device fetches firmware and devices are claimed.

What a device has fetched whole, by chunks, is one version of its firmware, byte for byte; a device
that offers itself is claimed once, by whom it says.
"""

import hashlib
import itertools
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import pytest
import trio

from edgesync.demo.site import EDGE, Site, free_ports, open_site
from tests.crash.crew import until
from tests.crash.daemons import kill_both, kills_each

KILLS_EACH = kills_each(1)
CHUNK_BYTES = 16 * 1024
CHUNKS = 20
CLAIMERS = ("ana", "bob")
DEVICES = 50
CREDENTIALS = "".join(f'[[device]]\nname = "D{n}"\ntoken = "TOKEN{n}"\n' for n in range(DEVICES))


class Claims(NamedTuple):
    """Who has a device, and what each of those was answered who claimed it at once."""

    by: str
    answers: dict[str, int]


class Crew:
    """One device that fetches what it is to have, and others that are claimed, over and over."""

    def __init__(self, site: Site, port: int) -> None:
        self.site = site
        self.fetched: list[tuple[str, bool]] = []
        self.claims: list[Claims] = []
        self.versions: dict[str, str] = {}  # by SHA-256
        self.is_over = False
        self.chunks = 0
        self._door = f"http://127.0.0.1:{port}/api/v1/"
        self._hub = f"{site.url}/api/v1/edges/{EDGE}/"

    async def until_busy(self) -> None:
        at = self.chunks, len(self.claims)
        await until(lambda: self.chunks > at[0] and len(self.claims) > at[1])

    async def ask(
        self, method: str, url: str, body: Any = None, *, until: Callable[[int], bool]
    ) -> httpx2.Response:
        """Ask until there is an answer of a status that ends it."""
        async with httpx2.AsyncClient(timeout=20) as client:
            while True:
                try:
                    answer = await client.request(method, url, json=body)
                except httpx2.HTTPError:
                    await trio.sleep(0.05)
                    continue
                if until(answer.status_code):
                    return answer
                await trio.sleep(0.05)

    # -- firmware --------------------------------------------------------------------------------

    async def release(self, version: str) -> None:
        """Give the edge another file, and have the hub say that the device is to have it."""
        data = random.Random(version).randbytes(CHUNK_BYTES * CHUNKS - 7)
        path = self.site.edge_folder / "firmware" / "Valve" / version
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        self.versions[version] = hashlib.sha256(data).hexdigest()
        for old in list(self.versions)[:-3]:
            path.with_name(old).unlink(missing_ok=True)
        values = {
            "fw_title": "Valve", "fw_version": version, "fw_size": len(data),
            "fw_checksum": self.versions[version],
        }  # fmt: skip
        body = {"kind": "device", "entity": "D0", "scope": "shared", "set": values}
        await self.ask("POST", self._hub + "attributes", body, until=lambda code: code == 200)

    async def fetch(self) -> None:
        while not self.is_over:
            asked = "TOKEN0/attributes?sharedKeys=fw_version"
            answer = await self.ask("GET", self._door + asked, until=lambda code: code == 200)
            version = answer.json().get("shared", {}).get("fw_version")
            if version is None:
                await trio.sleep(0.05)
                continue
            data = b""
            for number in range(CHUNKS):
                asked = f"TOKEN0/firmware?title=Valve&version={version}&size={CHUNK_BYTES}"
                answer = await self.ask(
                    "GET", f"{self._door}{asked}&chunk={number}", until=lambda c: c in (200, 404)
                )
                if answer.status_code != 200:
                    break  # it is to have another by now
                data += answer.content
                self.chunks += 1
            else:
                digest = hashlib.sha256(data).hexdigest()
                self.fetched.append((version, digest == self.versions[version]))

    # -- claims ----------------------------------------------------------------------------------

    async def claim_all(self) -> None:
        for number in itertools.count():
            if self.is_over:
                return
            name = 1 + number % (DEVICES - 1)
            body = {"kind": "device", "entity": f"D{name}", "scope": "server"}
            freed = {**body, "delete": ["claimed"]}
            await self.ask("POST", self._hub + "attributes", freed, until=lambda c: c == 200)
            offer = {"secretKey": f"s{number}", "durationMs": 3_600_000}
            url = f"{self._door}TOKEN{name}/claim"
            await self.ask("POST", url, offer, until=lambda code: code == 200)
            answers: dict[str, int] = {}
            async with trio.open_nursery() as nursery:
                for by in CLAIMERS:
                    nursery.start_soon(self._claim, name, f"s{number}", by, answers)
            self.claims.append(Claims(await self._claimed(name), answers))

    async def _claim(self, name: int, secret: str, by: str, answers: dict[str, int]) -> None:
        body = {"kind": "device", "entity": f"D{name}", "secret": secret, "by": by}
        while True:
            answer = await self.ask(
                "POST", self._hub + "claim", body, until=lambda code: code in (200, 400, 409)
            )
            if answer.status_code != 400 or "claimed already" in answer.text:
                break  # else the offer has not come
            await trio.sleep(0.05)
        answers[by] = answer.status_code

    async def _claimed(self, name: int) -> str:
        url = f"{self._hub}attributes?kind=device&entity=D{name}"
        answer = await self.ask("GET", url, until=lambda code: code == 200)
        return str(answer.json()["server"]["claimed"]["value"]["by"])


async def open_door(site: Site) -> int:
    """Give the edge a door for HTTP devices; returns its port."""
    (port,) = free_ports(1)
    await site.kill("edge")
    credentials = site.edge_folder / "mqtt-devices.toml"
    credentials.write_text(CREDENTIALS)
    credentials.chmod(0o600)
    with (site.edge_folder / "edge.toml").open("a") as settings:
        settings.write(f"\n[device_http]\nport = {port}\n")
    await site.start_edge()
    return port


def versions() -> Iterator[str]:
    return (f"1.{n}" for n in range(1000))


@pytest.mark.slow
@pytest.mark.feature("S2", "S24", "S29")
@pytest.mark.timeout(900 + 8 * KILLS_EACH)
async def test_firmware_is_whole_and_a_device_is_claimed_once_over_kills(tmp_path: Path) -> None:
    async with open_site(tmp_path, seed=1, every="10s") as site:
        crew = Crew(site, await open_door(site))
        chance, releases = random.Random(KILLS_EACH), versions()
        await crew.release(next(releases))

        async def until_busy() -> None:
            await crew.until_busy()
            await crew.release(next(releases))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(crew.fetch)
            nursery.start_soon(crew.claim_all)
            kills = await kill_both(site, chance, KILLS_EACH, peace=2, until_busy=until_busy)
            newest = list(crew.versions)[-1]
            await until(lambda: bool(crew.claims) and (newest, True) in crew.fetched)
            crew.is_over = True
        assert all(is_whole for _, is_whole in crew.fetched), crew.fetched
    for one in crew.claims:
        # Whose answer was lost in a kill is told that it is claimed, by himself.
        assert {who for who, status in one.answers.items() if status == 200} <= {one.by}, one
    if KILLS_EACH > 20:
        print(f"{kills} kills: {len(crew.claims)} claims, {len(crew.fetched)} times the firmware")

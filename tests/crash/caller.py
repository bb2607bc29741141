"""Whoever works at the hub: calls devices, edits attributes and entities, and insists on each.

What the hub did not answer is asked for again, under the same id, until it is taken: so what is
expected of the site is known exactly, whenever the hub was killed.
"""

import json
import urllib.error
import urllib.request
from http.client import HTTPException
from random import Random
from typing import Any, NamedTuple

import trio

from edgesync.demo.site import EDGE, Site
from tests.crash.devices import KEYS

ABSENT = "Nobody"
# It acknowledges nothing: what was sent and not answered is open until its time has passed.
UNSURE = "Lamp"
ASSETS = 10
PAUSE_S = 0.02
AGAIN_S = 0.1
KEYS_AT_A_TIME = 500

Keys = dict[str, dict[str, str]]


class Made(NamedTuple):
    """A call that the hub has taken; `is_brief`: its time may pass before it is carried out."""

    id: str
    device: str
    one_way: bool
    is_brief: bool


class Caller:
    """Works until `is_over`; `calls` are in the order in which the hub took them."""

    def __init__(self, site: Site, devices: list[str], seed: int) -> None:
        self.calls: list[Made] = []
        self.shared: dict[str, dict[str, Any]] = {name: {} for name in devices}
        self.assets: dict[str, dict[str, Any]] = {}
        self.taken = 0
        self.is_over = False
        self._url = f"{site.url}/api/v1"
        self._devices = devices
        self._chance = Random(seed)

    async def run(self) -> None:
        while not self.is_over:
            await self._call()
            await self._edit_attribute()
            await self._edit_asset()
            await trio.sleep(PAUSE_S)

    async def _call(self) -> None:
        device = self._chance.choice([*self._devices, ABSENT])
        one_way = self._chance.random() < 0.3
        is_brief = device in (ABSENT, UNSURE) or self._chance.random() < 0.3
        made = Made(f"call{len(self.calls)}", device, one_way, is_brief)
        await self._insist("/rpc", {
            "device": device, "method": "note" if one_way else "do", "params": made.id,
            "one_way": one_way, "id": made.id, "ttl_s": 1 if is_brief else 7200,
        })  # fmt: skip
        self.calls.append(made)

    async def _edit_attribute(self) -> None:
        name, key = self._chance.choice(self._devices), self._chance.choice(KEYS)
        held = self.shared[name]
        asked: dict[str, Any] = {"entity": name, "scope": "shared"}
        if key in held and self._chance.random() < 0.3:
            await self._insist("/attributes", {**asked, "delete": [key]})
            del held[key]
        else:
            await self._insist("/attributes", {**asked, "set": {key: self.taken}})
            held[key] = self.taken - 1

    async def _edit_asset(self) -> None:
        name = f"asset {self._chance.randrange(ASSETS)}"
        asked: dict[str, Any] = {"entity": name, "kind": "asset"}
        if name in self.assets and self._chance.random() < 0.3:
            await self._insist("/entities/delete", asked)
            del self.assets[name]
        else:
            await self._insist("/entities", {**asked, "fields": {"edit": self.taken}})
            self.assets[name] = {"edit": self.taken - 1}

    async def _insist(self, path: str, body: dict[str, Any]) -> None:
        while not await trio.to_thread.run_sync(self._ask, path, body):  # noqa: ASYNC110
            await trio.sleep(AGAIN_S)
        self.taken += 1

    def _ask(self, path: str, body: dict[str, Any]) -> bool:
        try:
            post(f"{self._url}/edges/{EDGE}{path}", body)
        except urllib.error.HTTPError as error:
            if error.code < 500:
                raise
            return False
        except (OSError, HTTPException, ValueError):
            return False
        return True

    def keys(self) -> Keys:
        """Return the hub's keys of entities; raises OSError."""
        (listed,) = self._commands(["KEYS", "@/*"])
        found: Keys = {}
        for first in range(0, len(listed), KEYS_AT_A_TIME):
            some = listed[first : first + KEYS_AT_A_TIME]
            hashes = self._commands(*(["HGETALL", key] for key in some))
            found |= zip(some, hashes, strict=True)
        return found

    def _commands(self, *commands: list[str]) -> list[Any]:
        answer = post(f"{self._url}/keys/command", {"commands": commands})
        return [one["reply"] for one in answer["replies"]]


def post(url: str, body: dict[str, Any]) -> Any:
    asked = urllib.request.Request(
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(asked, timeout=10) as answer:
        return json.load(answer)

"""Requests that wait do not take the places of those that are answered at once."""

from typing import Any

import httpx2
import pytest
import trio
from msgspec import Raw

from edgesync.rpc.model import Report, State
from hubd.api import Context, connections
from hubd.api.connections import Waits
from hubd.api.errors import ApiError
from tests.hubd.serving import serve
from tests.sites import until

pytestmark = pytest.mark.feature("F24")


def test_half_of_all_connections_wait_and_half_of_those_for_one_tenant(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connections, "CONNECTIONS_MAX", 8)
    waits = Waits()
    with waits.place("acme", 1.0), waits.place("acme", 1.0):
        with pytest.raises(ApiError, match="2 requests wait"), waits.place("acme", 1.0):
            pass
        with (
            waits.place("acme", 0.0), waits.place(None, 1.0), waits.place(None, 1.0),
            pytest.raises(ApiError, match="0 requests wait"), waits.place("other", 1.0),
        ):  # fmt: skip
            pass
    with waits.place("acme", 1.0):
        pass


async def test_who_waits_beyond_that_is_told_and_others_are_answered(
    context: Context, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "CONNECTIONS_MAX", 8)
    url = await serve(context, nursery)
    assert context.rpc is not None
    found: list[int] = []

    async def ask(wait_s: int) -> httpx2.Response:
        async with httpx2.AsyncClient(timeout=60) as client:
            return await client.get(f"{url}/api/v1/rpc/basket", params={"wait_s": wait_s})

    async def wait() -> None:
        found.append((await ask(25)).status_code)

    with trio.fail_after(60):
        async with trio.open_nursery() as waiters:
            for _ in range(2):
                waiters.start_soon(wait)
            await until(lambda: context.waits.count == 2)
            full = await ask(25)
            assert (full.status_code, full.json()["field"]) == (503, "wait_s")
            assert (await ask(0)).json()["id"] == "basket"
            report: Any = Report(id="basket", state=State.ANSWERED, at_ns=1, answer=Raw(b"{}"))
            await context.rpc._store(1, [("acme", "barn", "scale", report)])
            await until(lambda: context.waits.count == 0)
    assert found == [200, 200]

"""How far an edge was told of the hub's keys, for programs and on its page."""

import httpx2
import pytest

from hubd.api import Context
from hubd.cells.answers import KeysShare
from tests.hubd.still import of_tenant

pytestmark = pytest.mark.feature("S21")


@pytest.mark.parametrize(
    ("share", "shown"), [(0.0, "0% told"), (0.254, "25% told"), (1.0, "all told")]
)
def test_what_an_edge_was_told_last_is_shown(
    client: httpx2.Client, context: Context, share: float, shown: str
) -> None:
    of_tenant(context, "default")
    assert client.get("/api/v1/edges/barn").json()["keys"] is None
    assert "it has not asked since the hub&#39;s start" in client.get("/edges/barn").text
    context.answers.shares["barn"] = KeysShare(share, context.now_ns() // 1_000_000 - 7_000)
    keys = client.get("/api/v1/edges/barn").json()["keys"]
    assert keys["share"] == share
    page = client.get("/edges/barn").text
    assert shown in page
    assert "asked 7 s ago" in page
    assert client.get("/api/v1/edges").json()["edges"][0]["keys"] is None

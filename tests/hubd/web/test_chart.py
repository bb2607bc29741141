"""The page of a chart: which series it draws, and what leads to others beside it."""

import json
import re
from collections.abc import Iterator
from html import unescape

import httpx2
import pytest
from starlette.testclient import TestClient

from hubd.api import Context, make_app

pytestmark = pytest.mark.feature("S26")

PAGE = "/edges/barn/chart"


@pytest.fixture
def client(context: Context) -> Iterator[httpx2.Client]:
    with TestClient(make_app(context), backend="trio") as client:
        yield client


def drawn(client: httpx2.Client, **asked: str | list[str]) -> list[str]:
    page = client.get(PAGE, params=asked)
    assert page.status_code == 200
    found = re.search(r'data-lines="([^"]*)"', page.text)
    return [one["series"] for one in json.loads(unescape(found[1]))] if found else []


def series(client: httpx2.Client, kind: str = "") -> list[dict[str, str]]:
    found = client.get("/api/v1/edges/barn/series").json()["series"]
    return [one for one in found if (one["type"] == "text") == (kind == "text")]


def test_series_are_drawn_beside_the_chosen_one_once_each(client: httpx2.Client) -> None:
    one, other, *_ = series(client)
    chosen = {"entity": one["entity"], "key": one["key"]}
    assert drawn(client, **chosen) == [one["series"]]
    both = [one["series"], other["series"]]
    assert drawn(client, **chosen, beside=[other["series"]]) == both
    assert drawn(client, **chosen, beside=[*both, *both[1:]]) == both


def test_what_cannot_be_drawn_is_left_out(client: httpx2.Client) -> None:
    one, *_ = series(client)
    chosen = {"entity": one["entity"], "key": one["key"]}
    assert drawn(client, **chosen, beside=["0" * 16]) == [one["series"]]
    for text in series(client, "text"):
        assert drawn(client, **chosen, beside=[text["series"]]) == [one["series"]]
    assert drawn(client, entity="nobody", key="nothing") == []
    assert "Choose a series" in client.get(PAGE).text


@pytest.mark.parametrize("beside", [["x"], ["0" * 15], [f"{n:016x}" for n in range(6)]])
def test_a_wrong_address_is_told(client: httpx2.Client, beside: list[str]) -> None:
    page = client.get(PAGE, params={"entity": "a", "key": "b", "beside": beside})
    assert (page.status_code, "beside" in page.text) == (400, True)

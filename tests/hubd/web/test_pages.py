"""Every page is in docs/dashboard.md, with a picture."""

import re
from pathlib import Path

import pytest
from starlette.routing import Route

from hubd.web.pages import Pages, page_routes

pytestmark = pytest.mark.feature("S26")

DOCS = Path(__file__).parents[3] / "docs"


def test_every_page_is_shown_with_a_picture() -> None:
    chapters = (DOCS / "dashboard.md").read_text().split("\n## ")[1:]
    shown = {path for one in chapters for path in re.findall(r"`(/[^`?]*)", one.splitlines()[0])}
    assert all("](images/" in one for one in chapters)

    def nobody(_: object) -> Pages:
        raise AssertionError("no page is asked for")

    routes = [one for one in page_routes(nobody) if isinstance(one, Route)]
    paths = [one.path for one in routes if one.methods and "GET" in one.methods]
    pages = {one.replace("{edge}", "EDGE") for one in paths if not one.startswith("/ui/")}
    assert pages | {"/login", "/account"} == shown


def test_every_picture_is_one_and_is_used() -> None:
    used = set(re.findall(r"images/([a-z-]+\.png)", (DOCS / "dashboard.md").read_text()))
    kept = {one.name: one.read_bytes() for one in (DOCS / "images").iterdir()}
    assert used == kept.keys()
    assert all(data.startswith(b"\x89PNG") for data in kept.values())

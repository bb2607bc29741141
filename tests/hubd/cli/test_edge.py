"""`hubd edge …`, beside a hub and an edge that run: each operation of docs/edges.md."""

import json
from pathlib import Path
from typing import Any

import click
import pytest

from hubd.cli import edge as edge_commands
from tests.terminal import open_terminal

pytestmark = [pytest.mark.feature("S28", "S9", "S7"), pytest.mark.slow]


def test_an_edge_is_made_changed_asked_to_sync_and_deleted(tmp_path: Path) -> None:
    with open_terminal(tmp_path) as terminal:
        terminal.start_hub()
        terminal.enrol()
        edge = terminal.start_edge()

        def out(*arguments: str) -> str:
            return terminal.out("hubd", "edge", *arguments)

        assert out("save", "barn-7", "--label", "Old Barn", "--site", "Hall 4") == (
            "barn-7 is changed\n"
        )
        made = terminal.json("hubd", "edge", "save", "till-9", "--type", "till", "--invite")
        assert made["is_new"]
        assert made["token"]
        assert out("assign", "barn-7", "Mill & Co") == "barn-7 is assigned to Mill & Co\n"
        assert "Old Barn\tHall 4\tMill & Co" in out("list", "--customer", "Mill & Co")
        assert out("list", "--site", "nowhere") == "no such edges\n"
        assert "label     Old Barn\n" in out("show", "barn-7")
        # The edge is asked, and answers.
        synced = terminal.json("hubd", "edge", "sync", "barn-7", "--wait", "25")
        assert synced["state"] == "ANSWERED", synced
        assert (synced["answer"]["compared"], synced["answer"]["differed"]) == (True, False)
        terminal.out("hubd", "edge", "tell", "barn-7", "none", '{"say": "hello"}')
        reading = {"key": "Forecast", "value": 12.5, "time_ns": 1_790_000_000 * 10**9, "unit": "W"}
        told = ("timeseries_updated", json.dumps({"readings": [reading]}), "--entity", "sun")
        assert out("tell", "barn-7", *told) == "TELEMETRY TIMESERIES_UPDATED sun\n"
        key = ("credentials_updated", '{"token": "a very long one"}', "--entity", "pump")
        terminal.out("hubd", "edge", "tell", "barn-7", *key)
        terminal.until(lambda: terminal.json("hubd", "downlink", "barn-7")["records"] == 0)
        customs = terminal.json("edgesync", "events", "--type", "CUSTOM")
        assert [json.loads(one["body"]) for one in customs] == [{"say": "hello"}]
        entities = terminal.json("edgesync", "events", "--type", "ENTITY")
        assert [(one["action"], one["entity"]) for one in entities] == [
            ("CREDENTIALS_UPDATED", "pump"), ("ASSIGNED_TO_CUSTOMER", "barn-7"),
        ]  # fmt: skip
        latest = {one["entity"]: one for one in terminal.json("edgesync", "latest")}
        assert (latest["sun"]["value"], latest["sun"]["unit"]) == (12.5, "W")
        # ... and the hub has them of the edge.
        terminal.out("edgesync", "sync", "--full", "--timeout", "100")
        assert out("missing", "barn-7") == "nothing is missing at barn-7\n"
        assert out("clean", "barn-7", "--older-than", "0") == "barn-7: 0 records given up\n"
        assert out("unassign", "barn-7") == "barn-7 is assigned to nobody\n"
        for arguments, reason in (
            (("sync", "nowhere"), "no edge 'nowhere'"),
            (("tell", "barn-7", "none", "[]"), "is no object"),
            (("tell", "barn-7", "none", "{"), "no JSON"),
            (("tell", "barn-7", "explode"), "'explode' is not known"),
        ):
            refused = terminal.run("hubd", "edge", *arguments)
            assert refused.returncode != 0
            assert reason in refused.stderr
        assert out("delete", "barn-7", "--yes").startswith("barn-7 is forgotten")
        assert [one["edge"] for one in terminal.json("hubd", "edges")] == ["till-9"]
        terminal.stop(edge)


def test_what_can_be_set_of_an_edge_can_be_cleared(tmp_path: Path) -> None:
    """Each option of `save` that has a value; a new one is to be listed here, too."""
    given = {"label": "Old Barn", "type": "barn", "site": "Hall 4", "prefix": "barn/"}
    options = {
        one.name for one in edge_commands.save.params if isinstance(one, click.Option)
    } - {"no_prefix", "invite", "as_json", "token", "tenant"}  # fmt: skip
    assert options == {"label", "type_", "site", "prefixes"}
    with open_terminal(tmp_path) as terminal:
        terminal.start_hub()

        def save(*arguments: str) -> dict[str, Any]:
            found: dict[str, Any] = terminal.json("hubd", "edge", "save", "till-9", *arguments)
            names = ("label", "type", "site", "prefixes")
            return {name: found[name] for name in names}

        whole = save(*(word for name, value in given.items() for word in (f"--{name}", value)))
        assert whole == {"label": "Old Barn", "type": "barn", "site": "Hall 4",
                         "prefixes": ["barn/"]}  # fmt: skip
        assert save() == whole
        for name in ("label", "type", "site"):
            whole[name] = ""
            assert save(f"--{name}", "") == whole
        assert save("--no-prefix") == {**whole, "prefixes": []}
        assert save("--prefix", "a/", "--prefix", "b/") == {**whole, "prefixes": ["a/", "b/"]}
        assert save("--prefix", "") == {**whole, "prefixes": []}
        refused = terminal.run("hubd", "edge", "save", "till-9", "--prefix", "a/", "--no-prefix")
        assert refused.returncode != 0
        assert "or --no-prefix" in refused.stderr

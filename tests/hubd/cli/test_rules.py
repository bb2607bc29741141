"""`hubd rules`: chains are kept and assigned beside a hub, whether or not it runs."""

import json
from pathlib import Path

import pytest

from edgesync.cli.program import EX_CONFIG
from edgesync.rules.defaults import default_chain
from tests.edgesync.rules.chains import Node, exported
from tests.terminal import open_terminal

pytestmark = pytest.mark.feature("S18")

MAIL: Node = ("mail.TbSendEmailNode", "Mail", {})


def test_a_folder_is_kept_listed_shown_and_assigned(tmp_path: Path) -> None:
    folder = tmp_path / "cold-room"
    folder.mkdir()
    (folder / "root.json").write_bytes(default_chain())
    with open_terminal(tmp_path) as terminal:
        terminal.out("hubd", "init")
        for edge in ("barn", "shed"):
            terminal.out("hubd", "enroll", edge)
        told = terminal.out("hubd", "rules", "upload", str(folder))
        assert "cold-room 1 is kept: 1 chains" in told
        assert terminal.json("hubd", "rules", "upload", str(folder))["version"] == 1
        assert "is for barn, shed" in terminal.out(
            "hubd", "rules", "assign", "cold-room", "barn", "shed"
        )
        (found,) = terminal.json("hubd", "rules", "list")
        assert (found["name"], found["version"], found["edges"]) == (
            "cold-room",
            1,
            ["barn", "shed"],
        )
        assert "cold-room 1: " in terminal.out("hubd", "rules", "list")
        assert "edges        barn, shed" in terminal.out("hubd", "rules", "show", "cold-room")
        shown = ("hubd", "rules", "show", "cold-room", "--to", str(tmp_path / "back"))
        assert terminal.json(*shown)["facts"]["root"] == "Edge Root Rule Chain"
        assert (tmp_path / "back" / "root.json").read_bytes() == default_chain()
        assert "now: barn, shed" in terminal.out("hubd", "rules", "unassign", "barn", "shed")
        assert "forgotten, 1 versions" in terminal.out("hubd", "rules", "remove", "cold-room")
        assert terminal.json("hubd", "rules", "list") == []


def test_mistakes_are_told_at_once_with_their_file(tmp_path: Path) -> None:
    chain = tmp_path / "cold.json"
    chain.write_bytes(exported([MAIL, ("no.SuchNode", "What", {})]))
    broken = tmp_path / "broken.json"
    broken.write_bytes(b"\xff{}")
    with open_terminal(tmp_path) as terminal:
        terminal.out("hubd", "init")
        refused = terminal.run("hubd", "rules", "upload", str(chain))
        assert refused.returncode == EX_CONFIG
        for told in ("nothing is kept", "cold.json", "'Mail' is a mail.TbSendEmailNode", "'What'"):
            assert told in refused.stderr
        as_json = terminal.run("hubd", "rules", "upload", str(chain), "--json")
        assert [one["file"] for one in json.loads(as_json.stdout)["mistakes"]] == ["cold.json"] * 2
        for arguments, said in (
            (("upload", str(broken)), "broken.json: (file): is not UTF-8"),
            (("upload", str(chain), "--name", "a b"), "letters, digits"),
            (("assign", "cold", "barn"), "no bundle 'cold'"),
            (("show", "cold"), "no bundle 'cold'"),
            (("unassign", "nowhere"), "no edge nowhere"),
            (("remove", "cold"), "no bundle 'cold'"),
        ):
            wrong = terminal.run("hubd", "rules", *arguments)
            assert wrong.returncode != 0
            assert said in wrong.stderr, arguments


@pytest.mark.slow
def test_a_running_hub_tells_what_an_edge_runs_and_tries_chains_out(tmp_path: Path) -> None:
    (tmp_path / "cold.json").write_bytes(default_chain())
    with open_terminal(tmp_path) as terminal:
        hub = terminal.start_hub()
        terminal.enrol()
        terminal.out("hubd", "rules", "upload", str(tmp_path / "cold.json"))
        assert "has no chains of the hub" in terminal.out("hubd", "rules", "status", "barn-7")
        terminal.out("hubd", "rules", "assign", "cold", "barn-7")
        assert "has not told that it has cold 1" in terminal.out(
            "hubd", "rules", "status", "barn-7"
        )
        edge = terminal.start_edge()
        terminal.until(
            lambda: terminal.json("hubd", "rules", "status", "barn-7")["state"] == "running"
        )
        assert "runs cold 1" in terminal.out("hubd", "rules", "status", "barn-7")
        run = ("hubd", "rules", "run", "cold", "--edge", "barn-7")
        told = terminal.out(*run, "--message", '{"t": 7}', "--entity", "DEVICE:tank")
        assert "Edge Root Rule Chain / Save Timeseries: Success" in told
        assert terminal.json(*run, "--message", '{"t": 7}')["version"] == 1
        for arguments, said in (
            ((*run, "--message", "{"), "no JSON"),
            ((*run,), "has sent no readings of 'device'"),
            (("hubd", "rules", "run", "none", "--edge", "barn-7", "--message", "1"), "no bundle"),
            (("hubd", "rules", "status", "nowhere"), "no edge 'nowhere'"),
        ):
            wrong = terminal.run(*arguments)
            assert wrong.returncode != 0
            assert said in wrong.stderr, arguments
        assert terminal.stop(edge) == terminal.stop(hub) == 0

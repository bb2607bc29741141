"""`hubd object` and `edgesync objects`: kept, assigned, fetched and shown by commands."""

import json
from pathlib import Path

import pytest

from tests.terminal import open_terminal

pytestmark = pytest.mark.feature("S22")


def test_an_object_is_kept_listed_read_back_assigned_and_forgotten(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(b"weights" * 100)
    with open_terminal(tmp_path) as terminal:
        terminal.out("hubd", "init")
        for edge in ("barn", "shed"):
            terminal.out("hubd", "enroll", edge)
        told = terminal.out("hubd", "object", "put", str(file))
        assert ("model.onnx is kept: 700 bytes" in told, "no edge yet" in told) == (True, True)
        assert terminal.json("hubd", "object", "put", str(file), "--name", "model")["size"] == 700
        assert "is for barn, shed" in terminal.out("hubd", "object", "assign", "model", "--all")
        spaced = file.with_name("my model")
        spaced.write_bytes(b"x")
        assert "say --name" in terminal.run("hubd", "object", "put", str(spaced)).stderr
        listed = {one["name"]: one["edges"] for one in terminal.json("hubd", "object", "list")}
        assert listed == {"model": ["barn", "shed"], "model.onnx": []}
        assert "model: 700 bytes" in terminal.out("hubd", "object", "list")
        terminal.out("hubd", "object", "get", "model", "--to", str(tmp_path / "back"))
        assert (tmp_path / "back").read_bytes() == file.read_bytes()
        refused = terminal.run("hubd", "object", "remove", "model")
        assert (refused.returncode != 0, "unassign" in refused.stderr) == (True, True)
        assert "removed at barn, shed" in terminal.out(
            "hubd", "object", "unassign", "model", "--all"
        )
        assert "forgotten" in terminal.out("hubd", "object", "remove", "model")
        for wrong in (["assign", "model.onnx"], ["assign", "model.onnx", "barn", "--all"]):
            assert "--all" in terminal.run("hubd", "object", *wrong).stderr
        unknown = terminal.run("hubd", "object", "assign", "nothing", "barn")
        assert "hubd object list" in unknown.stderr


def test_what_is_damaged_at_the_hub_takes_the_place_of_no_file(tmp_path: Path) -> None:
    file, back = tmp_path / "model", tmp_path / "back"
    file.write_bytes(b"weights" * 100)
    back.write_bytes(b"the one before")
    with open_terminal(tmp_path) as terminal:
        terminal.out("hubd", "init")
        made = terminal.json("hubd", "object", "put", str(file))
        (kept,) = tmp_path.rglob(made["sha256"])
        kept.write_bytes(b"weights" * 50)
        found = terminal.run("hubd", "object", "get", "model", "--to", str(back))
        assert (found.returncode != 0, "damaged" in found.stderr) == (True, True)
        assert back.read_bytes() == b"the one before"
        assert not list(tmp_path.glob("back.*"))


@pytest.mark.slow
def test_both_ends_show_an_object_with_and_without_their_daemons(tmp_path: Path) -> None:
    file = tmp_path / "model"
    file.write_bytes(b"weights" * 100)
    with open_terminal(tmp_path) as terminal:
        terminal.start_hub()
        terminal.enrol()
        edge = terminal.start_edge()
        terminal.out("hubd", "object", "put", str(file))
        terminal.out("hubd", "object", "assign", "model", "--all")
        terminal.until(
            lambda: (
                terminal.json("edgesync", "objects", "list")["objects"] != []
                and terminal.json("edgesync", "objects", "show", "model")["standing"] == "held"
            )
        )
        name = terminal.json("hubd", "edges")[0]["edge"]
        terminal.until(lambda: "model: held" in terminal.out("hubd", "object", "status", name))
        assert "1 of 1 held" in terminal.out("edgesync", "status")
        terminal.stop(edge)
        path = terminal.out("edgesync", "objects", "show", "model", "--path").strip()
        assert Path(path).read_bytes() == file.read_bytes()
        assert "model: held, 700 of 700 bytes" in terminal.out("edgesync", "objects", "list")
        missing = terminal.run("edgesync", "objects", "show", "nothing", "--json")
        assert "no object 'nothing' here" in json.loads(missing.stdout)["error"]

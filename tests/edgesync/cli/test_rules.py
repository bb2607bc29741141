"""`edgesync rules`: chains checked and tried out, for people and for programs."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from edgesync.cli import main
from edgesync.rules.defaults import default_chain
from tests.edgesync.rules.chains import exported


def edgesync(*words: str) -> Result:
    return CliRunner().invoke(main, ["rules", *words], catch_exceptions=False)


def answer(*words: str, code: int = 0) -> Any:
    done = edgesync(*words, "--json")
    assert done.exit_code == code, done.output
    return json.loads(done.stdout)


@pytest.fixture
def chain(tmp_path: Path) -> str:
    warm = ("filter.TbJsFilterNode", "Warm", {"jsScript": "var t = msg.t; return t > 5;"})
    raising = ("action.TbCreateAlarmNode", "Raise", {"alarmType": "Hot", "severity": "MAJOR"})
    get = ("metadata.TbGetAttributesNode", "Limit", {"sharedAttributeNames": ["limit"]})
    delay = ("delay.TbMsgDelayNode", "Later", {"periodInSeconds": 60})
    path = tmp_path / "chain.json"
    wires = [(0, 1, "True"), (0, 2, "False"), (2, 3, "Success")]
    path.write_bytes(exported([warm, raising, get, delay], wires))
    return str(path)


def test_a_good_chain_is_said_to_be_good(chain: str) -> None:
    assert answer("check", chain) == {
        "root": "Root", "chains": ["Root"], "nodes": 4, "scripts_in_worker": 1,
        "profiles": [], "doubts": [],
    }  # fmt: skip
    assert "is good: 1 chains, 4 nodes" in edgesync("check", chain).output


def test_all_mistakes_are_told_and_the_exit_code_says_so(tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    path.write_bytes(exported([("made.up.Node", "A", {}), ("mail.TbSendEmailNode", "B", {})]))
    told = answer("check", str(path), code=78)
    assert [one["field"] for one in told["mistakes"]] == [
        "metadata.nodes[0].type", "metadata.nodes[1].type",
    ]  # fmt: skip
    assert len(edgesync("check", str(path)).stderr.splitlines()) == 2
    path.write_bytes(exported([("filter.TbJsFilterNode", "B", {"jsScript": "(("})]))
    told = answer("check", str(path), code=78)
    assert told["field"] == "B (filter.TbJsFilterNode)"
    assert "SyntaxError" in told["problem"]


def test_a_message_shows_what_each_node_makes_of_it(chain: str) -> None:
    told = answer("run", chain, "--message", '{"t": 7}', "--entity", "DEVICE:tank")
    assert [(one["node"], [out["relation"] for out in one["outs"]]) for one in told["visits"]] == [
        ("Warm", ["True"]), ("Raise", ["Created"]),
    ]  # fmt: skip
    assert told["effects"][0]["alarm"]["originatorName"] == "tank"
    assert told["effects"][0]["lane"] == "critical"
    output = edgesync("run", chain, "--message", '{"t": 7}').output
    assert output.startswith("Root / Warm: True\nRoot / Raise: Created\n    {")
    assert "has no shared attribute" in edgesync("run", chain, "--message", '{"t": 1}').output


def test_attributes_metadata_and_time_are_given(chain: str) -> None:
    words = ["--message", '{"t": 1}', "--attribute", "shared.limit=5", "--metadata", "a=b"]
    told = answer("run", chain, *words, "--wait", "60")
    limit = next(one for one in told["visits"] if one["node"] == "Limit")
    assert limit["outs"][0]["metadata"]["shared_limit"] == "5"
    assert limit["outs"][0]["metadata"]["a"] == "b"
    for wrong in (["--entity", "x"], ["--attribute", "x=1"], ["--message", "{"]):
        assert edgesync("run", chain, "--message", "{}", *wrong).exit_code == 2


def test_the_default_chain_and_the_nodes_are_printed() -> None:
    assert edgesync("default").stdout_bytes.rstrip(b"\n") == default_chain()
    types = {one["type"]: one["relations"] for one in answer("nodes")}
    assert types["filter.TbJsFilterNode"] == ["False", "True"]
    assert "edgesync.WindowNode" in edgesync("nodes").output

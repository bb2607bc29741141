"""Exports: three generations, three shapes, every mistake at once, and nothing lost on the way."""

import json
from typing import Any

import pytest

from edgesync.errors import ConfigError, ConfigErrors
from edgesync.rules.defaults import NAME, default_chain
from edgesync.rules.read import export, read_chains
from tests.edgesync.rules.chains import Node, exported, loaded

FILTER = "filter.TbJsFilterNode"
TRUE = {"jsScript": "return true;"}
LOG = ("action.TbLogNode", "Log", {"jsScript": "return 'x';"})


def problems(error: ConfigError) -> dict[str, str]:
    """Return field → problem and remedy of all mistakes."""
    mistakes = error.mistakes if isinstance(error, ConfigErrors) else [error]
    return {one.field: f"{one.problem}; {one.remedy}" for one in mistakes}


def refused(raw: bytes | Any, **options: Any) -> dict[str, str]:
    with pytest.raises(ConfigError) as raised:
        loaded(raw if isinstance(raw, bytes) else json.dumps(raw).encode(), **options)
    return problems(raised.value)


@pytest.mark.parametrize("id_", ["\ud800", "a\0b", "", "x" * 256, None, 5])
def test_an_id_that_is_no_name_counts_as_none(id_: Any) -> None:
    """Nodes are told of and kept by their ids, chains are found by theirs."""
    raw = json.loads(exported([LOG], id={"id": id_}))
    raw["metadata"]["ruleChainId"] = {"id": id_}
    raw["metadata"]["nodes"][0] |= {"id": {"id": id_}, "externalId": {"id": id_}}
    (chain,) = read_chains(json.dumps(raw).encode(), "x")
    assert (chain.ids, chain.nodes[0].id) == ((), "Log")


@pytest.mark.feature("S18")
def test_the_default_chain_is_written_back_byte_for_byte() -> None:
    raw = default_chain()
    (chain,) = read_chains(raw, "root.json")
    assert (chain.name, chain.is_root, chain.first) == (NAME, True, 0)
    assert export(chain) == raw
    assert loaded(raw).doubts == ()


def test_fields_that_mean_nothing_here_are_written_back_in_their_order() -> None:
    raw = json.loads(exported([LOG]))
    raw["zzz"] = {"later": [1, 2.5, None, "ä\u2028"]}
    raw["metadata"]["nodes"][0]["configurationVersion"] = 3
    raw["ruleChain"] = {"futureField": True, **raw["ruleChain"]}
    text = json.dumps(raw, indent=2, ensure_ascii=False).encode()
    (chain,) = read_chains(text, "x")
    assert export(chain) == text


@pytest.mark.parametrize(
    "configuration",
    [
        {"jsScript": "return msg.t > 5;"},
        {"scriptLang": "JS", "jsScript": "return msg.t > 5;", "tbelScript": "broken("},
        {"scriptLang": "TBEL", "jsScript": "broken(", "tbelScript": "msg.t > 5"},
    ],
)
def test_a_script_is_read_in_each_generation(configuration: dict[str, Any]) -> None:
    assert loaded(exported([(FILTER, "Warm", configuration)])).scripts == ()


def test_chains_of_a_tenant_and_of_version_control_are_read() -> None:
    one = json.loads(exported([LOG], name="One"))
    two = json.loads(exported([LOG], name="Two", is_root=False))
    tenant = {
        "ruleChains": [one["ruleChain"], {**two["ruleChain"], "id": {"id": "b"}}],
        "metadata": [{**two["metadata"], "ruleChainId": {"id": "b"}}, one["metadata"]],
    }
    tenant["metadata"].reverse()
    assert [chain.name for chain in read_chains(json.dumps(tenant).encode(), "x")] == ["One", "Two"]
    versioned = {
        "entityType": "RULE_CHAIN",
        "entity": one["ruleChain"],
        "metaData": one["metadata"],
    }
    assert read_chains(json.dumps(versioned).encode(), "x")[0].name == "One"


def test_all_mistakes_of_a_chain_are_told_at_once_with_field_and_remedy() -> None:
    raw = json.loads(exported([LOG, LOG], [(0, 1, "Success")]))
    raw["ruleChain"]["name"] = 7
    raw["metadata"]["firstNodeIndex"] = 9
    raw["metadata"]["nodes"].append({"name": "x" * 300, "configuration": []})
    raw["metadata"]["connections"] += [{"fromIndex": 0, "toIndex": -1, "type": ""}, "no"]
    assert refused(raw) == {
        "ruleChain.name": "is 7; a text of 1 to 255 characters is needed",
        "metadata.firstNodeIndex": "is 9; a node is needed: 0 to 2",
        "metadata.nodes[2].type": "is missing; a text of 1 to 255 characters is needed",
        "metadata.nodes[2].name": f'is "{"x" * 56}...; a text of 1 to 255 characters is needed',
        "metadata.nodes[2].configuration": "is []; an object is needed",
        "metadata.connections[1].toIndex": "is -1; a node is needed: 0 to 2",
        "metadata.connections[1].type": 'is ""; a text of 1 to 255 characters is needed',
        "metadata.connections[2]": 'is "no"; an object is needed',
        "metadata.connections[2].fromIndex": "is missing; a node is needed: 0 to 2",
        "metadata.connections[2].toIndex": "is missing; a node is needed: 0 to 2",
        "metadata.connections[2].type": "is missing; a text of 1 to 255 characters is needed",
    }


def test_all_mistakes_of_nodes_are_told_at_once() -> None:
    found = refused(
        exported(
            [
                (FILTER, "Warm", TRUE),
                ("filter.TbMsgTypeFilterNode", "Kind", {}),
                ("mail.TbMsgToEmailNode", "Mail", {}),
                ("made.up.Node", "Odd", {}),
                ("action.TbCreateAlarmNode", "Raise", {"severity": "BAD", "alarmType": "x"}),
                ("telemetry.TbMsgAttributesNode", "Save", {"scope": 5, "notifyDevice": "perhaps"}),
                ("flow.TbRuleChainInputNode", "Elsewhere", {"ruleChainId": "0-1"}),
                (FILTER, "Empty", {"scriptLang": "TBEL", "jsScript": "return true;"}),
            ],
            [(0, 1, "Success"), (0, 4, "true"), (4, 0, "Created")],
        )
    )
    assert found.keys() == {
        "metadata.connections[0].type",
        "metadata.connections",
        *(f"metadata.nodes[{at}].type" for at in (2, 3)),
        *(f"metadata.nodes[{at}].configuration" for at in (4, 7)),
        "metadata.nodes[1].configuration.messageTypes",
        "metadata.nodes[5].configuration.scope",
        "metadata.nodes[5].configuration.notifyDevice",
        "metadata.nodes[6].configuration.ruleChainId",
    }
    assert "by which no message leaves 'Warm'" in found["metadata.connections[0].type"]
    assert "one of Failure, False, True" in found["metadata.connections[0].type"]
    assert "Warm → Raise → Warm" in found["metadata.connections"]
    assert "push an alarm instead" in found["metadata.nodes[2].type"]
    assert "edgesync rules nodes" in found["metadata.nodes[3].type"]
    assert "CRITICAL, MAJOR" in found["metadata.nodes[4].configuration"]
    assert "'Elsewhere'" in found["metadata.nodes[6].configuration.ruleChainId"]
    assert "tbelScript is empty" in found["metadata.nodes[7].configuration"]


def test_a_script_that_needs_the_worker_is_named_with_the_remedy() -> None:
    looping = {"jsScript": "for (;;) {} return true;"}
    found = refused(exported([(FILTER, "Warm", looping)]))
    assert "'Warm'" in found["metadata.nodes[0].configuration"]
    assert "pip install 'edgesync[scripts]'" in found["metadata.nodes[0].configuration"]
    assert len(loaded(exported([(FILTER, "Warm", looping)]), has_worker=True).scripts) == 1


def test_chains_that_lead_in_a_circle_are_refused() -> None:
    there: Node = ("flow.TbRuleChainInputNode", "Two", {})
    back: Node = ("flow.TbRuleChainInputNode", "One", {})
    with pytest.raises(ConfigError) as raised:
        loaded(exported([there], name="One"), exported([back], name="Two", is_root=False))
    assert "One → Two → One" in str(raised.value)
    with pytest.raises(ConfigError, match="lead in a circle: Log → Log"):
        loaded(exported([LOG], [(0, 0, "Success")]))


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@pytest.mark.parametrize("is_bundle", [True, False])
def test_chains_find_each_other_in_any_order(order: tuple[int, int], is_bundle: bool) -> None:
    """Of a bundle or of two files; one that is not there is named."""
    there: Node = ("flow.TbRuleChainInputNode", "To B", {"ruleChainId": "b"})
    files = [
        exported([there, LOG], [(0, 1, "Done")], name="A", id={"id": "a"}),
        exported([("flow.TbRuleChainOutputNode", "Done", {})], name="B", is_root=False,
                 id={"id": "b"}),
    ]  # fmt: skip
    found = [json.loads(files[at]) for at in order]
    bundle = {
        "ruleChains": [one["ruleChain"] for one in found],
        "metadata": [
            {**one["metadata"], "ruleChainId": one["ruleChain"]["id"]} for one in reversed(found)
        ],
    }
    given = [json.dumps(bundle).encode()] if is_bundle else [files[at] for at in order]
    chains = loaded(*given).chains
    assert (chains.root, list(chains.inputs.values())) == ("A", ["B"])
    assert refused(files[0])["metadata.nodes[0].configuration.ruleChainId"].count("'To B'") == 1


def test_which_chain_is_the_root_must_be_clear() -> None:
    two = [exported([LOG], name=name) for name in ("A", "B")]
    with pytest.raises(ConfigError, match="name it as root"):
        loaded(*two)
    assert loaded(*two, root="B").chains.root == "B"
    with pytest.raises(ConfigError, match="one of A, B"):
        loaded(*two, root="C")


def test_nodes_that_no_message_reaches_are_doubtful_not_wrong() -> None:
    assert loaded(exported([LOG, LOG])).doubts == ("Root / Log: no message gets there",)


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        (b"", "is not JSON"),
        (b"\xff\xfe", "is not UTF-8"),
        (b"[]", "is no export"),
        (b'{"ruleChain": NaN}', "is not JSON"),
        (b"[" * 200_000, "is nested too deeply"),
        (b" " * (1 << 21), "bytes"),
    ],
)
def test_what_is_no_export_is_refused_in_a_sentence(raw: bytes, problem: str) -> None:
    (text,) = refused(raw).values()
    assert problem in text


def test_sizes_are_limited() -> None:
    assert "at most 500" in refused(exported([LOG] * 501))["metadata.nodes"]
    many = exported([LOG, LOG], [(0, 1, "Success")] * 5001)
    assert "at most 5000" in refused(many)["metadata.connections"]

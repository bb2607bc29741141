"""Calls between chains and devices, in a node."""

import json
from pathlib import Path
from typing import Any

import pytest
import trio

from edgesync import EventType
from edgesync.rpc.model import TTL_S_MAX
from edgesync.rules.message import CALL_TO_DEVICE, device_message
from edgesync.serve.devices.calls import answer_of
from edgesync.serve.devices.thingsboard import DeviceCall
from tests.edgesync.rules.chains import START_NS, Node, exported
from tests.edgesync.rules.test_part import PUSH, counted, opened, reading, rules_of, site, told
from tests.sites import until

CALL: Node = ("rpc.TbSendRPCRequestNode", "Call", {"timeoutInSeconds": 60})
LOG: Node = ("action.TbLogNode", "Failed", {"jsScript": "return metadata.error;"})
TO_RPC: Node = (
    "transform.TbTransformMsgNode", "To RPC",
    {"jsScript": "return {msg: {method: 'fan', params: {on: msg.t > 5}}, metadata, msgType};"},
)  # fmt: skip
CALLING = exported(
    [TO_RPC, CALL, PUSH, LOG], [(0, 1, "Success"), (1, 2, "Success"), (1, 3, "Failure")]
)


@pytest.mark.feature("S18")
async def test_a_chain_calls_a_device_and_goes_on_with_its_answer(tmp_path: Path) -> None:
    async with opened(tmp_path, site(tmp_path, CALLING)) as node:
        await node.ingest([reading("t", 7, entity="d1")])
        async with node.part("rpc").serve("d1") as calls:  # it was away, and the call has waited
            call = await calls.__anext__()
            assert (call.method, call.params) == ("fan", {"on": True})
            await call.answer({"speed": 3})
            await until(lambda: bool(node.latest()))
            assert [(one.entity, one.key, one.value) for one in node.latest()] == [
                ("d1", "speed", 3)
            ]
            await node.ingest([reading("t", 3, entity="d1")])
            call = await calls.__anext__()
            await call.fail("stuck")
            await until(lambda: counted(node, "Failed") == 1)
        # The hub is told nothing of calls that it has not made.
        assert told(node, EventType.RPC_RESPONSE) == []
        assert "stuck" in rules_of(node).nodes[1].last_error


async def test_a_call_that_nobody_takes_leaves_by_failure_when_its_time_has_passed(
    tmp_path: Path,
) -> None:
    chain = exported([CALL, LOG], [(0, 1, "Failure")])
    async with opened(tmp_path, site(tmp_path, chain)) as node:
        data = {"method": "fan", "params": 1, "timeout": 300}
        await node.part("rules").send([device_message(CALL_TO_DEVICE, "d1", data, START_NS)])
        await until(lambda: counted(node, "Failed") == 1)


async def test_a_call_of_a_device_is_answered_by_a_chain(tmp_path: Path) -> None:
    nodes: list[Node] = [
        ("filter.TbMsgTypeSwitchNode", "Switch", {}),
        ("filter.TbJsFilterNode", "Known", {"jsScript": "return msg.method == 'getLimit';"}),
        ("transform.TbTransformMsgNode", "Limit",
         {"jsScript": "return {msg: {limit: msg.params.of + 1}, metadata, msgType};"}),
        ("rpc.TbSendRPCReplyNode", "Reply", {"requestIdMetaDataAttribute": "requestId"}),
    ]  # fmt: skip
    wires = [(0, 1, "RPC Request from Device"), (1, 2, "True"), (2, 3, "Success")]
    settings = site(tmp_path, exported(nodes, wires))
    settings["mqtt"] = {"port": 1}  # so that devices may call; not served here
    async with opened(tmp_path, settings) as node:
        rpc: Any = node.part("rpc")
        assert rpc.answers("getLimit")
        assert await rpc.call("d1", "getLimit", {"of": 4}) == {"limit": 5}
        with trio.move_on_after(0.3) as scope:
            await rpc.call("d1", "getNothing", {})
        assert scope.cancelled_caught
        assert rules_of(node).unhandled == 0
    settings = {**site(tmp_path, exported([LOG])), "mqtt": {"port": 1}}
    async with opened(tmp_path, settings) as node:
        with pytest.raises(LookupError, match="nobody answers 'getLimit'"):
            await node.part("rpc").call("d1", "getLimit", {})
        assert counted(node, "Failed") == 1


async def test_a_device_is_answered_by_chains_while_there_are_some(tmp_path: Path) -> None:
    """An edge from which the hub takes its chains says that nobody answers."""
    settings = {**site(tmp_path, exported([LOG])), "mqtt": {"port": 1}}
    async with opened(tmp_path, settings) as node:
        rules: Any = node.part("rules")
        rpc: Any = node.part("rpc")
        call = DeviceCall("d1", "getLimit", {}, "topic")
        for chains in (rules._read(rules._place), None) * 2:
            await rules.swap(chains)
            answer = await answer_of(rpc, call)
            assert json.loads(answer) == {"error": "nobody answers 'getLimit' at this edge"}


@pytest.mark.parametrize(
    "data",
    [
        {"method": "fan", "params": "\ud800"},
        {"method": "fan", "params": {"deep": ["\udfff"]}},
        {"method": "fan", "params": "x" * 100_000},
        {"method": "\ud800", "params": 1},
    ],
)
async def test_a_call_that_cannot_be_made_leaves_by_failure(tmp_path: Path, data: Any) -> None:
    chain = exported([CALL, LOG], [(0, 1, "Failure")])
    async with opened(tmp_path, site(tmp_path, chain)) as node:
        await node.part("rules").send([device_message(CALL_TO_DEVICE, "d1", data, START_NS)])
        await until(lambda: counted(node, "Failed") == 1)


@pytest.mark.parametrize("timeout", [1e300, 10**15, -5, 1e-300])
async def test_a_call_waits_a_week_at_most(tmp_path: Path, timeout: float) -> None:
    async with opened(tmp_path, site(tmp_path, exported([CALL]))) as node:
        data = {"method": "fan", "params": 1, "timeout": timeout}
        await node.part("rules").send([device_message(CALL_TO_DEVICE, "d1", data, START_NS)])
        rpc = node.part("rpc")
        await until(lambda: len(rpc.queue) == 1)
        assert rpc.queue.due_ns() - rpc.now_ns() <= TTL_S_MAX * 10**9

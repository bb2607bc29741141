"""Nodes that lead from one chain into another, and out again.   [sans-IO]

The engine carries messages across; these say where to.
"""

from typing import Any

from edgesync.rules.message import Message
from edgesync.rules.node import Node, NodeConfig, Outs, Place, Step, success
from edgesync.rules.scripts.script import Scripts


class ChainInputConfig(NodeConfig, frozen=True, kw_only=True):
    rule_chain_id: str | None = None


class ChainInput(Node):
    """Goes on in another chain; what that one lets out leaves here, by the label it gave."""

    node_type = "flow.TbRuleChainInputNode"
    config = ChainInputConfig
    relations = None

    def __init__(self, place: Place, config: ChainInputConfig, scripts: Scripts) -> None:
        super().__init__(place, config, scripts)
        self.chain = config.rule_chain_id or ""

    def process(self, message: Message, step: Step) -> Outs:
        raise AssertionError("the engine goes on in the other chain")


class ChainOutput(Node):
    """Leaves this chain by the node's own name."""

    node_type = "flow.TbRuleChainOutputNode"

    def process(self, message: Message, step: Step) -> Outs:
        raise AssertionError("the engine goes back to the chain before")


class Pass(Node):
    """Lets everything through: for nodes whose job is done otherwise here."""

    def process(self, message: Message, step: Step) -> Outs:
        return success(message)


class Acknowledge(Pass):
    """A message is acknowledged when all its effects are stored, not earlier."""

    node_type = "flow.TbAckNode"

    @classmethod
    def doubts(cls, config: Any) -> list[str]:
        return ["acknowledges nothing early: a message is acknowledged once all of it is stored"]


class Checkpoint(Pass):
    """There is one queue here, and it is in order."""

    node_type = "flow.TbCheckpointNode"


NODES = (ChainInput, ChainOutput, Acknowledge, Checkpoint)

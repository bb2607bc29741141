"""All node types: those that run here, and those of which is known why they do not.   [sans-IO]"""

import re
from collections.abc import Mapping
from typing import Final

from edgesync.rules.node import Node
from edgesync.rules.nodes import (
    actions,
    alarms,
    enrich,
    filters,
    flow,
    profile,
    rest,
    shaping,
    timing,
    transforms,
)

ROOMS: Final = (filters, transforms, enrich, actions, alarms, profile, rest, flow, timing, shaping)
NODES: Final[Mapping[str, type[Node]]] = {
    node.node_type: node for room in ROOMS for node in room.NODES
}

# Names that a type had in some version, and what it is called now.
RENAMED: Final[Mapping[str, str]] = {
    "metadata.TbGetRelatedAttrNode": "metadata.TbGetRelatedAttributeNode",
    "rpc.TbSendRpcReplyNode": "rpc.TbSendRPCReplyNode",
    "rpc.TbSendRpcRequestNode": "rpc.TbSendRPCRequestNode",
    "flow.TbRuleChainNode": "flow.TbRuleChainInputNode",
    "telemetry.TbMsgDeleteAttributes": "telemetry.TbMsgDeleteAttributesNode",
}

_CLOUD: Final = "belongs into a chain of the hub"
_BROKER: Final = "sends to a service in the cloud; let the hub do it"
# Known types that an edge does not run, and what to do instead.
REFUSED: Final[Mapping[str, str]] = {
    "metadata.TbGetCustomerAttributeNode": f"an edge knows no customers: it {_CLOUD}",
    "metadata.TbGetCustomerDetailsNode": f"an edge knows no customers: it {_CLOUD}",
    "metadata.TbGetTenantAttributeNode": f"an edge knows nothing of its tenant: it {_CLOUD}",
    "metadata.TbGetTenantDetailsNode": f"an edge knows nothing of its tenant: it {_CLOUD}",
    "mail.TbMsgToEmailNode": f"sends mail: it {_CLOUD}; push an alarm instead",
    "mail.TbSendEmailNode": f"sends mail: it {_CLOUD}; push an alarm instead",
    "sms.TbSendSmsNode": f"sends text messages: it {_CLOUD}; push an alarm instead",
    "edge.TbMsgPushToEdgeNode": f"pushes to edges: it {_CLOUD}",
    "kafka.TbKafkaNode": _BROKER,
    "rabbitmq.TbRabbitMqNode": _BROKER,
    "aws.sns.TbSnsNode": _BROKER,
    "aws.sqs.TbSqsNode": _BROKER,
    "gcp.pubsub.TbPubSubNode": _BROKER,
    "mqtt.azure.TbAzureIotHubNode": _BROKER,
    "notification.TbNotificationNode": f"notifies users: it {_CLOUD}",
    "notification.TbSlackNode": f"notifies users: it {_CLOUD}",
    "transform.TbDuplicateMsgToGroupNode": "is of the professional edition: there are no groups",
    "transform.TbDuplicateMsgToGroupByNameNode":
        "is of the professional edition: there are no groups",
    "action.TbSaveToCustomCassandraTableNode": "writes to Cassandra, which no edge has",
}  # fmt: skip

# Whoever sells the product under another name has put another name before.
_TYPE: Final = re.compile(r"(?:[\w]+\.)*rule\.engine\.([\w.]+)")
PREFIX: Final = "org.thingsboard.rule.engine."


def short_type(name: str) -> str:
    """Return a type as the catalog has it: without what all of them begin with."""
    match = _TYPE.fullmatch(name)
    found = match[1] if match else name
    return RENAMED.get(found, found)


def why_refused(kind: str) -> str:
    """Return why a type is not run here, and the remedy."""
    if kind in REFUSED:
        return REFUSED[kind]
    words = kind.rpartition(".")[2].lower().removeprefix("tb").removesuffix("node")
    similar = [name for name in NODES if words and words in name.lower()]
    hint = f"; similar: {', '.join(sorted(similar)[:3])}" if similar else ""
    return f"there is no such node at an edge{hint}; `edgesync rules nodes` lists them"

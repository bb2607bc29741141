"""The chain that an edge has when nobody made another one, in the form of an export.   [sans-IO]

It does what the default root chain of ThingsBoard's edges does: alarm rules of the device's
profile, then telemetry is saved and pushed, client attributes likewise, changes of attributes are
pushed, calls to devices are carried out, and everything else is logged.
"""

import json
from typing import Any, Final

NAME: Final = "Edge Root Rule Chain"
PREFIX: Final = "org.thingsboard.rule.engine."
LOG: Final = "return msgType + ' ' + JSON.stringify(msg) + ' ' + JSON.stringify(metadata);"
SCRIPTS: Final = {"scriptLang": "TBEL", "jsScript": LOG, "tbelScript": LOG}
SCOPE: Final = {"scope": "SERVER_SCOPE"}
# Type, name, configuration, and where the editor draws it.
NODES: Final[tuple[tuple[str, str, dict[str, Any], int, int], ...]] = (
    ("profile.TbDeviceProfileNode", "Device Profile Node",
     {"persistAlarmRulesState": False, "fetchAlarmRulesStateOnStart": False}, 200, 460),
    ("filter.TbMsgTypeSwitchNode", "Message Type Switch", {"version": 0}, 360, 150),
    ("telemetry.TbMsgTimeseriesNode", "Save Timeseries", {"defaultTTL": 0}, 820, 160),
    ("telemetry.TbMsgAttributesNode", "Save Client Attributes",
     {"scope": "CLIENT_SCOPE", "notifyDevice": "false",
      "sendAttributesUpdatedNotification": "false",
      "updateAttributesOnlyOnValueChange": "true"}, 820, 60),
    ("edge.TbMsgPushToCloudNode", "Push to cloud", SCOPE, 1120, 110),
    ("edge.TbMsgPushToCloudNode", "Push attributes", SCOPE, 820, 600),
    ("action.TbLogNode", "Log RPC from Device", SCRIPTS, 820, 260),
    ("action.TbLogNode", "Log Other", SCRIPTS, 820, 380),
    ("rpc.TbSendRPCRequestNode", "RPC Call Request", {"timeoutInSeconds": 60}, 820, 470),
)  # fmt: skip
CONNECTIONS: Final = (
    (0, 1, "Success"), (2, 4, "Success"), (3, 4, "Success"), (1, 2, "Post telemetry"),
    (1, 3, "Post attributes"), (1, 6, "RPC Request from Device"), (1, 7, "Other"),
    (1, 8, "RPC Request to Device"), (1, 5, "Attributes Deleted"), (1, 5, "Attributes Updated"),
)  # fmt: skip


def default_chain() -> bytes:
    """Return the default root chain as an export."""
    nodes = [
        {
            "additionalInfo": {"layoutX": x, "layoutY": y},
            "type": PREFIX + kind,
            "name": name,
            "debugMode": False,
            "configuration": configuration,
            "externalId": None,
        }
        for kind, name, configuration, x, y in NODES
    ]
    chain = {
        "ruleChain": {
            "additionalInfo": None,
            "name": NAME,
            "type": "EDGE",
            "firstRuleNodeId": None,
            "root": True,
            "debugMode": False,
            "configuration": None,
            "externalId": None,
        },
        "metadata": {
            "firstNodeIndex": 0,
            "nodes": nodes,
            "connections": [
                {"fromIndex": source, "toIndex": target, "type": relation}
                for source, target, relation in CONNECTIONS
            ],
            "ruleChainConnections": None,
        },
    }
    return json.dumps(chain, indent=2, ensure_ascii=False).encode()

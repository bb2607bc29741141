"""Rule chains as somebody uploads them, and scripts of single expressions."""

import json
from typing import Any

from edgesync.errors import ConfigError
from edgesync.rules.build import Source, build
from edgesync.rules.defaults import default_chain
from edgesync.rules.read import export, read_chains
from edgesync.rules.scripts.evaluate import Expression
from edgesync.rules.scripts.lexer import NotUnderstood
from edgesync.rules.scripts.values import ScriptError
from tests.edgesync.rules.chains import exported
from tests.fuzz.fuzz import Target

FILTER = ("filter.TbJsFilterNode", "Warm", {"jsScript": "return msg.t > 5;"})
ALARM = ("action.TbCreateAlarmNode", "Raise", {"alarmType": "Hot ${x}", "severity": "MAJOR"})
COLD = {"key": {"key": "t"}, "predicate": {"operation": "LESS", "value": {"defaultValue": 1}}}
RULE = {"condition": {"condition": [COLD]}}
RULES = {"alarms": [{"alarmType": "H", "createRules": {"MAJOR": RULE}}]}
CHAINS = (
    json.dumps(json.loads(default_chain()), separators=(",", ":")).encode(),
    exported([FILTER, ALARM], [(0, 1, "True")]),
    exported([("edgesync.AlarmRulesNode", "R", RULES), ("flow.TbRuleChainInputNode", "Root", {})]),
    exported([("edgesync.DeadbandNode", "D", {"deadband": "2%"}),
              ("edgesync.WindowNode", "W", {"intervalSeconds": 60})], [(0, 1, "Success")]),
)  # fmt: skip
SCRIPTS = (
    b"return msg.level < 20 && metadata.deviceType === 'tank';",
    b"return {msg: {f: (msg.t * 1.8 + 32).toFixed(1), l: [1, 2][0]}, metadata, msgType};",
    b"return msg?.a.b ?? JSON.parse('{\"x\":1}').x + Math.max(1, parseInt('0x1f')) % 7;",
    b"return typeof msg.name !== 'undefined' ? msg.name.split(' ').join('-').slice(-3) : !msg;",
    b"return -msg.n ** 2 >>> 3 | ~msg.n & 5 ^ 1 << msg.n; /* x */",
)
MSG: Any = {"t": 21.5, "n": -7, "name": "Tank 7", "list": [1, None, "x"], "big": 1 << 62}


def read(data: bytes) -> None:
    """Read chains, build what can be built, and write them back."""
    chains = read_chains(data, "x")
    for chain in chains:
        again = read_chains(export(chain), "x")
        assert [one.nodes for one in again] == [chain.nodes]
    build([Source("x", chain) for chain in chains], has_worker=True)


def evaluate(data: bytes) -> None:
    script = Expression(data.decode(errors="replace"), ("msg", "metadata", "msgType"))
    json.dumps(script((MSG, {"deviceType": "tank"}, "T"), 1_790_000_000_000), allow_nan=False)


TARGETS = [
    Target("rule chains", CHAINS, read, (ConfigError,)),
    Target("rule expressions", SCRIPTS, evaluate, (NotUnderstood, ScriptError)),
]

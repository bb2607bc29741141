"""What an operator does with devices, shown once: an alarm, and a command while the cable is out.

The steps are commands that anybody may type. What a step waits for is bounded, and a step that does
not come to its end says so and ends the tour: the site goes on.
"""

import json
from collections.abc import Callable
from typing import Any, Final

import trio

from edgesync.demo import pump as pumps
from edgesync.demo.site import EDGE, DemoError, Site
from edgesync.rules.defaults import PREFIX, default_chain

ALARM: Final = "HighTemperature"
ALARM_ABOVE_C: Final = 80
RPM: Final = 900
PATIENCE_S: Final = 60.0
LOOK_S: Final = 0.5

Say = Callable[[str], None]


def chain() -> bytes:
    """Return the default root chain, and an alarm beside it."""
    export = json.loads(default_chain())
    metadata = export["metadata"]
    nodes, switch = metadata["nodes"], 1
    script = f"return msg.temperature != null && msg.temperature > {ALARM_ABOVE_C};"
    first = len(nodes)
    for kind, name, configuration in (
        ("filter.TbJsFilterNode", "Hot", {"jsScript": script}),
        ("action.TbCreateAlarmNode", "Raise", {"alarmType": ALARM, "severity": "CRITICAL"}),
    ):
        nodes.append({"type": PREFIX + kind, "name": name, "configuration": configuration})
    metadata["connections"] += [
        {"fromIndex": switch, "toIndex": first, "type": "Post telemetry"},
        {"fromIndex": first, "toIndex": first + 1, "type": "True"},
    ]
    return json.dumps(export).encode()


async def run(site: Site, pump: pumps.Pump, say: Say, *, pause_s: float) -> None:
    """Show it all once, with `pause_s` between the steps."""
    try:
        await _alarm(site, pump, say, pause_s)
        await _command(site, pump, say, pause_s)
    except DemoError as error:
        site.cable.plug()
        say(f"the tour ends: {error}")


async def _alarm(site: Site, pump: pumps.Pump, say: Say, pause_s: float) -> None:
    await trio.sleep(pause_s)
    pump.temperature_c = pumps.HOT_C
    say(f"{pumps.NAME} tells {pumps.HOT_C:.0f} °C over MQTT; a rule chain at the edge looks at it")
    (alarm,) = await _until(site, ("alarms", EDGE, "--active"), bool, "the alarm at the hub")
    say(f"alarm {alarm['type']}, {alarm['severity']}: raised at the edge, listed at the hub")
    await trio.sleep(pause_s)
    pump.temperature_c = pumps.COOL_C
    await trio.sleep(2 * pumps.TELEMETRY_S)  # or it begins anew
    await _ask(site, "alarms", EDGE, "--clear", alarm["id"], "--by", "you")
    say(f"hubd alarms {EDGE} --clear {alarm['id']}: cleared from the hub")
    await trio.sleep(pause_s)


async def _command(site: Site, pump: pumps.Pump, say: Say, pause_s: float) -> None:
    site.cable.cut()
    params = json.dumps({"rpm": RPM})
    say(f"cable out; hubd rpc send {EDGE} {pumps.NAME} setSpeed '{params}'")
    call = await _ask(site, "rpc", "send", EDGE, pumps.NAME, "setSpeed", params, "--ttl", "600")
    say(f"{call['state']}: it waits on the hub's disk; the pump runs at {pump.rpm} rpm")
    await trio.sleep(pause_s)
    site.cable.plug()

    def is_over(found: Any) -> bool:
        return found["state"] in ("ANSWERED", "EXPIRED")

    found = await _until(site, ("rpc", "show", call["id"]), is_over, "the pump's answer")
    say(f"cable in: {found['state']}, the pump runs at {pump.rpm} rpm")


async def _until(
    site: Site, command: tuple[str, ...], is_so: Callable[[Any], bool], what: str
) -> Any:
    for _ in range(int(PATIENCE_S / LOOK_S)):  # each look takes a moment, too
        if is_so(found := await _ask(site, *command)):
            return found
        await trio.sleep(LOOK_S)
    raise DemoError(f"{what} did not come in {PATIENCE_S:.0f} s")


async def _ask(site: Site, *command: str) -> Any:
    return json.loads(await site.hubd(*command, "--json"))

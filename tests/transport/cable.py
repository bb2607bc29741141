"""A link on a machine whose network goes silent: no packet arrives, no connection ends.

A program of its own, in a network of its own (`unshare --net`), which it takes down and up again.
Ends well when both ends have noticed by themselves.
"""

import subprocess
from pathlib import Path

import trio

from edgesync_transport.dealer import Cause
from tests.transport.hub import end_of, eventually, open_hub
from tests.transport.samples import HELLO

ESTABLISHED = "01"
TIME_S = 60


def set_loopback(state: str) -> None:
    subprocess.run(["ip", "link", "set", "lo", state], check=True)


def established() -> int:
    tables = [Path(f"/proc/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6")]
    return sum(line.split()[3] == ESTABLISHED for table in tables for line in table)


async def main() -> None:
    set_loopback("up")
    with trio.fail_after(TIME_S):
        async with open_hub() as hub, hub.connect(hub.admit("far")) as connect:
            link, idle = await connect(), await connect()
            assert (await hub.hears(link)).edge == (await hub.hears(idle)).edge == "far"
            assert established() == 4  # two connections, both ends
            set_loopback("down")
            await link.send(HELLO)
            assert (await end_of(link)).cause is Cause.LOST
            assert (await end_of(idle)).cause is Cause.LOST
            await eventually(lambda: established() == 0)
            set_loopback("up")
            assert (await hub.hears(await connect())).edge == "far"


if __name__ == "__main__":
    trio.run(main)

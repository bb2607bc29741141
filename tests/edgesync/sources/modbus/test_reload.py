"""SIGHUP: the devices of edge.toml as it is now; what did not change goes on undisturbed."""

import logging
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from edgesync import EdgeNode, daemon
from edgesync.sources.base import SourceState, SourceStatus
from edgesync.sources.simulate.devices import SimulatedDevice, site_layouts
from edgesync.sources.simulate.server import ModbusServer


def settings(**ports: int) -> str:
    devices = "".join(
        f'[[modbus]]\nname = "{name}"\nhost = "127.0.0.1"\nport = {port}\n'
        'profile = "edgesync-sim-meter"\npoll_groups.fast.every = "100ms"\n'
        for name, port in ports.items()
    )
    return f'[edge]\nname = "e"\n[http]\nport = 0\n{devices}'


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(100):
        while not condition():  # noqa: ASYNC110
            await trio.sleep(0.02)


async def serving(nursery: trio.Nursery) -> tuple[int, ModbusServer]:
    server = ModbusServer({1: SimulatedDevice(site_layouts()[1])}, random.Random(0))
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    nursery.start_soon(trio.serve_listeners, server.serve_stream, listeners)
    return listeners[0].socket.getsockname()[1], server


async def test_a_hangup_changes_only_the_devices_that_changed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    config = tmp_path / "edge.toml"
    async with trio.open_nursery() as nursery:
        (a, kept), (b, left), (c, _) = [await serving(nursery) for _ in range(3)]
        config.write_text(settings(a=a, b=b))
        stop = trio.Event()

        async def run(*, task_status: trio.TaskStatus[EdgeNode]) -> None:
            await daemon.run(lambda: EdgeNode(config), stop=stop, task_status=task_status)

        node: EdgeNode = await nursery.start(run)

        def devices() -> dict[str, SourceStatus]:
            return {one.name: one for one in node.status().sources}

        def are_online() -> bool:
            return all(one.state is SourceState.ONLINE for one in devices().values())

        await until(are_online)
        polls = devices()["a"].polls
        config.write_text(settings(a=a, c=c))
        os.kill(os.getpid(), signal.SIGHUP)
        await until(lambda: set(devices()) == {"a", "c"} and are_online())
        assert devices()["a"].polls >= polls
        assert kept.connections == devices()["a"].connects == 1
        await until(lambda: not left._open)

        config.write_text(settings(a=a) + "portt = 3\n")
        os.kill(os.getpid(), signal.SIGHUP)
        await until(lambda: "not reloaded" in caplog.text)
        assert "did you mean `port`" in caplog.text
        assert set(devices()) == {"a", "c"}
        stop.set()
        await until(lambda: not kept._open)
        nursery.cancel_scope.cancel()

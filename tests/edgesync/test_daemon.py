"""The daemon and its service manager."""

import functools
import gc
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from edgesync import EdgeNode, daemon
from hubd.serve import run_until_signalled
from tests.hubd.yard import Yard
from tests.sites import until
from tests.terminal import open_terminal


@pytest.mark.feature("K6")
def test_the_service_manager_is_told_of_start_life_and_stop(tmp_path: Path) -> None:
    with (
        open_terminal(tmp_path) as terminal,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager,
    ):
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(30)
        terminal.out("edgesync", "init")
        text = terminal.edge_config.read_text().replace("port = 9464", "port = 0")
        terminal.edge_config.write_text(text)
        environment = {
            **os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "200000",
        }  # fmt: skip
        with (tmp_path / "edge.log").open("wb") as log:
            edge = subprocess.Popen(
                terminal.command("edgesync", "run"), env=environment, stdout=log, stderr=log
            )
        try:
            told = [manager.recv(4096).decode() for _ in range(4)]
            assert told[0].startswith("READY=1\n")
            assert any("WATCHDOG=1" in one for one in told[1:])
            assert terminal.stop(edge) == 0
            while "STOPPING=1" not in told[-1]:
                told.append(manager.recv(4096).decode())
        finally:
            edge.kill()
            edge.wait()


def test_a_port_that_is_taken_does_not_keep_the_site_from_being_measured(tmp_path: Path) -> None:
    with open_terminal(tmp_path) as terminal, socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        terminal.out("edgesync", "init")
        port = f"port = {taken.getsockname()[1]}"
        terminal.edge_config.write_text(
            terminal.edge_config.read_text().replace("port = 9464", port)
        )
        terminal.start_edge()
        terminal.until(lambda: terminal.logged("edgesync", "no metrics"))
        assert terminal.json("edgesync", "status")["store"]["problem"] == ""


def test_the_log_is_json_or_text(tmp_path: Path) -> None:
    with open_terminal(tmp_path) as terminal:
        terminal.out("edgesync", "init")
        text = terminal.edge_config.read_text().replace("port = 9464", "port = 0")
        terminal.edge_config.write_text(text)
        for arguments in ((), ("--log-text",)):
            edge = terminal.start("edgesync", "run", *arguments)
            terminal.until(terminal.is_edge_up)
            assert terminal.stop(edge) == 0
        lines = (tmp_path / "edgesync.log").read_text().splitlines()
    ready = [line for line in lines if "edge ready" in line]
    assert ready[0].startswith("{")
    assert not ready[1].startswith("{")


def test_a_plain_program_uses_a_node_without_a_loop(tmp_path: Path) -> None:
    program = (
        "import time\nfrom edgesync import EdgeNode, Reading\n"
        f"with EdgeNode.local({str(tmp_path)!r}) as node:\n"
        "    node.ingest_sync([Reading('scale0', 'Weight', 412.5, time.time_ns(), unit='kg')])\n"
        "    print([(one.entity, one.value) for one in node.latest()], node.status().readings)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "[('scale0', 412.5)] 1\n", done.stderr


async def test_a_full_collection_does_not_walk_through_what_a_start_has_made(
    tmp_path: Path,
) -> None:
    """It stopped a hub, and all its edges, for 50 to 100 ms."""
    stop, node = trio.Event(), EdgeNode({"edge": {"data_dir": str(tmp_path)}}, folder=tmp_path)
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(functools.partial(daemon.run, lambda: node, stop=stop))
            assert gc.get_freeze_count() > 10_000
            stop.set()
        gc.unfreeze()
        yard = Yard(tmp_path / "hub", "")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_until_signalled, yard.settings, yard.folder)
            await until(lambda: gc.get_freeze_count() > 10_000)
            os.kill(os.getpid(), signal.SIGTERM)
    finally:
        gc.unfreeze()

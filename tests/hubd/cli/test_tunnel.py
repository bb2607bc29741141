"""`hubd tunnel` and `edgesync tunnel`, beside a hub and an edge that run."""

import json
import signal
import socket
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.terminal import PATIENCE_S, Terminal, open_terminal

pytestmark = [pytest.mark.feature("S33"), pytest.mark.slow]


def echo(listening: socket.socket) -> None:
    while True:
        try:
            connection, _ = listening.accept()
        except OSError:  # closed: the test is over
            return
        with connection:
            while data := connection.recv(4096):
                connection.sendall(data)


def opened(terminal: Terminal, target: str) -> tuple[subprocess.Popen[str], Any]:
    """Open a tunnel, as an operator does; returns the command that stays, and what it printed."""
    command = terminal.command("hubd", "tunnel", "open", "barn-7", target, "--json")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, json.loads(process.stdout.readline())


def say(address: str, data: bytes) -> bytes:
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE_S) as client:
        client.sendall(data)
        return client.recv(4096)


def test_a_tunnel_is_used_listed_and_ended_from_either_side(tmp_path: Path) -> None:
    with open_terminal(tmp_path) as terminal, socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=echo, args=[listening], daemon=True).start()
        target = f"127.0.0.1:{listening.getsockname()[1]}"
        hub = terminal.start_hub()
        assert terminal.out("hubd", "tunnel", "list") == "no tunnels since this hub was started\n"
        terminal.enrol()
        text = terminal.edge_config.read_text()
        terminal.edge_config.write_text(f'{text}\n[tunnel]\nallow = ["{target}"]\n')
        terminal.start_edge()
        terminal.until(lambda: '"Connected"' in terminal.out("edgesync", "status", "--json"))

        process, found = opened(terminal, target)
        assert (found["state"], found["by"], found["for_s"]) == ("open", "(console)", 1800.0)
        assert say(found["address"], b"SSH-2.0") == b"SSH-2.0"
        assert f"{found['tunnel']} to {target}" in terminal.out("edgesync", "tunnel", "list")
        assert f"tunnel    {found['tunnel']}" in terminal.out("edgesync", "status")
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=PATIENCE_S)
        assert (process.returncode, errors) == (0, "")
        assert json.loads(rest)["reason"] == "closed by (console) at the hub"
        assert "over, closed by (console)" in terminal.out("hubd", "tunnel", "list")

        process, found = opened(terminal, target)
        assert terminal.out("edgesync", "tunnel", "close", "all") == "1 closed\n"
        rest, _ = process.communicate(timeout=PATIENCE_S)
        assert json.loads(rest)["reason"] == "closed at the edge"

        for program, arguments, told in (
            ("hubd", ("open", "nowhere", "127.0.0.1:22"), "no edge 'nowhere'"),
            ("hubd", ("open", "barn-7", "127.0.0.1:1"), "is not in `allow` under [tunnel]"),
            ("hubd", ("open", "barn-7", "22"), "is no host:port"),
            ("hubd", ("open", "barn-7", target, "--for", "soon"), "is not a duration"),
            ("hubd", ("open", "barn-7", target, "--listen", "0.0.0.0:0"), "no loopback address"),
            ("hubd", ("close", "00000000"), "no tunnel '00000000'"),
            ("edgesync", ("close", "00000000"), "no tunnel '00000000' is open"),
        ):
            refused = terminal.run(program, "tunnel", *arguments)
            assert refused.returncode != 0
            assert told in refused.stderr, arguments

        process, _ = opened(terminal, target)
        hub.kill()
        rest, _ = process.communicate(timeout=PATIENCE_S)
        assert (process.returncode, "start one with `hubd run`" in rest) == (69, True)
        terminal.until(lambda: not terminal.json("edgesync", "tunnel", "list")["open"])
        journal = terminal.out("edgesync", "events", "--type", "LIFECYCLE", "--json")
        assert journal.count("tunnel_opened") == journal.count("tunnel_closed") == 3
        assert "the session with the hub is over" in journal

"""An operator's terminal: the two programs, run as processes, in one folder."""

import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import trio
from click.testing import CliRunner

from edgesync.demo.site import free_ports

PATIENCE_S = 120.0


class Terminal:
    """`edgesync` and `hubd` with their settings in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.edge_config = folder / "edge" / "edge.toml"
        self.hub_config = folder / "hub" / "hub.toml"
        self.link_port, self.http_port, self.modbus_port = free_ports(3)
        self._started: list[subprocess.Popen[bytes]] = []

    def run(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command until it ends: here, or in a process if it is one of the daemons."""
        command = self.command(program, *arguments)
        is_daemon = not {"run", "simulate", "top", "demo"}.isdisjoint(arguments)
        if _is_free() and ("--help" in arguments or not is_daemon):
            return _invoke(program, command)
        return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)

    def out(self, program: str, *arguments: str) -> str:
        """Run a command that must succeed; returns what it printed."""
        done = self.run(program, *arguments)
        assert done.returncode == 0, (arguments, done.returncode, done.stdout, done.stderr)
        return done.stdout

    def json(self, program: str, *arguments: str) -> Any:
        return json.loads(self.out(program, *arguments, "--json"))

    def command(self, program: str, *arguments: str) -> Sequence[str]:
        config = self.edge_config if program == "edgesync" else self.hub_config
        return [sys.executable, "-m", program, "--config", str(config), *arguments]

    def start(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{program}.log").open("ab") as log:
            process = subprocess.Popen(self.command(program, *arguments), stdout=log, stderr=log)
        self._started.append(process)
        return process

    def stop(self, process: subprocess.Popen[bytes]) -> int:
        process.send_signal(signal.SIGTERM)
        return process.wait(PATIENCE_S)

    def close(self) -> None:
        for process in self._started:
            process.kill()
            process.wait()

    # -- what most tests begin with --------------------------------------------------------------

    def start_hub(self) -> subprocess.Popen[bytes]:
        if not self.hub_config.exists():
            listen = f"tcp://127.0.0.1:{self.link_port}"
            self.out("hubd", "init", "--listen", listen, "--port", str(self.http_port))
        started = self.logged("hubd", "hub ready")
        hub = self.start("hubd", "run")
        self.until(lambda: self.logged("hubd", "hub ready") > started)
        return hub

    def enrol(self, name: str = "barn-7") -> str:
        token = self.out("hubd", "enroll", name).strip()
        self.out("edgesync", "init", "--token", token)
        text = self.edge_config.read_text().replace("port = 9464", "port = 0")
        self.edge_config.write_text(text)
        return token

    def add_meter(self) -> None:
        """A simulated grid meter, polled five times a second."""
        self.start("edgesync", "simulate", "modbus", "--port", str(self.modbus_port))
        device = (
            f'\n[[modbus]]\nname = "meter0"\nhost = "127.0.0.1"\nport = {self.modbus_port}\n'
            'unit_id = 1\nprofile = "edgesync-sim-meter"\npoll_groups.fast.every = "200ms"\n'
        )
        self.edge_config.write_text(self.edge_config.read_text() + device)

    def start_edge(self) -> subprocess.Popen[bytes]:
        """Start an edge; it answers commands, and its doors are open, when this returns."""
        before = self.logged("edgesync", "edge ready")
        edge = self.start("edgesync", "run")
        self.until(self.is_edge_up)
        self.until(lambda: self.logged("edgesync", "edge ready") > before)
        return edge

    def is_edge_up(self) -> bool:
        """Return whether the daemon answers; its files alone would answer `status` too."""
        return '"running": true' in self.run("edgesync", "status", "--json").stdout

    def logged(self, program: str, text: str) -> int:
        """How often the program's log says this."""
        log = self.folder / f"{program}.log"
        return log.read_text().count(text) if log.exists() else 0

    def until(self, is_so: Any) -> None:
        for _ in range(int(PATIENCE_S / 0.05)):
            if is_so():
                return
            time.sleep(0.05)
        logs = {path.name: path.read_text()[-2000:] for path in self.folder.glob("*.log")}
        raise AssertionError(f"it never became so; {logs}")


def _is_free() -> bool:
    """Return whether a command may have this thread, and what it prints, to itself."""
    return threading.current_thread() is threading.main_thread() and not trio.lowlevel.in_trio_run()


def _invoke(program: str, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run a command in this process: a new one takes a second to import what is here already."""
    main = importlib.import_module(f"{program}.cli").main
    arguments = command[command.index(program) + 1 :]
    result = CliRunner().invoke(main, arguments, prog_name=program)
    errors = result.stderr
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        errors += "".join(traceback.format_exception(result.exception))
    return subprocess.CompletedProcess(command, result.exit_code, result.stdout, errors)


@contextmanager
def open_terminal(folder: Path) -> Iterator[Terminal]:
    terminal = Terminal(folder)
    try:
        yield terminal
    finally:
        terminal.close()


def screen_of(
    command: Sequence[str],
    until: str,
    kind: str = "xterm",
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] = os.environ,
) -> str:
    """Run a command in a terminal of its own until its screen shows `until`, then Ctrl-C."""
    master, slave = os.openpty()
    environment = {**env, "TERM": kind, "COLUMNS": "120", "LINES": "40"}
    with subprocess.Popen(
        command, stdin=slave, stdout=slave, stderr=slave, cwd=cwd, env=environment
    ) as process:
        os.close(slave)
        shown = ""
        try:
            while until not in shown:
                shown += os.read(master, 65536).decode(errors="replace")
        finally:
            process.send_signal(signal.SIGINT)
            os.close(master)
    return shown

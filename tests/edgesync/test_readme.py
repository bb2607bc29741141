"""README.md and docs/operations.md, done as they say: every command and every program in them."""

import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgesync.demo.site import free_ports
from tests.documents import blocks
from tests.postgresql import USER, Server
from tests.terminal import screen_of

ROOT = Path(__file__).parents[2]
PATIENCE_S = 120.0
BIN = Path(sys.executable).parent


class Person:
    """Somebody who types what a document says, in a folder; `inside` puts words before each."""

    def __init__(self, folder: Path, inside: tuple[str, ...] = (), **variables: str) -> None:
        self.folder = folder
        self.inside = inside
        self.token = ""
        self.daemons: list[subprocess.Popen[bytes]] = []
        folder.mkdir(exist_ok=True)
        self.environment = {
            **os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", **variables
        }  # fmt: skip

    def type(self, block: str) -> None:
        for line in block.splitlines():
            words = shlex.split(line, comments=True)
            if not words:
                continue
            words = [word.replace("edgesync1.…", self.token) for word in words]
            if "|" in words:
                self.finish(["sh", "-c", line])
            elif words[-1] == "run":
                self.start(words)
            elif words[-1] == "top":
                command = [*self.inside, *words]
                assert "normal" in screen_of(command, "normal", cwd=self.folder,
                                             env=self.environment)  # fmt: skip
            else:
                self.finish(words)

    def finish(self, words: list[str]) -> None:
        done = subprocess.run(
            [*self.inside, *words], cwd=self.folder, env=self.environment, text=True,
            capture_output=True, timeout=PATIENCE_S,
        )  # fmt: skip
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        if token := re.search(r"edgesync1\.\S+", done.stdout):
            self.token = token[0]

    def start(self, words: list[str]) -> None:
        log = self.folder / f"{words[0]}.log"
        with log.open("ab") as errors:
            daemon = subprocess.Popen(
                [*self.inside, *words], cwd=self.folder, env=self.environment, stderr=errors
            )
        self.daemons.append(daemon)
        until(lambda: " ready: " in log.read_text(), log)

    def stop(self) -> None:
        self.close()
        self.daemons.clear()

    def close(self) -> None:
        for daemon in self.daemons:
            daemon.terminate()
        for daemon in self.daemons:
            try:
                daemon.wait(PATIENCE_S)
            finally:
                daemon.kill()


def until(is_so: object, log: Path) -> None:
    assert callable(is_so)
    ends_at = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < ends_at, log.read_text()[-2000:]
        time.sleep(0.05)


@pytest.fixture
def person(tmp_path: Path) -> Iterator[Person]:
    """Somebody at one machine, on ports that are free there."""
    link, http = free_ports(2)
    person = Person(
        tmp_path / "desk",
        HUBD_HUB__LISTEN=f'["tcp://127.0.0.1:{link}"]',
        HUBD_HUB__PUBLIC=f"tcp://127.0.0.1:{link}",
        HUBD_API__PORT=str(http),
        EDGESYNC_HTTP__PORT="0",
    )
    yield person
    person.close()


def test_run_it_on_one_machine(person: Person) -> None:
    on_the_hub, on_the_gateway = blocks("README.md", "sh", after="Run it")
    person.type(on_the_hub)
    person.type(on_the_gateway)
    person.finish(["edgesync", "sync", "--timeout", "100"])


@pytest.mark.parametrize("number", range(2))
def test_the_programs_of_the_readme_run(number: int, person: Person) -> None:
    for line in blocks("README.md", "sh", after="Run it"):
        person.type(line.replace("edgesync run", "").partition("edgesync top")[0])
    program = blocks("README.md", "python", after="Embed it")[number]
    person.finish([sys.executable, "-W", "error", "-c", program])


def test_operations_are_as_their_page_says(person: Person, postgresql: Server) -> None:
    """From a hub's first day to its restored copy; gateways come, are replaced and go."""
    person.environment |= {"PGHOST": str(postgresql.folder), "PGUSER": USER}
    text = (ROOT / "docs" / "operations.md").read_text()
    assert len(blocks("docs/operations.md", "sh")) >= 9
    daemon = ["hubd", "--config", "hub/hub.toml", "run"]
    for block in blocks("docs/operations.md", "sh"):
        if "restore --state" in block or "restore --registry" in block:
            person.stop()
        if "restore --registry" in block:  # what is said to be lost
            (person.folder / "hub" / "data" / "registry.db").unlink()
        person.type(block)
        if not person.daemons and "enroll" in block:
            person.start(daemon)
    for word in sorted(set(re.findall(r"`((?:hubd|edgesync) [a-z]+)", text))):
        program, command = word.split()
        person.finish([program, command, "--help"])


# A wire between two machines: network namespaces with nothing but their loopbacks and the wire.
WIRE = """
set -e
mount -t tmpfs none /run && mkdir -p /run/netns
printf '127.0.0.1 localhost\\n10.77.0.1 hub.example.org\\n' > /run/hosts
mount --bind /run/hosts /etc/hosts
for name in hub gateway; do ip netns add $name; ip -n $name link set lo up; done
ip link add wire-hub netns hub type veth peer name wire-gateway netns gateway
ip -n hub addr add 10.77.0.1/24 dev wire-hub && ip -n hub link set wire-hub up
ip -n gateway addr add 10.77.0.2/24 dev wire-gateway && ip -n gateway link set wire-gateway up
echo laid; read -r forever
"""


@pytest.fixture
def wire() -> Iterator[int]:
    """Lay the wire; yields the process that holds its namespaces."""
    with subprocess.Popen(
        ["unshare", "--user", "--map-root-user", "--mount", "--net", "sh", "-c", WIRE],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as holder:  # fmt: skip
        assert holder.stdout is not None
        assert holder.stderr is not None
        said = holder.stdout.readline()
        assert said == "laid\n", f"no network namespaces here: {holder.stderr.read()}"
        yield holder.pid
        holder.terminate()


def at(wire: int, machine: str, folder: Path) -> Person:
    """Return somebody who sits at one of the two machines, in a folder of their own."""
    enter = ("nsenter", "--preserve-credentials", f"--target={wire}", "--user", "--mount")
    return Person(folder, (*enter, f"--wdns={folder}", "ip", "netns", "exec", machine))


@pytest.mark.networks
@pytest.mark.slow
def test_run_it_on_two_machines_as_printed(wire: int, tmp_path: Path) -> None:
    hub = at(wire, "hub", tmp_path / "hub")
    gateway = at(wire, "gateway", tmp_path / "gateway")
    on_the_hub, on_the_gateway = blocks("README.md", "sh", after="Run it")
    try:
        hub.type(on_the_hub)
        gateway.token = hub.token
        gateway.type(on_the_gateway)
        gateway.finish(["edgesync", "sync", "--timeout", "100"])
    finally:
        gateway.close()
        hub.close()

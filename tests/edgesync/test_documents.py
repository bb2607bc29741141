"""Every block of every document does what it says, at a site like the one they speak of.

Those that stand in an order of their own are done by test_readme.py, test_guide.py, test_docs.py.
"""

import json
import re
import subprocess
import sys
import tomllib
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import edgesync.settings
import hubd.settings
from edgesync import toml
from edgesync.demo.site import free_ports
from edgesync.serve.devices.credentials import Credentials, DevicesFile
from edgesync.sources.modbus.profile import parse_profile
from tests.documents import ILLUSTRATIONS, ROOT, all_blocks, documents, others
from tests.edgesync.test_readme import Person

PATIENCE_S = 40.0
OFFLINE = "tcp://127.0.0.1:1"
KEY = "0123456789" * 4
# Two edges that have not heard of each other.
WRITE = """
import sys, trio
from edgesync import EdgeNode

async def main():
    async with EdgeNode("edge.toml") as node:
        for number in range(6):
            node.set(f"till:{number}", sys.argv[1])

trio.run(main)
"""


class Site:
    """A hub, the edge `barn` with a meter and Redis clients, and conflicts with another edge."""

    def __init__(self, folder: Path) -> None:
        link, http, self.redis, self.mqtt, self.device_http, meter = free_ports(6)
        self.token = ""
        self.resolved: set[int] = set()
        self.url = f"http://127.0.0.1:{http}"
        self.here = Person(
            folder,
            HUBD_HUB__LISTEN=f'["tcp://127.0.0.1:{link}"]',
            HUBD_HUB__PUBLIC=f"tcp://127.0.0.1:{link}",
            HUBD_API__PORT=str(http),
            EDGESYNC_HTTP__PORT="0",
        )
        self.meter = subprocess.Popen(
            [sys.executable, "-m", "edgesync", "simulate", "modbus", "--port", str(meter)],
            stdout=subprocess.DEVNULL,
        )
        (device,) = [one.text for one in all_blocks("docs/modbus.md") if "[[modbus]]" in one.text]
        self.device = device.replace("10.0.0.5", "127.0.0.1").replace("502", str(meter))

    def open(self) -> None:
        here = self.here
        here.type("hubd init")
        printed = subprocess.run(
            ["hubd", "token"], cwd=here.folder, env=here.environment, capture_output=True,
            text=True, check=True, timeout=PATIENCE_S,
        )  # fmt: skip
        self.token = re.findall(r"esapi\.\S+", printed.stdout)[0]
        here.type("hubd run")
        first, devices, *_ = [one.text for one in all_blocks("docs/mqtt.md")]
        topics = first[first.index("[[mqtt.topics]]") :]
        for name in ("other", "barn"):
            here.type(f"hubd enroll {name}\nmkdir {name}")
            here.folder = here.folder / name
            here.type("edgesync init --token edgesync1.…")
            here.environment["EDGESYNC_HUB__ENDPOINT"] = OFFLINE
            here.finish([sys.executable, "-c", WRITE, name])
            del here.environment["EDGESYNC_HUB__ENDPOINT"]
            if name == "barn":
                with (here.folder / "edge.toml").open("a") as settings:
                    settings.write(f"\n{self.device}\n[cells]\nport = {self.redis}\n")
                    settings.write(f"{topics}\n[mqtt]\nport = {self.mqtt}\n")
                    settings.write(f"[device_http]\nport = {self.device_http}\n")
                (here.folder / "mqtt-devices.toml").write_text(devices)
            here.type("edgesync run\nedgesync sync --timeout 20")
            if name == "other":
                here.folder = here.folder.parent

    def ask(self, path: str) -> Any:
        headers = {"Authorization": f"Bearer {self.token}"}
        question = urllib.request.Request(f"{self.url}{path}", headers=headers)
        with urllib.request.urlopen(question, timeout=PATIENCE_S) as answer:
            return json.load(answer)

    def open_conflict(self) -> Any:
        """Return one that nobody has resolved yet, here or on the way to the hub."""
        for conflict in self.ask("/api/v1/conflicts?status=open")["conflicts"]:
            if conflict["id"] not in self.resolved:
                self.resolved.add(conflict["id"])
                return conflict
        raise AssertionError("all conflicts are resolved")

    def close(self) -> None:
        self.here.close()
        self.meter.kill()
        self.meter.wait()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    found = Site(tmp_path_factory.mktemp("site") / "desk")
    try:
        found.open()
        yield found
    finally:
        found.close()


def do_sh(site: Site, text: str) -> None:
    """Type the lines; those that begin with a bracket, or are indented, are what is printed."""
    assigned, lines = "", text.splitlines()
    while lines:
        line = lines.pop(0)
        printed = ""
        while lines and lines[0][:1] in ("{", "[", " "):
            printed += lines.pop(0)
        if re.match(r"\w+=", line):
            assigned += f"{line}\n"
            continue
        shown = run(site, assigned, line)
        if printed:
            assert is_like(json.loads(shown), json.loads(printed)), (line, shown)
        elif line.startswith("curl"):
            assert not shown or not {"error", "message"} & json.loads(shown).keys(), (line, shown)


def run(site: Site, assigned: str, line: str) -> str:
    if line.startswith("make "):
        line = line.replace("make ", f"make -C {ROOT} --dry-run ")
    if "RESOLVE" in line or "/conflicts/7" in line:
        conflict = site.open_conflict()
        side = conflict["winner"]
        line = line.replace("RESOLVE 18", f"RESOLVE {conflict['id']}")
        line = line.replace("DOT 3 1207", f"DOT {side['replica']} {side['number']}")
        line = line.replace("/conflicts/7", f"/conflicts/{conflict['id']}")
    is_ours = "Bearer" in line or "barn-7:8081" in line
    token = "" if is_ours else f'-H "Authorization: Bearer {site.token}" '
    for said, meant in (
        ("redis-cli ", f"redis-cli -e -p {site.redis} "),
        ("curl ", f"curl -sS {token}"),
        ("http://127.0.0.1:8080", site.url),
        ("http://barn-7:8081", f"http://127.0.0.1:{site.device_http}"),
        ("mosquitto_pub -h barn-7", f"mosquitto_pub -h 127.0.0.1 -p {site.mqtt}"),
        ("http://hub:8080", site.url),
        (".venv/bin/", ""),
        ("demo --chaos --seconds 60", "demo --chaos --seconds 60 --help"),  # demo/test_demo.py
    ):
        line, assigned = line.replace(said, meant), assigned.replace(said, meant)
    done = subprocess.run(
        ["sh", "-c", f"url={site.url}/api/v1 token={site.token}\n{assigned}{line}"],
        cwd=site.here.folder, env=site.here.environment, capture_output=True, text=True,
        timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, (line, done.stdout, done.stderr)
    return done.stdout


def is_like(found: Any, pattern: Any) -> bool:
    """Whether an answer is the one that is printed, in which `…` stands for anything."""
    if isinstance(pattern, dict):
        return found.keys() == pattern.keys() and all(
            is_like(found[name], one) for name, one in pattern.items()
        )
    if isinstance(pattern, list):
        return len(found) == len(pattern) and all(map(is_like, found, pattern))
    if isinstance(pattern, str):
        return re.fullmatch(re.escape(pattern).replace("…", ".*"), found) is not None
    return bool(found == pattern)


def do_toml(site: Site, text: str) -> None:
    """Load settings as they stand, of the edge, the hub, or a kind of device."""
    text = text.replace("…40 characters…", KEY).replace("…64 hex digits…", "0123456789abcdef" * 4)
    table = tomllib.loads(text)
    if {"device", "provision"} & table.keys():
        found = toml.convert(table, DevicesFile, file="devices")
        Credentials(found.device, file="devices", provisions=found.provision)
    elif "profile" in table:
        parse_profile(text.encode(), "profile.toml")
    elif "api" in table or {"listen", "database"} & table.get("hub", {}).keys():
        hubd.settings.from_table(table, file="hub.toml", environment={})
    else:
        edgesync.settings.from_table(table, file="edge.toml", environment={})


def do_python(site: Site, text: str) -> None:
    """Run a program; what it awaits stands in the body of one."""
    text = text.replace("https://hub.example", site.url).replace("esapi.…", site.token)
    imports, _, body = text.partition("\n\n")
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    program = f"{imports}\nimport trio\nasync def main():\n{lines}\ntrio.run(main)\n"
    site.here.finish([sys.executable, "-W", "error", "-c", program])


DO: dict[str, Callable[[Site, str], None]] = {"sh": do_sh, "toml": do_toml, "python": do_python}


# The last one resolves whatever conflict is open.
FILES = sorted(filter(others, documents()), key="docs/api.md".__eq__)


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES)
def test_what_a_document_shows_is_what_happens(file: str, site: Site) -> None:
    for block in others(file):
        assert block.language in DO, f"nobody does a block of {block.language} in {file}"
        DO[block.language](site, block.text)


def test_fences_say_whether_they_are_to_be_done() -> None:
    """A fence that is not closed, or indented, would be seen by nobody."""
    for file in documents():
        text = (ROOT / file).read_text()
        fences = re.findall(r"^[ >]*(?:```|~~~).*$", text, re.M)
        shown = re.findall(r"^```(\w*)$", text, re.M)
        assert len(fences) == len(shown), file
        assert len(shown) % 2 == 0, file
        assert {*shown[1::2]} <= {""}, file
        done = [language for language in shown[::2] if language not in ILLUSTRATIONS]
        assert len(done) == len(all_blocks(file)), file

"""docs/edge-guide.md, run from top to bottom: what it says is what happens."""

import fnmatch
import itertools
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from edgesync.demo.site import free_ports
from tests.documents import all_blocks, others

FILE = re.compile(r"# (\S+\.toml)\n")
PATIENCE_S = 120.0


class Reader:
    """Somebody who does what the guide says, in a folder of their own, on free ports."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        names = ("redis", "link", "link_2", "http", "metrics")
        self.ports = dict(zip(names, map(str, free_ports(len(names))), strict=True))
        self.token = ""
        self.daemons: list[subprocess.Popen[bytes]] = []

    def here(self, text: str) -> str:
        """Return the text as this machine needs it: its ports, its token."""
        for said, meant in (
            ("hub:7400", f"127.0.0.1:{self.ports['link']}"),
            ("hub:8080", f"127.0.0.1:{self.ports['http']}"),
            ("port = 6379", f"port = {self.ports['redis']}"),
            ("port = 7401", f"port = {self.ports['link_2']}"),
            ("edgesync1.…", self.token),
        ):
            text = text.replace(said, meant)
        return text

    def toml(self, text: str) -> None:
        name = FILE.match(text)
        assert name, text
        path = self.folder / name[1]
        path.write_text(self.here(text) + f"\n[http]\nport = {self.ports['metrics']}\n")
        if 'mode = "hub"' in text:
            path.write_text(self.here(text))

    def python(self, text: str) -> None:
        self._done([sys.executable, "-W", "error", "-c", text])

    def sh(self, text: str) -> None:
        for line in self.here(text).splitlines():
            words = shlex.split(line)
            command = [sys.executable, "-m", *words]
            if words[-1] == "run" or (words[0] == "edgesync" and len(words) == 3):
                self._start(command)
                continue
            if words[1] == "init" and words[0] == "hubd":
                command += ["--port", self.ports["http"]]
            printed = self._done(command).strip()
            if "enroll" in words:
                self.token = printed

    def redis(self, text: str) -> None:
        client = redis.Redis(port=int(self.ports["redis"]), protocol=3, socket_timeout=PATIENCE_S)
        self._until(lambda: _answers(client))
        lines = text.splitlines()
        while lines:
            asked = lines.pop(0)
            told = list(itertools.takewhile(lambda line: line.startswith("#"), lines))
            del lines[: len(told)]
            shown = _shown(client.execute_command(*shlex.split(asked)))  # type: ignore[no-untyped-call]
            wanted = [line.removeprefix("# ").replace("…", "*") for line in told]
            if wanted[-1] == "*":
                del shown[len(wanted) - 1 :], wanted[-1]
            assert len(shown) == len(wanted), (asked, shown)
            for one, pattern in zip(shown, wanted, strict=True):
                assert fnmatch.fnmatchcase(one, pattern), asked
        client.close()

    def _done(self, command: list[str]) -> str:
        done = subprocess.run(
            command, cwd=self.folder, capture_output=True, text=True, timeout=PATIENCE_S
        )
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        return done.stdout

    def _start(self, command: list[str]) -> None:
        log = self.folder / f"{len(self.daemons)}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(command, cwd=self.folder, stdout=out, stderr=out)
        self.daemons.append(process)
        self._until(lambda: re.search("(hub|edge) ready", log.read_text()) is not None)

    def _until(self, is_so: Callable[[], bool]) -> None:
        for _ in range(int(PATIENCE_S / 0.05)):
            if is_so():
                return
            assert all(one.poll() is None for one in self.daemons), self._logs()
            time.sleep(0.05)
        raise AssertionError(self._logs())

    def _logs(self) -> str:
        return "\n".join(path.read_text()[-3000:] for path in self.folder.glob("*.log"))

    def close(self) -> None:
        for process in self.daemons:
            process.kill()
            process.wait()


def _answers(client: "redis.Redis") -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


def _shown(reply: object) -> list[str]:
    """Return a reply as lines, one for each field of a map."""
    if isinstance(reply, dict):
        return [f"{_text(name)}: {_text(value)}" for name, value in reply.items()]
    if isinstance(reply, list):
        return [_text(one) for one in reply]
    return ["OK" if reply is True else _text(reply)]


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    found = Reader(tmp_path)
    yield found
    found.close()


@pytest.mark.feature("L9", "L12", "L13", "L14")
def test_the_guide_works_from_top_to_bottom(reader: Reader) -> None:
    assert not others("docs/edge-guide.md")
    for block in all_blocks("docs/edge-guide.md"):
        getattr(reader, block.language)(block.text)

"""`edgesync init` in a folder that is there already: the hub is set, nothing else is touched."""

import os
import re
import stat
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgesync.cli import main as edgesync
from hubd.cli import main as hubd
from tests.terminal import Terminal, open_terminal

pytestmark = pytest.mark.feature("S6")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terminal]:
    """A hub that runs."""
    with open_terminal(tmp_path_factory.mktemp("site")) as terminal:
        terminal.start_hub()
        yield terminal


def init(site: Terminal, folder: Path, token: str, *more: str) -> str:
    site.edge_config = folder / "edge.toml"
    return site.out("edgesync", "init", "--token", token, *more)


def invite(site: Terminal, edge: str) -> str:
    return site.out("hubd", "enroll", edge, "--again").strip()


def test_it_says_whether_the_key_pair_is_new(site: Terminal, tmp_path: Path) -> None:
    keys = tmp_path / "edge.keys"
    printed = init(site, tmp_path, invite(site, "a"))
    assert "made a new key pair" in printed
    assert f"edgesync --config {tmp_path / 'edge.toml'} run" in printed
    first = keys.read_text()
    assert "is used again" in init(site, tmp_path, invite(site, "a"))
    assert keys.read_text() == first
    assert "made a new key pair" in init(site, tmp_path, invite(site, "a"), "--new-key")
    assert keys.read_text() != first
    assert stat.S_IMODE(keys.stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.glob("*.new")] == []


def test_a_new_pair_counts_only_when_the_hub_has_it(site: Terminal, tmp_path: Path) -> None:
    used = invite(site, "b")
    init(site, tmp_path, used)
    keys = tmp_path / "edge.keys"
    first = keys.read_text()
    refused = site.run("edgesync", "init", "--token", used, "--new-key")
    assert refused.returncode == 1
    assert "used already" in refused.stderr
    assert keys.read_text() == first
    # The pair that waits is shown again: the hub would have said yes to it before.
    waiting = (tmp_path / "edge.keys.new").read_text()
    init(site, tmp_path, invite(site, "b"), "--new-key")
    assert keys.read_text() == waiting


OPERATORS_FILE = """\
# Mine.
[edge]
name = "shop"

[ hub ]   # the one in the cellar
server_key = '{old}'   # from the first day
keys = "mine.keys"

[http]
port = 0
"""


def test_only_the_hub_of_a_file_is_replaced(site: Terminal, tmp_path: Path) -> None:
    config = tmp_path / "edge.toml"
    config.write_text(OPERATORS_FILE.format(old="x" * 40))
    config.chmod(0o640)
    init(site, tmp_path, invite(site, "c"))
    lines = config.read_text().splitlines()
    hub = tomllib.loads(config.read_text())["hub"]
    assert hub["endpoint"] == f"tcp://127.0.0.1:{site.link_port}"
    assert f'server_key = "{hub["server_key"]}"   # from the first day' in lines
    kept = [line for line in lines if not line.startswith(("endpoint", "server_key"))]
    before = OPERATORS_FILE.splitlines()
    assert kept == [line for line in before if not line.startswith("server_key")]
    assert (tmp_path / "mine.keys").exists()
    assert stat.S_IMODE(config.stat().st_mode) == 0o640
    again = config.read_text()
    init(site, tmp_path, invite(site, "c"))
    assert config.read_text() == again


@pytest.mark.parametrize("text", ["", "[http]\nport = 0\n", '[edge]\ndata_dir = "d"\n'])
def test_a_file_without_a_name_gets_the_one_the_hub_has(
    site: Terminal, tmp_path: Path, text: str
) -> None:
    config = tmp_path / "edge.toml"
    config.write_text(text)
    init(site, tmp_path, invite(site, "named"))
    table = tomllib.loads(config.read_text())
    assert table["edge"].pop("name") == "named"
    assert set(table.pop("hub")) == {"endpoint", "server_key"}
    assert {key: one for key, one in table.items() if one} == tomllib.loads(text)


@pytest.mark.parametrize(
    "text",
    [
        'hub = {{ endpoint = "tcp://a:1", server_key = "{old}" }}\n',
        'hub.endpoint = "tcp://a:1"\nhub.server_key = "{old}"\n',
        '[hub]\nendpoint = """tcp://a:1"""\nserver_key = "{old}"\n',
    ],
)
def test_a_form_that_cannot_be_edited_is_left_alone_with_what_to_write(
    site: Terminal, tmp_path: Path, text: str
) -> None:
    config = tmp_path / "edge.toml"
    before = text.format(old="x" * 40)
    config.write_text(before)
    site.edge_config = config
    token = invite(site, "d")
    refused = site.run("edgesync", "init", "--token", token)
    assert refused.returncode == 1
    endpoint = f'endpoint = "tcp://127.0.0.1:{site.link_port}"'
    assert endpoint in refused.stderr
    assert config.read_text() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["edge.toml"]
    # The token is still good.
    config.unlink()
    init(site, tmp_path, token)


def test_refusals_come_over_the_link_with_their_reasons(site: Terminal, tmp_path: Path) -> None:
    first = invite(site, "e")
    second = invite(site, "e")
    site.edge_config = tmp_path / "edge.toml"
    withdrawn = site.run("edgesync", "init", "--token", first)
    assert withdrawn.returncode == 1
    assert "has expired; ask for a new one" in withdrawn.stderr
    assert not site.edge_config.exists()
    init(site, tmp_path, second)
    site.out("hubd", "forget", "e", "--yes")
    unknown = site.run("edgesync", "init", "--token", second)
    assert unknown.returncode == 1
    # At the handshake or, until the hub has looked at its registry again, in the answer.
    assert re.search("does not know this token|is not known any more", unknown.stderr)


def test_a_hub_that_is_not_there_is_said_to_be_so(tmp_path: Path) -> None:
    with open_terminal(tmp_path) as far:
        far.out("hubd", "init", "--listen", f"tcp://127.0.0.1:{far.link_port}")
        token = far.out("hubd", "enroll", "barn-7").strip()
        refused = far.run("edgesync", "init", "--token", token)
        assert refused.returncode == 1
        assert "is the hub running there" in refused.stderr
        assert not far.edge_config.exists()


def test_a_hub_with_a_public_url_enrols_over_http(tmp_path: Path) -> None:
    with open_terminal(tmp_path) as web:
        web.out("hubd", "init", "--listen", f"tcp://127.0.0.1:{web.link_port}",
                "--port", str(web.http_port),
                "--public-url", f"http://127.0.0.1:{web.http_port}")  # fmt: skip
        web.start_hub()
        token = web.enrol()
        web.start_edge()
        web.out("edgesync", "sync", "--timeout", "100")
        elsewhere = str(tmp_path / "x" / "edge.toml")
        used = web.run("edgesync", "--config", elsewhere, "init", "--token", token)
        assert used.returncode == 1
        assert "used already" in used.stderr


def test_settings_and_keys_are_on_disk_before_they_take_the_place_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a power cut would leave a file of no bytes where the operator's own was."""
    synced, fsync, replace = set[int](), os.fsync, Path.replace

    def noted(fd: int) -> None:
        synced.add(os.fstat(fd).st_ino)
        fsync(fd)

    def checked(self: Path, target: Path) -> Path:
        assert self.stat().st_ino in synced
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr(Path, "replace", checked)
    monkeypatch.chdir(tmp_path)
    for program, config in ((edgesync, "edge.toml"), (hubd, "hub.toml")):
        found = CliRunner().invoke(program, ["--config", config, "init"])
        assert found.exit_code == 0, found.output
        assert tmp_path.stat().st_ino in synced
        synced.clear()
    (tmp_path / "hub.toml").chmod(0o600)
    assert CliRunner().invoke(hubd, ["--config", "hub.toml", "token"]).exit_code == 0
    assert stat.S_IMODE((tmp_path / "hub.toml").stat().st_mode) == 0o600

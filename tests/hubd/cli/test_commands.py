"""`hubd …` as an operator uses it, with a real edge on the other side."""

import configparser
import contextlib
import hashlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tomllib
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from click.testing import CliRunner

from edgesync_transport.keys import decode_token
from hubd import data_folder, serve
from hubd.cli import COMMANDS
from hubd.cli import main as hubd_command
from hubd.cli.run import with_token
from hubd.log.lmdb import LmdbLog
from hubd.registry import open_registry
from hubd.registry.users import Role
from hubd.settings import data_dir, read_settings
from tests.hubd.keys import meet
from tests.terminal import Terminal, open_terminal


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    with open_terminal(tmp_path) as found:
        yield found


@pytest.mark.feature("S6")
def test_an_edge_is_let_in_seen_revoked_and_let_in_again(terminal: Terminal) -> None:
    terminal.start_hub()
    token = terminal.enrol()
    edge = terminal.start_edge()
    terminal.out("edgesync", "sync", "--timeout", "100")

    def state() -> str:
        return str(terminal.json("hubd", "edges")[0]["state"])

    assert state() in ("connected", "processing")
    listed = terminal.out("hubd", "edges")
    assert "barn-7" in listed
    assert "enrolled" in listed
    assert "prefixes" not in listed  # no edge has any

    used = terminal.run("edgesync", "--config", str(terminal.folder / "x" / "edge.toml"),
                        "init", "--token", token)  # fmt: skip
    assert used.returncode == 1
    assert "used already" in used.stderr

    terminal.out("hubd", "revoke", "barn-7")
    terminal.until(lambda: state() == "revoked")
    terminal.until(lambda: terminal.json("edgesync", "status")["link"]["epoch"] == 0)
    assert terminal.run("hubd", "enroll", "barn-7").returncode == 69  # known: --again is needed
    assert terminal.stop(edge) == 0

    again = terminal.out("hubd", "enroll", "barn-7", "--again").strip()
    old_keys = terminal.edge_config.with_name("edge.keys").read_text()
    edge = terminal.start_edge()  # the token alone lets nobody in
    terminal.until(
        lambda: "not enrolled, or revoked" in terminal.json("edgesync", "status")["link"]["problem"]
    )
    assert state() == "revoked"
    assert terminal.stop(edge) == 0

    settings = terminal.edge_config.read_text()
    joined = terminal.out("edgesync", "init", "--token", again)
    assert "was revoked" in joined
    assert "made a new key pair" in joined
    assert terminal.edge_config.read_text() == settings
    assert terminal.edge_config.with_name("edge.keys").read_text() != old_keys
    terminal.start_edge()
    terminal.out("edgesync", "sync", "--timeout", "100")
    assert state() in ("connected", "processing")


def test_a_hub_that_runs_is_copied_and_the_copy_is_whole(terminal: Terminal) -> None:
    hub = terminal.start_hub()
    terminal.out("hubd", "keys", "SET", "price", "4.20")
    terminal.enrol()
    edge = terminal.start_edge()
    terminal.out("edgesync", "sync", "--timeout", "100")
    backup = terminal.folder / "backup"
    terminal.out("hubd", "backup", str(backup))
    entries, ledger = _log(terminal), terminal.out("hubd", "ledger", "--edge", "barn-7")
    assert '"place": "state"' not in ledger  # no readings, and the state of a running hub is read
    twice = terminal.run("hubd", "backup", str(backup), "--json")
    assert twice.returncode == 69
    assert "name a folder of its own" in json.loads(twice.stdout)["error"]
    assert terminal.stop(edge) == terminal.stop(hub) == 0

    terminal.hub_config.parent.rename(terminal.folder / "lost")
    assert "hub.toml from the backup" in terminal.out("hubd", "restore", str(backup))
    assert _log(terminal) == entries
    assert [row["state"] for row in terminal.json("hubd", "edges")] == ["unknown"]
    terminal.start_hub()
    assert json.loads(terminal.out("hubd", "keys", "GET", "price")) == "4.20"
    for source, problem in ((terminal.folder, "holds no backup"), (backup, "move it aside")):
        refused = terminal.run("hubd", "restore", str(source))
        assert (refused.returncode, problem in refused.stderr) == (69, True), refused.stderr


@pytest.mark.feature("S32")
def test_a_restored_hub_is_sent_what_it_lacks(terminal: Terminal) -> None:
    """The backup is older than what the edge saw acknowledged; nothing is missing afterwards."""
    hub = terminal.start_hub()
    terminal.enrol()
    edge = terminal.start_edge()
    terminal.out("edgesync", "sync", "--timeout", "100")
    assert terminal.stop(hub) == 0
    backup = terminal.folder / "backup"
    assert "holds the log" in terminal.out("hubd", "backup", str(backup))
    before = _log(terminal)
    assert before

    hub = terminal.start_hub()
    assert terminal.stop(edge) == 0
    edge = terminal.start_edge()  # says that it started: records after the backup
    terminal.out("edgesync", "sync", "--timeout", "100")
    assert terminal.stop(hub) == 0
    full = _log(terminal)
    assert len(full) > len(before)

    data = terminal.hub_config.parent / "data"
    kept = terminal.run("hubd", "restore", str(backup))
    assert kept.returncode == 69
    assert "move it aside" in kept.stderr
    data.rename(data.with_name("lost"))
    assert "restored up to position" in terminal.out("hubd", "restore", str(backup))
    assert _log(terminal) == before

    hub = terminal.start_hub()
    terminal.until(lambda: "rewind" in terminal.out("edgesync", "events", "--json"))
    terminal.out("edgesync", "sync", "--timeout", "100")
    assert terminal.stop(hub) == 0
    again = _log(terminal)
    assert again[: len(full)] == full


@pytest.mark.feature("F24")
def test_a_restore_says_who_may_be_let_in_again(tmp_path: Path) -> None:
    with open_terminal(tmp_path) as terminal:
        terminal.out("hubd", "init")
        data = terminal.hub_config.parent / "data"
        terminal.out("hubd", "backup", str(tmp_path / "first"))
        with contextlib.closing(open_registry(data)) as registry:
            registry.users.add("mallory", "correct horse battery", role=Role.ADMIN, tenant=None)
        terminal.out("hubd", "backup", str(tmp_path / "second"))
        for backup, has_users in (("first", False), ("second", True)):
            for lost in data.glob("registry.*"):
                lost.unlink()
            told = terminal.run("hubd", "restore", "--registry", str(tmp_path / backup))
            assert (told.returncode, "after the backup at 20" in told.stderr) == (0, True)
            assert ("`hubd users list`" in told.stderr) is True
            assert ("no users are in it" in told.stderr) is not has_users


def _log(terminal: Terminal) -> list[tuple[int, int, str]]:
    """Every record in the log: lane, seq, event id."""
    lines = terminal.out("hubd", "ledger", "--edge", "barn-7").splitlines()
    rows = [json.loads(line) for line in lines]
    return [(r["lane"], r["seq"], r["event_id"]) for r in rows if r["place"] == "log"]


def test_the_log_is_listed(terminal: Terminal) -> None:
    hub = terminal.start_hub()
    terminal.enrol()
    terminal.start_edge()
    terminal.out("edgesync", "sync", "--timeout", "100")
    running = terminal.out("hubd", "log", "--json").splitlines()
    second = terminal.run("hubd", "run")
    assert second.returncode == 75
    assert "Traceback" not in second.stderr
    assert terminal.stop(hub) == 0
    entries = [json.loads(line) for line in terminal.out("hubd", "log", "--json").splitlines()]
    assert [one["position"] for one in entries] == list(range(1, len(entries) + 1))
    assert {one["edge"] for one in entries} == {"barn-7", "hub:default"}
    assert [json.loads(line) for line in running] == entries[: len(running)] != []
    assert "no edge nobody" in terminal.run("hubd", "log", "--edge", "nobody").stderr
    assert len(terminal.out("hubd", "log", "--after", "1").splitlines()) == len(entries) - 1


def test_what_no_edge_could_use_is_refused_before_it_is_stored(terminal: Terminal) -> None:
    terminal.out("hubd", "init")
    text = terminal.hub_config.read_text()
    public = tomllib.loads(text)["hub"]["public"]
    assert public.endswith(":7400")  # this machine's own address, and not "all of them"
    assert "0.0.0.0" not in public
    terminal.out("hubd", "enroll", "example")  # as the help's example goes on
    terminal.out("hubd", "forget", "example", "--yes")
    terminal.hub_config.write_text(text.replace(f'public = "{public}"', ""))
    refused = terminal.run("hubd", "enroll", "barn-7")
    assert refused.returncode == 69
    assert "hub.public" in refused.stderr
    assert terminal.json("hubd", "edges") == []
    done = terminal.run("hubd", "--config", str(terminal.folder / "far" / "hub.toml"),
                        "init", "--public", "tcp://hub.example.org:7400")  # fmt: skip
    assert done.returncode == 0
    token = terminal.out("hubd", "--config", str(terminal.folder / "far" / "hub.toml"),
                         "enroll", "barn-7")  # fmt: skip
    assert decode_token(token).address == "tcp://hub.example.org:7400"
    assert decode_token(token).enrol_url == ""  # over the link: no other address is needed
    bad_name = terminal.run("hubd", "enroll", "barn 7")
    assert bad_name.returncode == 2
    again = terminal.run("hubd", "init")
    assert again.returncode == 1
    assert "exists" in again.stderr
    unknown = terminal.run("hubd", "revoke", "nobody")
    assert unknown.returncode == 69
    assert "nobody" in unknown.stderr


def test_a_hub_that_is_reachable_gets_its_token_with_it(terminal: Terminal) -> None:
    listen = f"tcp://127.0.0.1:{terminal.link_port}"
    said = terminal.out(
        "hubd", "init", "--host", "0.0.0.0", "--port", str(terminal.http_port), "--listen", listen
    )
    (token,) = re.findall(r"esapi\.[\w-]+", said)
    assert token not in terminal.hub_config.read_text()
    reader = terminal.json("hubd", "token", "--read")["token"]
    writer = terminal.out("hubd", "token").strip()
    hub = terminal.start_hub()
    assert "a token is needed" in terminal.run("hubd", "keys", "GET", "k").stderr
    for each in (token, writer):
        assert json.loads(terminal.out("hubd", "keys", "--token", each, "SET", "k", "v")) == "OK"
    assert json.loads(terminal.out("hubd", "keys", "--token", reader, "GET", "k")) == "v"
    assert terminal.run("hubd", "keys", "--token", reader, "SET", "k", "w").returncode == 69
    assert terminal.json("hubd", "edges") == []  # over the hub's own socket: no token
    assert terminal.json("hubd", "edges", "--token", reader) == []  # and one does no harm
    assert terminal.stop(hub) == 0


@pytest.mark.parametrize(
    "text",
    ["", "[api]\nport = 1\n", '[api]\ntoken_sha256 = ["%s"]\n\n[link]\nheartbeat = "3s"\n'],
)
def test_a_token_goes_into_any_file(text: str) -> None:
    old, new = "a" * 64, "b" * 64
    made = tomllib.loads(with_token(text.replace("%s", old), "token_sha256", new))
    assert new in made["api"]["token_sha256"]
    assert (old in made["api"]["token_sha256"]) == ("%s" in text)
    assert made.get("link") == tomllib.loads(text).get("link")


def test_an_edge_is_forgotten(terminal: Terminal) -> None:
    terminal.start_hub()
    terminal.enrol()
    edge = terminal.start_edge()
    terminal.out("edgesync", "sync", "--timeout", "100")
    asked = terminal.run("hubd", "forget", "barn-7")
    assert asked.returncode != 0  # nobody said yes
    assert "never let in again" in asked.stderr + asked.stdout
    terminal.out("hubd", "forget", "barn-7", "--yes")
    assert terminal.json("hubd", "edges") == []
    terminal.until(lambda: terminal.json("edgesync", "status")["link"]["epoch"] == 0)
    assert terminal.run("hubd", "forget", "barn-7", "--yes").returncode == 69
    assert terminal.stop(edge) == 0
    terminal.out("hubd", "enroll", "barn-7")  # the name is free again


@pytest.mark.parametrize("program", ["edgesync", "hubd"])
def test_a_service_starts_as_its_unit_says(terminal: Terminal, program: str) -> None:
    terminal.start_hub()
    terminal.enrol()
    terminal.close()
    unit = terminal.out(program, "service", "print", "--user", "nobody")
    parsed = configparser.ConfigParser(strict=False, interpolation=None)
    parsed.optionxform = str  # type: ignore[assignment,method-assign]
    parsed.read_string(unit)
    service = parsed["Service"]
    assert (service["Type"], service["User"], service["ProtectSystem"]) == (
        "notify", "nobody", "strict",
    )  # fmt: skip
    assert Path(service["ReadWritePaths"]).name == "data"
    address = str(terminal.folder / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address)
        manager.settimeout(30)
        process = subprocess.Popen(
            service["ExecStart"].split(), cwd=service["WorkingDirectory"],
            env={**os.environ, "NOTIFY_SOCKET": address}, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        said = ""
        try:
            while not ("READY=1" in said and "WATCHDOG=1" in said):
                said += manager.recv(4096).decode()
            assert terminal.stop(process) == 0
            while "STOPPING=1" not in said:
                said += manager.recv(4096).decode()
        finally:
            process.kill()
            process.wait()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[hub]\nlisten = ["0.0.0.0:7400"]', "hub.listen"),
        ("[link]\nwindow = 3", "is not a known key"),
        ('[api]\nhost = "0.0.0.0"', "token_sha256"),
    ],
)
def test_wrong_settings_end_in_one_line_and_their_own_code(
    terminal: Terminal, text: str, words: str
) -> None:
    terminal.hub_config.parent.mkdir()
    terminal.hub_config.write_text(text)
    done = terminal.run("hubd", "run")
    assert done.returncode == 78
    assert words in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "command",
    [
        "",
        "init",
        "run",
        "enroll",
        "revoke",
        "edges",
        "keys",
        "conflicts",
        "forget",
        "token",
        "service",
        "retire",
        "log",
        "ledger",
        "backup",
    ],
)
def test_help_shows_an_example(terminal: Terminal, command: str) -> None:
    assert "Example:" in terminal.out("hubd", *filter(None, [command]), "--help") or (
        command == "ledger"
    )


@pytest.mark.feature("L3", "L13")
def test_keys_and_conflicts_of_a_hub_that_runs_or_stands_still(terminal: Terminal) -> None:
    hub = terminal.start_hub()
    assert json.loads(terminal.out("hubd", "keys", "hset", "mine", "apples", "-3")) == 1
    assert terminal.stop(hub) == 0

    _let_two_edges_meet(terminal)
    (still,) = terminal.json("hubd", "conflicts")
    assert (still["key"], still["cell"], still["name"]) == ("basket", "field", "apples")
    assert still["winner"]["edge"] in ("barn", "shop")
    hub = terminal.start_hub()
    assert terminal.json("hubd", "conflicts", "--prefix", "bas") == [still]
    assert terminal.json("hubd", "conflicts", "--status", "resolved") == []
    assert "basket" in terminal.out("hubd", "conflicts")

    terminal.out("hubd", "keys", "HSET", "basket", "apples", "[b]4[/b]")  # has seen both
    assert terminal.json("hubd", "conflicts") == []
    reply = terminal.out("hubd", "keys", "HGETALL", "basket")
    assert json.loads(reply) == {"apples": "[b]4[/b]"}
    wrong = terminal.run("hubd", "keys", "INCR", "basket")
    assert (wrong.returncode, "WRONGTYPE" in wrong.stderr) == (69, True)

    assert "no more" in terminal.out("hubd", "retire", "barn")
    assert terminal.stop(hub) == 0
    unknown = terminal.run("hubd", "retire", "barn")
    assert (unknown.returncode, "keeps no copy" in unknown.stderr) == (1, True)
    assert "no more" in terminal.out("hubd", "retire", "shop")
    assert terminal.json("hubd", "conflicts", "--status", "all")[0]["status"] == "resolved"
    assert json.loads(terminal.out("hubd", "keys", "HGETALL", "basket")) == json.loads(reply)


def _let_two_edges_meet(terminal: Terminal) -> None:
    """As if two edges had written beside each other and been heard before the hub was stopped."""
    settings = read_settings(terminal.hub_config)
    folder = data_dir(terminal.hub_config, settings)
    with (
        contextlib.closing(LmdbLog(folder / data_folder.LOG)) as hub_log,
        contextlib.closing(serve.open_cells(settings, folder, hub_log)) as cells,
    ):
        command = ("HSET", "basket", "apples")
        meet(cells, ("barn", (*command, "10")), ("shop", (*command, "12")))
        cells.commit()


@pytest.mark.feature("L13")
def test_a_hub_that_wants_a_token_says_so(terminal: Terminal) -> None:
    terminal.start_hub()
    terminal.close()
    text = terminal.hub_config.read_text()
    digest = hashlib.sha256(b"es1.secret").hexdigest()
    terminal.hub_config.write_text(f'{text}write_token_sha256 = ["{digest}"]\n')
    terminal.start_hub()
    refused = terminal.run("hubd", "keys", "GET", "k")
    assert (refused.returncode, "a token is needed" in refused.stderr) == (69, True)
    assert json.loads(terminal.out("hubd", "keys", "--token", "es1.secret", "GET", "k")) is None


@pytest.mark.feature("C14")
def test_two_tenants_share_a_hub_and_nothing_else(tmp_path: Path) -> None:
    """Two gateways with one key of one name; a copy of the hub keeps them apart, too."""
    with open_terminal(tmp_path) as acme, open_terminal(tmp_path / "b") as bolt:
        (tmp_path / "b").mkdir()
        bolt.hub_config = acme.hub_config
        hub = acme.start_hub()
        for name, terminal in (("acme", acme), ("bolt", bolt)):
            acme.out("hubd", "tenant", "add", name)
            token = acme.out("hubd", "enroll", f"{name}-1", "--tenant", name, "--site", "Ulm")
            terminal.out("edgesync", "init", "--token", token.strip())
            text = terminal.edge_config.read_text().replace("port = 9464", "port = 0")
            text += f"\n[cells]\nport = {terminal.modbus_port}\n"
            terminal.edge_config.write_text(text)
            terminal.start_edge()
            with redis.Redis(port=terminal.modbus_port) as keys:
                keys.set("who", name)
            terminal.out("edgesync", "sync", "--timeout", "100")
        for terminal in (acme, bolt):
            terminal.out("edgesync", "sync", "--timeout", "100")
        for name, terminal in (("acme", acme), ("bolt", bolt)):
            with redis.Redis(port=terminal.modbus_port) as keys:
                assert keys.get("who") == name.encode()

        def said(tenant: str) -> str:
            return str(json.loads(acme.out("hubd", "keys", "--tenant", tenant, "GET", "who")))

        assert (said("acme"), said("bolt"), said("default")) == ("acme", "bolt", "None")
        assert "no tenant" in acme.run("hubd", "keys", "--tenant", "x", "GET", "who").stderr
        rows = acme.json("hubd", "tenant", "list")
        assert [(one["tenant"], one["edges"]) for one in rows] == [
            ("acme", 1), ("bolt", 1), ("default", 0),
        ]  # fmt: skip
        backup = tmp_path / "backup"
        acme.out("hubd", "backup", str(backup))

        made = acme.json("hubd", "tenant", "token", "bolt", "--read")
        url = f"http://127.0.0.1:{acme.http_port}/api/v1/edges"

        def edges_shown() -> list[str] | int:
            wanted = urllib.request.Request(url)
            wanted.add_header("Authorization", f"Bearer {made['token']}")
            try:
                with urllib.request.urlopen(wanted, timeout=100) as answer:
                    return [one["link"]["edge"] for one in json.load(answer)["edges"]]
            except urllib.error.HTTPError as error:
                return error.code

        acme.until(lambda: edges_shown() == ["bolt-1"])
        acme.out("hubd", "tenant", "withdraw", "bolt", made["sha256"][:8])
        acme.until(lambda: edges_shown() == 401)  # although this hub asks nobody for a token
        refused = acme.run("hubd", "enroll", "bolt-1", "--again")
        assert "another tenant" in refused.stderr
        assert acme.stop(hub) == 0

        acme.hub_config.parent.rename(tmp_path / "lost")
        acme.out("hubd", "restore", str(backup))
        assert (said("acme"), said("bolt")) == ("acme", "bolt")


@pytest.mark.feature("S3")
def test_a_hub_that_was_killed_or_stopped_is_found_without_a_pause(terminal: Terminal) -> None:
    """The first pause of back-off is longer than this test may take."""
    hub = terminal.start_hub()
    terminal.enrol()
    terminal.add_meter()
    pauses = '[sync]\nreconnect_base = "1h"\nreconnect_cap = "1h"\nbreaker_open = "1h"'
    settings = terminal.edge_config.read_text()
    terminal.edge_config.write_text(settings.replace("[sync]", pauses, 1))
    terminal.start_edge()

    def problem() -> str:
        return str(terminal.json("edgesync", "status")["link"]["problem"])

    def readings() -> int:
        (ledger,) = terminal.json("hubd", "status")["ledger"]
        return int(ledger["readings_in_state"])

    terminal.until(lambda: readings() > 0)
    terminal.out("edgesync", "sync")
    for how in (signal.SIGKILL, signal.SIGTERM):
        hub.send_signal(how)
        hub.wait()
        terminal.until(lambda: "nothing answers" in problem())
        hub = terminal.start_hub()
        terminal.until(lambda: problem() == "")
        before = readings()
        terminal.until(lambda before=before: readings() > before)
        # What a session has done counts once the edge has heard of it: the screen may be faster.
        terminal.out("edgesync", "sync")


@pytest.mark.feature("C14")
def test_the_first_user_closes_the_hub_and_the_last_opens_it(terminal: Terminal) -> None:
    hub = terminal.start_hub()
    url = f"http://127.0.0.1:{terminal.http_port}/api/v1/edges"

    def status(cookie: str = "") -> int:
        wanted = urllib.request.Request(url, headers={"Cookie": cookie})
        try:
            with urllib.request.urlopen(wanted, timeout=100) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code

    def users(*arguments: str, password: str = "") -> str:
        done = subprocess.run(
            terminal.command("hubd", "users", *arguments), input=password, text=True,
            capture_output=True, timeout=100,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    assert status() == 200
    made = users("add", "ana", "--role", "admin", "--all-tenants", password="correct horse\n")
    assert "ana may log in as admin of all tenants" in made
    assert "want a password or a token" in made
    terminal.until(lambda: status() == 401)
    refused = terminal.run("hubd", "attributes", "barn-7", "meter0")
    assert (refused.returncode, "--token or HUBD_TOKEN" in refused.stderr) == (69, True)
    form = urllib.parse.urlencode({"name": "ana", "password": "correct horse"}).encode()
    login = http.client.HTTPConnection("127.0.0.1", terminal.http_port, timeout=100)
    login.request("POST", "/login", form, {"Content-Type": "application/x-www-form-urlencoded"})
    cookie = login.getresponse().headers["Set-Cookie"].partition(";")[0]
    login.close()
    assert status(cookie) == 200
    users("add", "joe", "--role", "operator", "--site", "Hall 4", password="another horse\n")
    rows = {one["user"]: one for one in terminal.json("hubd", "users", "list")}
    assert (rows["joe"]["role"], rows["joe"]["sites"]) == ("operator", ["Hall 4"])
    assert "admin of default" in users("role", "joe", "admin")
    assert "joe: admin of default, made" in users("list")
    users("password", "ana", password="a third horse\n")
    terminal.until(lambda: status(cookie) == 401)
    refused = terminal.run("hubd", "users", "role", "nobody", "admin")
    assert (refused.returncode, "hubd users list" in refused.stderr) == (69, True)
    # A hub that starts again knows its users, and those of a backup are there, too.
    backup = terminal.folder / "backup"
    assert "; the state, " in terminal.out("hubd", "backup", str(backup))
    assert terminal.stop(hub) == 0
    terminal.hub_config.parent.rename(terminal.folder / "lost")
    terminal.out("hubd", "restore", str(backup))
    hub = terminal.start_hub()
    assert status() == 401
    users("remove", "joe")
    assert "no user is left" in users("remove", "ana")
    terminal.until(lambda: status() == 200)
    assert terminal.stop(hub) == 0


LIGHT = """
import importlib, sys
import hubd.cli, hubd.client
for module, _ in hubd.cli.COMMANDS.values():
    importlib.import_module(module)
print({"alembic", "anycorn"} & sys.modules.keys())
"""


def test_a_command_loads_no_more_than_it_needs() -> None:
    """Each library takes a part of the second that a person waits for an answer."""
    done = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_hub_toml_is_checked_before_a_restart(tmp_path: Path) -> None:
    config = tmp_path / "hub.toml"
    words = ["--config", str(config), "check"]
    config.write_text('[hub]\npublic = "tcp://hub.example.org:7400"\n')
    shown = CliRunner().invoke(hubd_command, [*words, "--json"], env={"HUBD_API_PORT": "1"})
    assert shown.exit_code == 0, shown.output
    found = json.loads(shown.output)
    assert found["public"] == "tcp://hub.example.org:7400"
    assert found["doubts"] == ["HUBD_API_PORT is not read: write HUBD_API__PORT"]
    assert not (tmp_path / "data").exists()
    config.write_text("")
    shown = CliRunner().invoke(hubd_command, words)
    assert "doubtful     hub.listen is tcp://0.0.0.0:7400, which no edge can" in shown.output
    config.write_text("[api]\nprot = 1\n")
    shown = CliRunner().invoke(hubd_command, words)
    assert shown.exit_code == 78
    assert "did you mean `port`?" in shown.output


@pytest.mark.parametrize("name", list(COMMANDS))
def test_each_command_is_where_the_list_says_and_has_help(name: str) -> None:
    shown = CliRunner().invoke(hubd_command, [name, "--help"])
    assert shown.exit_code == 0
    assert "Usage: " in shown.output

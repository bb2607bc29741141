"""`hubd …` as an operator uses it, with a real edge on the other side."""

import contextlib
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from hubd import serve
from hubd.log.lmdb import LmdbLog
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
    terminal.out("edgesync", "sync", "--timeout", "20")

    def state() -> str:
        return str(terminal.json("hubd", "edges")[0]["state"])

    assert state() in ("connected", "processing")
    assert "barn-7" in terminal.out("hubd", "edges")

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
    terminal.out("edgesync", "sync", "--timeout", "20")
    assert state() in ("connected", "processing")


def test_a_hub_that_runs_is_copied_and_the_copy_is_whole(terminal: Terminal) -> None:
    hub = terminal.start_hub()
    terminal.out("hubd", "keys", "SET", "price", "4.20")
    terminal.enrol()
    edge = terminal.start_edge()
    terminal.out("edgesync", "sync", "--timeout", "20")
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
    nothing = terminal.run("hubd", "restore", str(terminal.folder))
    assert (nothing.returncode, "exists; move it aside" in nothing.stderr) == (69, True)


@pytest.mark.feature("S32")
def test_a_restored_hub_is_sent_what_it_lacks(terminal: Terminal) -> None:
    """The backup is older than what the edge saw acknowledged; nothing is missing afterwards."""
    hub = terminal.start_hub()
    terminal.enrol()
    edge = terminal.start_edge()
    terminal.out("edgesync", "sync", "--timeout", "20")
    assert terminal.stop(hub) == 0
    backup = terminal.folder / "backup"
    assert "holds the log" in terminal.out("hubd", "backup", str(backup))
    before = _log(terminal)
    assert before

    hub = terminal.start_hub()
    assert terminal.stop(edge) == 0
    edge = terminal.start_edge()  # says that it started: records after the backup
    terminal.out("edgesync", "sync", "--timeout", "20")
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
    terminal.out("edgesync", "sync", "--timeout", "20")
    assert terminal.stop(hub) == 0
    again = _log(terminal)
    assert again[: len(full)] == full


def _log(terminal: Terminal) -> list[tuple[int, int, str]]:
    """Every record in the log: lane, seq, event id."""
    lines = terminal.out("hubd", "ledger", "--edge", "barn-7").splitlines()
    rows = [json.loads(line) for line in lines]
    return [(r["lane"], r["seq"], r["event_id"]) for r in rows if r["place"] == "log"]


def test_the_log_is_listed(terminal: Terminal) -> None:
    hub = terminal.start_hub()
    terminal.enrol()
    terminal.start_edge()
    terminal.out("edgesync", "sync", "--timeout", "20")
    running = terminal.out("hubd", "log", "--json").splitlines()
    second = terminal.run("hubd", "run")
    assert second.returncode == 75
    assert "Traceback" not in second.stderr
    assert terminal.stop(hub) == 0
    entries = [json.loads(line) for line in terminal.out("hubd", "log", "--json").splitlines()]
    assert [one["position"] for one in entries] == list(range(1, len(entries) + 1))
    assert {one["edge"] for one in entries} == {"barn-7"}
    assert [json.loads(line) for line in running] == entries[: len(running)] != []
    assert terminal.out("hubd", "log", "--edge", "nobody") == ""
    assert len(terminal.out("hubd", "log", "--after", "1").splitlines()) == len(entries) - 1


def test_what_no_edge_could_use_is_refused_before_it_is_stored(terminal: Terminal) -> None:
    terminal.out("hubd", "init")  # listens on all addresses: which one would an edge use?
    refused = terminal.run("hubd", "enroll", "barn-7")
    assert refused.returncode == 69
    assert "hub.public" in refused.stderr
    assert terminal.json("hubd", "edges") == []
    done = terminal.run("hubd", "--config", str(terminal.folder / "far" / "hub.toml"),
                        "init", "--public", "tcp://hub.example.org:7400")  # fmt: skip
    assert done.returncode == 0
    told = terminal.run("hubd", "--config", str(terminal.folder / "far" / "hub.toml"),
                        "enroll", "barn-7")  # fmt: skip
    assert "hub.public_url" in told.stderr
    bad_name = terminal.run("hubd", "enroll", "barn 7")
    assert bad_name.returncode == 2
    again = terminal.run("hubd", "init")
    assert again.returncode == 1
    assert "exists" in again.stderr
    unknown = terminal.run("hubd", "revoke", "nobody")
    assert unknown.returncode == 69
    assert "nobody" in unknown.stderr


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
        contextlib.closing(LmdbLog(folder / serve.LOG)) as hub_log,
        contextlib.closing(serve.open_cells(settings, folder, hub_log)) as cells,
    ):
        command = ("HSET", "basket", "apples")
        meet(cells, ("barn", (*command, "10")), ("shop", (*command, "12")))
        # The log has no such entries: it is to go on from where it is.
        cells._set_mark(position=hub_log.head)
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

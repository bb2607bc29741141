"""`edgesync …` as an operator uses it, against a running hub."""

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import edgesync.cli
import hubd.cli
from edgesync import EdgeNode, Reading
from edgesync.cli import COMMANDS, program
from edgesync.cli.ask import troubles
from edgesync.serve.control import ask
from tests.terminal import Terminal, open_terminal, screen_of


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    with open_terminal(tmp_path) as found:
        yield found


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terminal]:
    """A hub, and an edge that reads a simulated meter; tests only ask."""
    with open_terminal(tmp_path_factory.mktemp("site")) as found:
        found.start_hub()
        found.enrol()
        found.add_meter()
        found.start_edge()
        found.until(lambda: len(found.json("edgesync", "latest")) > 10)
        yield found


@pytest.mark.feature("S12")
def test_status_says_how_the_edge_is(site: Terminal) -> None:
    site.out("edgesync", "sync", "--timeout", "100")
    # Between two polls of the meter everything has arrived.
    site.until(lambda: site.json("edgesync", "status")["link"]["state"] == "Connected")
    found = site.json("edgesync", "status")
    assert found["edge"] == "barn-7"
    assert found["readings"] > 10
    assert found["sources"][0]["state"] == "online"
    assert "meter0" in site.out("edgesync", "status")


def test_the_status_says_what_is_wrong_with_a_device() -> None:
    away = {"name": "pv", "state": "offline", "last_error": "no answer in 1 s"}
    assert troubles(away | {"invalid_points": {"A": "…"}}) == ["pv: offline: no answer in 1 s"]
    partly = {"name": "pv", "state": "online", "last_error": ""}
    points = {f"P{n:02}": "exception 2 (illegal data address)" for n in range(12)}
    found = troubles(partly | {"invalid_points": points})
    assert found[0] == "pv: no value of P00: exception 2 (illegal data address)"
    assert found[-1] == "pv: and 2 more (--json lists them)"
    assert len(found) == 11


@pytest.mark.feature("S5")
def test_queue_events_and_latest_answer(site: Terminal) -> None:
    assert site.json("edgesync", "queue")["dead"] == []
    assert "bulk" in site.out("edgesync", "queue")
    assert site.json("edgesync", "queue", "--replay") == {"replayed": 0}
    rows = site.json("edgesync", "events", "--type", "LIFECYCLE", "--limit", "5")
    assert any(row["action"] == "ADDED" or "started" in json.dumps(row) for row in rows)
    assert "LIFECYCLE" in site.out("edgesync", "events")
    powers = [one for one in site.json("edgesync", "latest") if one["unit"] == "W"]
    assert powers
    assert "meter0" in site.out("edgesync", "latest")


@pytest.mark.parametrize("kind", ["xterm", "dumb"])
def test_top_draws_link_lanes_and_devices(site: Terminal, kind: str) -> None:
    command = site.command("edgesync", "top", "--interval", "0.2")
    shown = screen_of(command, until="meter0", kind=kind)
    assert "bulk" in shown
    assert "readings/s" in shown


def test_a_question_nobody_knows_is_answered_with_those_there_are(site: Terminal) -> None:
    with pytest.raises(Exception, match="unknown question"):
        ask(site.edge_config.parent / "data", "gossip")


def test_a_second_daemon_in_one_folder_is_refused(site: Terminal) -> None:
    second = site.run("edgesync", "run")
    assert second.returncode == 75  # EX_TEMPFAIL
    assert "in use" in second.stderr or "another process" in second.stderr
    assert "Traceback" not in second.stderr
    assert site.run("edgesync", "status").returncode == 0


def test_init_overwrites_nothing(site: Terminal) -> None:
    again = site.run("edgesync", "init")
    assert again.returncode == 1
    assert "exists" in again.stderr


def test_an_edge_without_a_hub_stores_and_stops_cleanly(terminal: Terminal) -> None:
    terminal.out("edgesync", "init", "--name", "alone")
    text = terminal.edge_config.read_text().replace("port = 9464", "port = 0")
    terminal.edge_config.write_text(text)
    assert terminal.json("edgesync", "check")["hub"] is None
    assert "none" in terminal.out("edgesync", "check")
    edge = terminal.start_edge()
    assert terminal.json("edgesync", "status")["link"]["endpoint"] == ""
    synced = terminal.run("edgesync", "sync")
    assert synced.returncode == 69
    assert "init --token" in synced.stderr
    assert terminal.stop(edge) == 0
    # What it has stored still answers, and a screen of a daemon that is not there ends.
    stored = terminal.json("edgesync", "status")
    assert (stored["running"], stored["lanes"][1]["pending"]) == (False, 2)
    whats = [json.loads(row["body"])["what"] for row in terminal.json("edgesync", "events")]
    assert whats == ["stopped", "started"]
    assert terminal.json("edgesync", "queue")["dead"] == []
    top = terminal.run("edgesync", "top")
    assert (top.returncode, "edgesync run" in top.stderr) == (69, True)


def test_what_was_read_is_there_after_a_kill(terminal: Terminal) -> None:
    terminal.edge_config.parent.mkdir()
    with EdgeNode.local(terminal.edge_config.parent / "data") as node:
        node.ingest_sync([Reading("scale", "Weight", w, w, unit="kg") for w in (1, 2)])
        node.ingest_sync([Reading("gate", "Open", True, 3)])
    terminal.edge_config.write_text("")
    newest = [
        (row["key"], row["value"], row["unit"]) for row in terminal.json("edgesync", "latest")
    ]
    assert newest == [("Open", True, ""), ("Weight", 2, "kg")]


def test_errors_are_json_for_those_who_asked_for_it(terminal: Terminal) -> None:
    terminal.edge_config.parent.mkdir()
    terminal.edge_config.write_text('[edge]\nnmae = "x"')
    wrong = terminal.run("edgesync", "check", "--json")
    assert wrong.returncode == 78
    found = json.loads(wrong.stdout)
    assert (found["exit_code"], found["field"]) == (78, "edge.nmae")
    terminal.edge_config.write_text("")
    gone = json.loads(terminal.run("edgesync", "latest", "--json").stdout)
    assert "edgesync run" in gone["error"]


def test_a_key_file_that_is_gone_is_one_line(terminal: Terminal) -> None:
    """The likeliest mistake of who moves an edge to another machine."""
    terminal.edge_config.parent.mkdir()
    server_key = "x" * 40
    terminal.edge_config.write_text(
        f'[hub]\nendpoint = "tcp://127.0.0.1:9"\nserver_key = "{server_key}"\n'
    )
    for command in ("check", "run"):
        done = terminal.run("edgesync", command)
        assert (done.returncode, "hub.keys" in done.stderr) == (78, True), done.stderr
        assert "enroll NAME --again" in done.stderr
        assert "Traceback" not in done.stderr


def test_settings_are_looked_for_here_by_variable_and_for_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(program, "SYSTEM_FOLDER", tmp_path / "etc")
    assert program.find_config("edge.toml") == Path("edge.toml")  # to be made by `init`
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "edge.toml").touch()
    assert program.find_config("edge.toml") == tmp_path / "etc" / "edge.toml"
    (tmp_path / "edge.toml").touch()
    assert program.find_config("edge.toml") == Path("edge.toml")
    named = tmp_path / "named.toml"
    named.write_text('[edge]\nname = "by-variable"')
    words = [sys.executable, "-m", "edgesync", "check"]
    variable = {**os.environ, "EDGESYNC_CONFIG": str(named)}
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=variable)
    assert "by-variable" in done.stdout


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[edge]\nnmae = "x"', "did you mean `name`"),
        ('[sync]\nheartbeat = "5 parsecs"', "unit of time"),
        ('[[modbus]]\nname = "m"\nhost = "h"\nprofile = "no-such-profile"', "no-such-profile"),
    ],
)
def test_wrong_settings_end_in_one_line_and_their_own_code(
    terminal: Terminal, text: str, words: str
) -> None:
    terminal.edge_config.parent.mkdir()
    terminal.edge_config.write_text(text)
    for command in ("check", "run"):
        done = terminal.run("edgesync", command)
        assert done.returncode == 78  # EX_CONFIG
        assert words in done.stderr
        assert "Traceback" not in done.stderr


def test_a_wrong_token_is_refused_before_anything_is_written(terminal: Terminal) -> None:
    for token, words in (("rubbish", "token"), ("est1.AAAA", "token")):
        done = terminal.run("edgesync", "init", "--token", token)
        assert done.returncode != 0
        assert words in done.stderr
        assert not terminal.edge_config.exists()


@pytest.mark.parametrize("given", ["", "-"])
def test_an_empty_token_is_not_taken_for_an_edge_without_a_hub(
    terminal: Terminal, given: str
) -> None:
    words = terminal.command("edgesync", "init", "--token", given)
    done = subprocess.run(words, capture_output=True, text=True, input="\n")
    assert done.returncode == 1
    assert "the token is empty" in done.stderr
    assert not terminal.edge_config.exists()


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_shows_an_example(command: str) -> None:
    words = [sys.executable, "-m", "edgesync", *filter(None, [command]), "--help"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert "Example:" in done.stdout


@pytest.mark.parametrize(
    ("words", "meant"), [(("edgesync", "statsu"), "status"), (("hubd", "enrol", "a"), "enroll")]
)
def test_a_command_that_is_misspelt_is_guessed(words: tuple[str, ...], meant: str) -> None:
    done = subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True)
    assert done.returncode == 2
    assert f"Did you mean '{meant}'?" in done.stderr


@pytest.mark.parametrize("program", ["edgesync", "hubd"])
def test_completion_knows_the_commands(program: str) -> None:
    words = [sys.executable, "-m", "edgesync", "completion", "bash", "--program", program]
    script = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert f"_{program.upper()}_COMPLETE" in script
    own = [str(Path(sys.executable).with_name(program)), "completion", "bash"]
    assert subprocess.run(own, capture_output=True, text=True, check=True).stdout == script
    completing = {
        **os.environ, f"_{program.upper()}_COMPLETE": "bash_complete",
        "COMP_WORDS": f"{program} r", "COMP_CWORD": "1",
    }  # fmt: skip
    executable = Path(sys.executable).with_name(program)
    answer = subprocess.run([executable], capture_output=True, text=True, env=completing)
    assert "run" in answer.stdout


def test_bench_measures_this_machine(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "edgesync", "bench", "--folder", str(tmp_path), "--json"]
    found = json.loads(subprocess.run(words, capture_output=True, check=True).stdout)
    assert [row["records"] for row in found["append"]] == [1, 10, 100, 1000, 10000]
    assert found["pack"]["bytes"] > 0


@pytest.mark.slow
@pytest.mark.feature("S30")
def test_past_readings_are_sent_again_and_change_no_answer(terminal: Terminal) -> None:
    terminal.start_hub()
    terminal.enrol()
    with EdgeNode(terminal.edge_config) as node:
        node.ingest_sync([Reading("m", "P", n / 4, n * 10**9, "W") for n in range(1000)])
    edge = terminal.start_edge()
    terminal.out("edgesync", "sync", "--timeout", "100")

    def metric(name: str) -> float:
        url = f"http://127.0.0.1:{terminal.http_port}/metrics"
        text = urllib.request.urlopen(url).read().decode()
        found = [line for line in text.splitlines() if line.startswith(f"{name}{{")]
        return float(found[0].split()[-1]) if found else 0.0

    terminal.until(lambda: metric("edgesync_hub_readings_total") == 1000)
    assert "no readings were asked" in terminal.out("edgesync", "resend")
    found = terminal.json("edgesync", "resend", "--from", "0", "--to", "1970-01-01T00:10:00Z")
    assert (found["readings"], found["missed"], found["is_done"]) == (600, 0, True)
    terminal.until(lambda: metric("edgesync_hub_resent_known_total") == 600)
    assert metric("edgesync_hub_resent_readings_total") == 600
    assert metric("edgesync_hub_readings_total") == 1000
    assert "600 readings of */* from 1970" in terminal.out("edgesync", "resend")

    refused = terminal.run("edgesync", "resend", "--from", "-1h", "--to", "now", "--entity", "x")
    assert refused.returncode == 69
    assert "no series x/*" in refused.stderr
    for wrong in (["--from", "0"], ["--from", "5", "--to", "5"], ["--from", "soon", "--to", "now"]):
        assert terminal.run("edgesync", "resend", *wrong).returncode == 2

    # The hub asks, for what is there and for what is not.
    terminal.out("hubd", "resend", "barn-7", "--from", "0", "--to", "1970-01-01T00:01:01Z")
    terminal.until(lambda: metric("edgesync_hub_resent_known_total") == 661)
    terminal.out("hubd", "resend", "barn-7", "--from", "0", "--to", "1", "--entity", "x")

    def refusals() -> int:
        return len(terminal.json("edgesync", "events", "--text", "resend_refused"))

    terminal.until(lambda: refusals() == 1)
    assert terminal.run("hubd", "resend", "barn-8", "--from", "0", "--to", "1").returncode == 69
    assert terminal.stop(edge) == 0
    later = terminal.run("edgesync", "resend", "--from", "0", "--to", "now", "--key", "P")
    assert later.returncode == 0, later.stderr
    assert "once one does: edgesync run" in later.stderr
    terminal.start_edge()
    terminal.until(lambda: metric("edgesync_hub_resent_known_total") == 1661)
    assert metric("edgesync_hub_readings_total") == 1000


@pytest.mark.slow
@pytest.mark.feature("S30")
def test_a_killed_edge_goes_on_with_what_it_was_sending_again(terminal: Terminal) -> None:
    terminal.start_hub()
    terminal.enrol()
    count = 30_000
    with EdgeNode(terminal.edge_config) as node:
        for first in range(0, count, 10_000):
            node.ingest_sync(
                [Reading("m", "P", n / 4, n * 10**9) for n in range(first, first + 10_000)]
            )
    edge = terminal.start_edge()
    terminal.out("edgesync", "sync", "--timeout", "100")
    terminal.out("edgesync", "resend", "--from", "0", "--to", "now", "--detach")
    terminal.until(lambda: terminal.json("edgesync", "resend")["readings"] > 0)
    edge.kill()
    edge.wait()
    terminal.start_edge()
    terminal.until(lambda: terminal.json("edgesync", "resend")["is_done"])
    assert terminal.json("edgesync", "resend")["missed"] == 0
    terminal.out("edgesync", "sync", "--timeout", "100")
    rows = terminal.json("hubd", "edges")
    assert [row["lag_records"] for row in rows] == [0]
    url = f"http://127.0.0.1:{terminal.http_port}/metrics"

    def held(name: str) -> float:
        lines = urllib.request.urlopen(url).read().decode().splitlines()
        return sum(float(one.split()[-1]) for one in lines if one.startswith(f"{name}{{"))

    terminal.until(lambda: held("edgesync_hub_resent_known_total") >= count)
    assert held("edgesync_hub_resent_known_total") == held("edgesync_hub_resent_readings_total")
    assert held("edgesync_hub_readings_total") == count


@pytest.mark.parametrize("whole", [edgesync.cli.main, hubd.cli.main], ids=["edgesync", "hubd"])
def test_the_list_of_commands_says_what_each_says_of_itself(whole: click.Command) -> None:
    """It is written down twice, so that the list imports no command."""
    assert isinstance(whole, program.Lazy)
    context = click.Context(whole)
    for name, (_, listed) in whole.load.items():
        command = whole.get_command(context, name)
        assert command is not None
        first, _, _ = (command.help or "").strip().partition("\n")
        assert (name, listed) == (name, first)

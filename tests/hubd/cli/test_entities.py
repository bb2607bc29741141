"""`hubd entities`, `attributes` and `alarms`, beside a hub that runs."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.terminal import Terminal, open_terminal

pytestmark = pytest.mark.feature("S8")


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    with open_terminal(tmp_path) as found:
        found.start_hub()
        found.enrol()
        yield found


def test_what_an_edges_devices_are(terminal: Terminal) -> None:
    shown = terminal.out("hubd", "attributes", "barn-7", "Scale 7", "limit=900", "mode=eco")
    assert shown.splitlines() == ["shared\tlimit\t900", 'shared\tmode\t"eco"']
    terminal.out("hubd", "attributes", "barn-7", "Scale 7", "--scope", "server", 'at={"row": 3}')
    terminal.out("hubd", "attributes", "barn-7", "Scale 7", "--delete", "mode")
    found = terminal.json("hubd", "attributes", "barn-7", "Scale 7")
    assert found["shared"]["limit"]["value"] == 900
    assert list(found["shared"]) == ["limit"]
    assert found["server"]["at"]["value"] == {"row": 3}
    assert terminal.out("hubd", "entities", "barn-7").strip() == "device/Scale 7\t{}"
    assert terminal.json("hubd", "alarms", "barn-7") == []
    assert terminal.out("hubd", "alarms", "barn-7") == "no alarms at barn-7\n"
    assert terminal.out("hubd", "alarms", "barn-7", "--active") == "no active alarms at barn-7\n"
    removed = terminal.out("hubd", "entities", "barn-7", "--delete", "Scale 7")
    assert '"shared": 1' in removed
    assert terminal.json("hubd", "entities", "barn-7") == []


def test_what_names_a_package_is_text_whatever_it_looks_like(terminal: Terminal) -> None:
    package = ("fw_version=1.10", "fw_size=3000", 'sw_version="2.0"', "sw_checksum=1e4")
    shown = terminal.out("hubd", "attributes", "barn-7", "Pump 1", *package)
    for line in ('fw_version\t"1.10"', "fw_size\t3000", 'sw_version\t"2.0"', 'sw_checksum\t"1e4"'):
        assert f"shared\t{line}\n" in shown


def test_what_cannot_be_says_why(terminal: Terminal) -> None:
    wrong = terminal.run("hubd", "attributes", "barn-7", "Scale 7", "limit")
    assert "is not NAME=JSON" in wrong.stderr
    wrong = terminal.run("hubd", "attributes", "barn-7", "a", "--scope", "client", "x=1")
    assert wrong.returncode
    assert "client attributes are what the device reports" in wrong.stderr
    wrong = terminal.run("hubd", "alarms", "barn-7", "--ack", "0" * 24)
    assert "no such alarm" in wrong.stderr
    wrong = terminal.run("hubd", "entities", "nowhere")
    assert "nowhere" in wrong.stderr

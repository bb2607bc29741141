"""`edgesync modbus …` and `check --connect` against the simulated site, over real TCP."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from click.testing import CliRunner

from edgesync.cli import main
from edgesync.demo.site import free_ports


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    (found,) = free_ports(1)
    command = [sys.executable, "-m", "edgesync", "simulate", "modbus", "--port", str(found)]
    site = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    trio.run(_until_open, found)
    yield found
    site.terminate()
    site.wait()


async def _until_open(port: int) -> None:
    with trio.fail_after(60):
        while True:
            try:
                await (await trio.open_tcp_stream("127.0.0.1", port)).aclose()
            except OSError:
                await trio.sleep(0.05)
            else:
                return


def called(*words: object, code: int = 0) -> str:
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == code, result.output
    return result.output


def test_registers_are_read_with_their_frames(port: int) -> None:
    line = ("modbus", "read", "127.0.0.1", 8, 3, "--port", port)
    rows = called(*line, "--frames").splitlines()
    assert "→ 00 01 00 00 00 06 01 03 00 08 00 03" in rows[0]
    assert "← 00 01 00 00 00 09 01 03 06" in rows[1]
    assert rows[2].split()[0] == "8"
    found: dict[str, Any] = json.loads(called(*line, "--json"))
    assert [row["address"] for row in found["values"]] == [8, 9, 10]
    assert all(2000 < row["value"] < 2600 for row in found["values"]), "tenths of a volt"
    floats = ("modbus", "read", "127.0.0.1", 0, 4, "--unit", 4, "--type", "float32")
    house = json.loads(called(*floats, "--word-order", "little", "--port", port, "--json"))
    assert 0 < house["values"][0]["value"] < 20_000
    coils = called("modbus", "read", "127.0.0.1", 0, 2, "--unit", 4, "--table", "coil",
                   "--port", port, "--json")  # fmt: skip
    assert {row["value"] for row in json.loads(coils)["values"]} <= {True, False}


def test_a_refusal_is_told(port: int) -> None:
    says = called("modbus", "read", "127.0.0.1", 9000, "--port", port, code=69)
    assert "exception 2 (illegal data address)" in says
    as_json = called("modbus", "read", "127.0.0.1", 9000, "--port", port, "--json", code=69)
    assert "exception 2" in json.loads(as_json)["error"]


def test_units_are_found(port: int) -> None:
    found = json.loads(called("modbus", "scan", "127.0.0.1", "--units", "1-6", "--port", port,
                              "--json"))  # fmt: skip
    assert [one["unit"] for one in found] == [1, 2, 3, 4]
    assert "unit   1" in called("modbus", "scan", "127.0.0.1", "--units", "1,9", "--port", port)
    assert "write 1-20" in called("modbus", "scan", "h", "--units", "x", code=2)


def test_a_device_of_the_settings_is_probed(port: int, tmp_path: Path) -> None:
    config = tmp_path / "edge.toml"
    config.write_text(
        f'[edge]\nname = "e"\n[[modbus]]\nname = "pv0"\nhost = "127.0.0.1"\nport = {port}\n'
        'unit_id = 3\nprofile = "edgesync-sim-pv"\n'
        '[[modbus.points]]\nname = "Nowhere"\naddress = 9000\n'
    )
    found = json.loads(called("--config", config, "modbus", "probe", "pv0", "--json"))
    values = {key: value for block in found["blocks"] for key, value in block["values"].items()}
    assert values["Frequency"] == pytest.approx(50, abs=1)
    assert [b["problem"] for b in found["blocks"] if b["address"] == 9000] == [
        "exception 2 (illegal data address)"
    ]
    assert len(found["frames"]) == 2 * len(found["blocks"])
    shown = called("--config", config, "modbus", "probe", "pv0", "--frames")
    assert "→" in shown
    assert "Frequency = " in shown
    assert "no device is called" in str(
        CliRunner().invoke(main, ["--config", str(config), "modbus", "probe", "x"]).output
    )


def test_check_asks_each_device(port: int, tmp_path: Path) -> None:
    (closed,) = free_ports(1)
    config = tmp_path / "edge.toml"
    good = (
        f'[edge]\nname = "e"\n[[modbus]]\nname = "pv0"\nhost = "127.0.0.1"\nport = {port}\n'
        'unit_id = 3\nprofile = "edgesync-sim-pv"\n'
    )
    config.write_text(good)
    assert "pv0          answers" in called("--config", config, "check", "--connect")
    config.write_text(good + (
        f'[[modbus]]\nname = "gone"\nhost = "127.0.0.1"\nport = {closed}\n'
        'profile = "edgesync-sim-meter"\n'
    ))  # fmt: skip
    answers = json.loads(called("--config", config, "check", "--connect", "--json", code=69))
    assert answers["answers"]["pv0"] == ""
    assert "refused" in answers["answers"]["gone"]

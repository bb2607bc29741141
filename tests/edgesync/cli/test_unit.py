"""The systemd unit: what the daemon may do, as who, and what installing it changes."""

import configparser
import os
import pwd
import stat
import sys
from pathlib import Path
from typing import Any

import click
import pytest

from edgesync.cli.unit import FILES_MAX, Service, install, unit_text

pytestmark = pytest.mark.feature("K6")


def service(folder: Path, **fields: Any) -> Service:
    made: dict[str, Any] = {
        "program": "edgesync", "what": "the edge barn", "config": folder / "etc" / "edge.toml",
        "data": folder / "var",
    }  # fmt: skip
    return Service(**made | fields)


def read(text: str) -> dict[str, dict[str, str]]:
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string(text)
    return {name: dict(parser[name]) for name in parser.sections()}


def test_a_unit_says_who_runs_what_where(tmp_path: Path) -> None:
    unit = read(unit_text(service(tmp_path, reload=True, serial=True), user="nobody"))
    run = unit["Service"]
    program = Path(sys.executable).with_name("edgesync")
    assert unit["Unit"]["Description"] == "the edge barn"
    assert run["ExecStart"] == f"{program} --config {tmp_path}/etc/edge.toml run"
    assert (run["User"], run["Group"], run["Type"]) == ("nobody", "nobody", "notify")
    assert run["WorkingDirectory"] == str(tmp_path / "etc")
    assert run["ReadWritePaths"] == str(tmp_path / "var")
    assert run["ExecReload"] == "/bin/kill -HUP $MAINPID"
    assert run["LimitNOFILE"] == str(FILES_MAX)
    assert (run["Restart"], run["WatchdogSec"], run["UMask"]) == ("always", "60s", "0077")
    assert (run["ProtectSystem"], run["NoNewPrivileges"]) == ("strict", "yes")
    assert "PrivateDevices" not in run
    assert unit["Install"]["WantedBy"] == "multi-user.target"


def test_a_unit_without_reload_and_devices_has_neither(tmp_path: Path) -> None:
    run = read(unit_text(service(tmp_path), user="nobody"))["Service"]
    assert "ExecReload" not in run
    assert run["PrivateDevices"] == "yes"


def test_home_is_hidden_from_what_does_not_live_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/opt/edgesync/bin/python")
    monkeypatch.setattr(sys, "prefix", "/opt/edgesync")
    monkeypatch.setenv("PATH", "/usr/bin:/bin")  # whoever runs the suite may have it at home
    for elsewhere, protect in (
        ({}, "yes"),
        ({"data": Path("/home/site/data")}, "read-only"),
        ({"config": Path("/root/edge.toml")}, "read-only"),
    ):
        made = service(Path("/srv"), **elsewhere)
        assert read(unit_text(made, user="x"))["Service"]["ProtectHome"] == protect
    monkeypatch.setattr(sys, "prefix", "/home/site/.venv")
    made = service(Path("/srv"))
    assert read(unit_text(made, user="x"))["Service"]["ProtectHome"] == "read-only"


def program(folder: Path, name: str, text: str) -> None:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def test_installing_takes_root_and_systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = service(tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(click.ClickException, match="takes root: sudo edgesync service install"):
        install(made, user="nobody", units=tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(click.ClickException, match="no systemd here"):
        install(made, user="nobody", units=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_installed_service_owns_its_files_and_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As whoever runs the suite: files are given to the same user they are of."""
    user, done = pwd.getpwuid(os.getuid()), tmp_path / "done"
    program(tmp_path / "bin", "systemctl", f'echo "$@" >> {done}')
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    given: list[str] = []
    monkeypatch.setattr(os, "chown", lambda path, *_, **__: given.append(Path(path).name))
    (tmp_path / "etc").mkdir()
    for name in ("edge.toml", "edge.keys", "notes.txt"):
        (tmp_path / "etc" / name).touch()
    (tmp_path / "var" / "store").mkdir(parents=True)
    made = service(tmp_path)
    unit = install(made, user=user.pw_name, units=tmp_path)
    assert unit.read_text() == unit_text(made, user=user.pw_name)
    assert unit.name == "edgesync.service"
    assert sorted(given) == ["edge.keys", "edge.toml", "store", "var"]
    assert done.read_text() == "daemon-reload\nenable --now edgesync.service\n"


def test_folders_are_made_for_the_service_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path / "bin", "systemctl", "exit 1")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    user = pwd.getpwuid(os.getuid()).pw_name
    with pytest.raises(Exception, match="systemctl"):
        install(service(tmp_path), user=user, units=tmp_path)
    assert stat.S_IMODE((tmp_path / "var").stat().st_mode) == 0o700

"""`edgesync run` and `edgesync check`."""

import json
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from edgesync import short_form, toml
from edgesync.cli.program import EX_UNAVAILABLE, as_json_option
from edgesync.settings import Settings, link_keys, read_settings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edgesync.sources.modbus.layout import Layout

    Lines = Mapping[tuple[str, int], Sequence[Layout]]


@click.command(epilog="Example: edgesync --config /etc/edgesync/edge.toml run")
@click.option("--log-text", is_flag=True, help="Plain log lines instead of JSON.")
@click.pass_obj
def run(config: Path, log_text: bool) -> None:
    """Run the edge until SIGTERM or SIGINT; a file that says `mode = "hub"` runs the hub."""
    from edgesync import daemon
    from edgesync.logs import set_up_logging

    if short_form.mode_of(toml.read(config)) == "hub":
        _become_hub(config, log_text)
    settings = read_settings(config)
    level = logging.getLevelName(settings.logging.level.upper())
    set_up_logging(level, as_json=settings.logging.json and not log_text)
    daemon.run_blocking(config)


def _become_hub(config: Path, log_text: bool) -> NoReturn:
    """Run `hubd` in place of this program: a service manager sees the same process."""
    words = [sys.executable, "-m", "hubd", "--config", os.fspath(config), "run"]
    os.execv(sys.executable, [*words, "--log-text"] if log_text else words)


@click.command(epilog="Example: edgesync check && systemctl restart edgesync")
@click.option("--connect", "is_asked", is_flag=True, help="Ask each device; 69 if one is silent.")
@as_json_option
@click.pass_obj
def check(config: Path, is_asked: bool, as_json: bool) -> None:
    """Check edge.toml and say what it would do; exit code 78 if it is wrong."""
    settings = read_settings(config)
    facts, lines = files_checked(settings, config.parent)
    if settings.hub.endpoint:
        link_keys(settings, config.parent)
    answers = {} if not is_asked else _answers(lines)
    if is_asked:
        facts["answers"] = answers
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        raise SystemExit(EX_UNAVAILABLE if any(answers.values()) else 0)
    click.echo(f"{config} is good: edge {facts['edge']}")
    alone = "none: everything is kept here"
    if facts["to_join"]:
        alone = f"{facts['to_join']}, not joined yet: edgesync init --token …"
    click.echo(f"  hub          {facts['hub'] or alone}")
    click.echo(f"  devices      {', '.join(facts['devices'] or ['none'])}")
    for name, host in (("mqtt", settings.mqtt.host), ("device_http", settings.device_http.host)):
        if facts[name]:
            ports = " and ".join(str(port) for port in facts[name])
            click.echo(f"  {name:12} {host}, port {ports}")
    if facts["rules"]:
        click.echo(f"  rules        {', '.join(facts['rules'])}")
    for doubt in facts["doubts"] or ():
        click.echo(f"  doubtful     {doubt}")
    for name, problem in answers.items():
        click.echo(f"  {name:12} {problem or 'answers'}")
    if any(answers.values()):
        raise SystemExit(EX_UNAVAILABLE)


def files_checked(settings: Settings, folder: Path) -> "tuple[dict[str, Any], Lines]":
    """Read the files of devices and rules; returns what there is, and the Modbus connections.

    Raises ConfigError for what is missing or wrong.
    """
    from edgesync.sources.modbus.doubts import doubts
    from edgesync.sources.modbus.source import modbus_lines, modbus_sources

    lines = modbus_lines(settings.modbus, folder)
    sources = modbus_sources(settings.modbus, folder=folder)
    found = [doubt for layouts in lines.values() for doubt in doubts(layouts)]
    if settings.mqtt.is_open:
        from edgesync.serve.mqtt.door import mqtt_doubts

        found += mqtt_doubts(settings, folder)
    if settings.device_http.is_open:
        from edgesync.serve.device_http.door import device_http_doubts

        found += device_http_doubts(settings, folder)
    found += toml.unread(toml.environment(), "EDGESYNC", Settings)
    chains: list[str] = []
    if settings.rules.chains:
        from edgesync.rules.files import read_rules

        rules = read_rules(folder / settings.rules.chains, root=settings.rules.root).loaded
        chains = list(rules.chains.firsts)
        found += rules.doubts
    facts: dict[str, Any] = {
        "edge": settings.edge.name,
        "hub": settings.hub.endpoint or None,
        "to_join": settings.hub.unjoined or None,
        "devices": [device.name for device in settings.modbus],
        "connections": [source.name for source in sources],
        **{
            name: [port for port in (door.port, door.tls_port) if port]
            for name, door in (("mqtt", settings.mqtt), ("device_http", settings.device_http))
        },
        "rules": chains,
        "doubts": list(dict.fromkeys(found)),  # two doors may share a file of devices
    }
    return facts, lines


def _answers(lines: "Lines") -> dict[str, str]:
    """Ask each device, those of one connection one after the other; name -> problem or ""."""
    import trio

    from edgesync.cli.modbus import device_answers

    found: dict[str, str] = {}

    async def ask_line(host: str, port: int, layouts: "Sequence[Layout]") -> None:
        for layout in layouts:
            found[layout.name] = await device_answers(layout, host, port)

    async def ask_all() -> None:
        async with trio.open_nursery() as nursery:
            for (host, port), layouts in lines.items():
                nursery.start_soon(ask_line, host, port, layouts)

    trio.run(ask_all)
    return dict(sorted(found.items()))

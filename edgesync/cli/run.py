"""`edgesync run` and `edgesync check`."""

import json
import logging
from pathlib import Path

import click

from edgesync.settings import read_settings


@click.command(epilog="Example: edgesync --config /etc/edgesync/edge.toml run")
@click.option("--log-text", is_flag=True, help="Plain log lines instead of JSON.")
@click.pass_obj
def run(config: Path, log_text: bool) -> None:
    """Run the edge until SIGTERM or SIGINT."""
    from edgesync import daemon
    from edgesync.logs import set_up_logging

    settings = read_settings(config)
    level = logging.getLevelName(settings.logging.level.upper())
    set_up_logging(level, as_json=settings.logging.json and not log_text)
    daemon.run_blocking(config)


@click.command(epilog="Example: edgesync check && systemctl restart edgesync")
@click.option("--json", "as_json", is_flag=True, help="Answer in JSON.")
@click.pass_obj
def check(config: Path, as_json: bool) -> None:
    """Check edge.toml and say what it would do; exit code 78 if it is wrong."""
    from edgesync.sources.modbus.source import modbus_sources

    settings = read_settings(config)
    sources = modbus_sources(settings.modbus, folder=config.parent)
    facts = {
        "edge": settings.edge.name,
        "hub": settings.hub.endpoint or None,
        "devices": [device.name for device in settings.modbus],
        "connections": [source.name for source in sources],
    }
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return
    click.echo(f"{config} is good: edge {facts['edge']}")
    click.echo(f"  hub          {facts['hub'] or 'none: everything is kept here'}")
    click.echo(f"  devices      {', '.join(facts['devices'] or ['none'])}")

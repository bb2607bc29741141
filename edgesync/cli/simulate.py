"""`edgesync simulate modbus`: an energy site to read without owning one."""

import functools

import click


@click.group(epilog="Example: edgesync simulate modbus --port 5020")
def simulate() -> None:
    """Run simulated devices."""


@simulate.command(epilog="Example: edgesync simulate modbus --speed 60   (a day in 24 minutes)")
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen.")
@click.option(
    "--port",
    default=5020,
    show_default=True,
    type=click.IntRange(0, 65535),
    help="Where to listen; 0 for a free one.",
)
@click.option("--seed", default=0, show_default=True, help="Weather and habits.")
@click.option("--speed", default=1.0, show_default=True, help="Site seconds a real second.")
def modbus(host: str, port: int, seed: int, speed: float) -> None:
    """Serve grid meter, battery, PV and loads over Modbus TCP until Ctrl-C."""
    import trio

    from edgesync.sources.simulate.serve import serve_site

    click.echo(f"Modbus TCP on {host}:{port}; docs/modbus.md has units and registers")
    try:
        trio.run(functools.partial(serve_site, host, port, seed=seed, speed=speed))
    except* KeyboardInterrupt:
        click.echo("stopped")

"""`edgesync demo`: all of it on one machine."""

import functools
import json
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgesync.cli.program import as_json_option

if TYPE_CHECKING:
    from edgesync.demo.run import Line, Show, Verdict

PLACES = ("produced", "journaled", "acknowledged", "in_log", "in_state")


@click.command(epilog="Example: edgesync demo --chaos --seconds 60")
@click.option("--chaos", is_flag=True, help="Pull cables, kill processes, step the clock; compare.")
@click.option("--seconds", default=None, type=click.FloatRange(1), help="How long; chaos: 60.")
@click.option("--seed", default=None, type=int, help="Of the chaos and the weather.")
@click.option("--port", default=8080, show_default=True, help="Of the dashboard; 0 takes any.")
@click.option("--every", default="1s", show_default=True, help="How often devices are polled.")
@click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    help="Keep everything here instead of a temporary folder.",
)
@as_json_option
def demo(
    chaos: bool,
    seconds: float | None,
    seed: int | None,
    port: int,
    every: str,
    folder: Path | None,
    as_json: bool,
) -> None:
    """Run a simulated site, its gateway and its hub; show the dashboard's address and a ledger.

    With --chaos the link is pulled, edge and hub are killed with SIGKILL and the edge's clock is
    stepped; at the end every row is compared, and the exit code is 0 only if none is missing,
    doubled or out of order.
    """
    import trio

    from edgesync.demo.run import run_chaos

    chosen = random.randrange(1 << 32) if seed is None else seed
    options: dict[str, Any] = {"folder": folder, "http_port": port, "every": every}
    with _terminal(as_json) as show:
        if not chaos:
            try:
                trio.run(functools.partial(_watch, show, seconds, chosen, options))
            except* KeyboardInterrupt:
                pass
            return
        run = functools.partial(run_chaos, show, seed=chosen, seconds=seconds or 60.0, **options)
        verdict = trio.run(run)
    _print_verdict(verdict, as_json)
    sys.exit(0 if verdict.is_equal else 1)


async def _watch(show: "Show", seconds: float | None, seed: int, options: dict[str, Any]) -> None:
    import trio

    from edgesync.demo.run import open_demo
    from edgesync.demo.site import free_ports

    (mqtt_port,) = free_ports(1)
    async with open_demo(show, seed=seed, mqtt_port=mqtt_port, **options) as running:
        with trio.move_on_after(float("inf") if seconds is None else seconds):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(running.show_devices, mqtt_port)
                await running.watch()


@contextmanager
def _terminal(is_quiet: bool) -> Iterator["Show"]:
    """Yield what shows a line: a live picture in a terminal, a line every few seconds elsewhere."""
    from rich.console import Console
    from rich.live import Live

    console = Console(stderr=is_quiet)
    # Some seconds pass before there is something to show.
    click.echo("starting a site and its hub …", err=True)
    if not console.is_terminal:
        yield _Plain(is_quiet)
        return
    with Live(console=console, refresh_per_second=4) as live:
        yield lambda line: live.update(_picture(line))


class _Plain:
    """For logs: the address once, then the ledger when something changes, at most every 5 s."""

    def __init__(self, is_quiet: bool) -> None:
        self._looks = self._said = 0
        self._is_quiet = is_quiet

    def __call__(self, line: "Line") -> None:
        if self._looks == 0:
            click.echo(f"dashboard   {line.url}/", err=self._is_quiet)
        if self._looks % 10 == 0:
            facts = "  ".join(f"{name} {_number(getattr(line, name))}" for name in PLACES)
            facts = f"readings: {facts}"
            click.echo(f"{facts}  {line.link}  {line.last_fault}", err=self._is_quiet)
        for text in line.said[self._said :]:
            click.echo(f"tour: {text}", err=self._is_quiet)
        self._said = len(line.said)
        self._looks += 1


def _picture(line: "Line") -> Any:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table("produced", "on its disk", "acknowledged", "in the hub's log", "in its state")
    table.add_row(*(_number(getattr(line, name)) for name in PLACES))
    head = Text.assemble(("dashboard   ", "dim"), (f"{line.url}/", "bold blue underline"))
    foot = f"link {line.link or 'down'}   {line.last_fault}"
    note = "readings; from left to right each place has what the one before it had a moment ago"
    said = Text("\n".join(line.said), style="cyan")
    return Group(head, table, Text(foot), Text(note, style="dim"), *([said] if line.said else []))


def _number(value: int | None) -> str:
    return "–" if value is None else f"{value:,}".replace(",", " ")


def _print_verdict(verdict: "Verdict", as_json: bool) -> None:
    import msgspec

    if as_json:
        facts = {**msgspec.to_builtins(verdict), "is_equal": verdict.is_equal}
        click.echo(json.dumps(facts, indent=2))
        return
    click.echo(
        f"seed {verdict.seed}; " + ", ".join(f"{n} × {k}" for k, n in verdict.strikes.items())
    )
    click.echo(f"  witnessed   {verdict.witnessed:>9} readings acknowledged to the sources")
    click.echo(
        f"  journal     {verdict.journal_readings:>9} readings in {verdict.journal_records} records"
    )
    click.echo(f"  hub's log   {'':>9}             {verdict.log_records} records")
    click.echo(f"  its state   {verdict.state_readings:>9} readings")
    for finding in verdict.findings[:50]:
        click.echo(f"  {finding.place}: {finding.count} {finding.problem} in {finding.where}")
    if verdict.is_equal:
        click.echo("the ledger is equal: nothing missing, nothing doubled, nothing out of order")
    else:
        click.echo(f"THE LEDGER IS NOT EQUAL: {len(verdict.findings)} findings")

"""`edgesync top`: the running edge, live in a terminal."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from edgesync.cli.ask import data_dir
from edgesync.serve.control import NoAnswer, NotRunning, ask


@click.command(epilog="Example: edgesync top --interval 0.5   (Ctrl-C ends it)")
@click.option("--interval", default=1.0, show_default=True, help="Seconds between looks.")
@click.pass_obj
def top(config: Path, interval: float) -> None:
    """Watch the running edge: link, lanes, devices, rates.

    Where a screen cannot be drawn over, in a pipe or a plain terminal, one follows the other. It
    waits through a restart of the daemon; one that is not there to begin with is an error.
    """
    from rich.console import Console
    from rich.live import Live

    folder = data_dir(config)
    ask(folder, "status")
    console = Console()
    with contextlib.suppress(KeyboardInterrupt):
        if not console.is_terminal or console.is_dumb_terminal:
            for screen in _screens(folder, interval):
                console.print(screen)
            return
        with Live(console=console, refresh_per_second=4) as live:
            for screen in _screens(folder, interval):
                live.update(screen)


def _screens(folder: Path, interval: float) -> Iterator[Any]:
    from rich.text import Text

    before: dict[str, Any] | None = None
    while True:
        try:
            now = ask(folder, "status")
            yield _screen(now, before)
        except (NoAnswer, NotRunning) as error:
            now = None
            yield Text(str(error), style="red")
        before = now
        time.sleep(interval)


def _screen(now: dict[str, Any], before: dict[str, Any] | None) -> Any:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    link, store = now["link"], now["store"]
    colour = "green" if link["epoch"] else "yellow"
    head = Text.assemble(
        (f"{now['edge']}  ", "bold"),
        (f"{link['state']}  ", colour),
        f"{_rate(now, before):.0f} readings/s  rss {now['rss_bytes'] / 1e6:.0f} MB  "
        f"store {store['used_bytes'] / 1e6:.1f}/{store['limit_bytes'] / 1e6:.0f} MB  "
        f"rtt {_ms(link['rtt_s'])}  clock {_ms(link['clock_offset_s'])}  {link['problem']}",
    )
    lanes = Table("lane", "tail", "sent", "floor", "safe", "pending")
    for lane in now["lanes"]:
        lanes.add_row(
            *(str(lane[name]) for name in ("lane", "tail", "sent", "floor", "safe", "pending"))
        )
    devices = Table("device", "state", "age s", "polls", "errors", "last error")
    for one in now["sources"]:
        age = "" if one["age_s"] is None else f"{one['age_s']:.1f}"
        polls, errors = str(one["polls"]), str(one["errors"])
        devices.add_row(one["name"], one["state"], age, polls, errors, one["last_error"])
    return Group(head, lanes, devices)


def _rate(now: dict[str, Any], before: dict[str, Any] | None) -> float:
    if before is None or before["uptime_s"] >= now["uptime_s"]:
        return 0.0
    return float((now["readings"] - before["readings"]) / (now["uptime_s"] - before["uptime_s"]))


def _ms(seconds: float | None) -> str:
    return "–" if seconds is None else f"{seconds * 1e3:.1f} ms"

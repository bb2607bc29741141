"""`hubd log`, `backup`, `restore`, `ledger`: the files of a hub that stands still."""

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import trio

from edgesync._native import batch
from edgesync.model import RecordKind
from edgesync_transport.messages import Codec
from hubd import serve
from hubd.log.base import Entry
from hubd.log.lmdb import LmdbLog
from hubd.settings import data_dir, read_settings
from hubd.state import open_state, points, tables


def _open(config: Path) -> tuple[Path, LmdbLog]:
    settings = read_settings(config)
    folder = data_dir(config, settings)
    return folder, LmdbLog(folder / serve.LOG, map_bytes_max=int(settings.log.limit))


def _entries(hub_log: LmdbLog, after: int = 0) -> Iterator[Entry]:
    while page := trio.run(hub_log.read, after):
        yield from page
        after = page[-1].position


def record_rows(entry: Entry) -> Iterator[dict[str, Any]]:
    """Yield the records of an entry: lane, seq, event id, and a digest of kind and body."""
    if entry.codec in (Codec.DEAD, Codec.GAP):
        yield {
            "lane": int(entry.lane),
            "seq": entry.first,
            "last": entry.last,
            "codec": entry.codec.name.lower(),
            "reason": entry.reason,
        }
        return
    rows = batch.unpack(entry.codec, entry.payload, entry.lane, entry.first, 0)
    for seq, record in enumerate(batch.records(rows), start=entry.first):
        body = bytes([record.kind]) + record.body
        yield {
            "lane": int(entry.lane),
            "seq": seq,
            "event_id": f"{record.origin:016x}{record.number:016x}",
            "kind": RecordKind(record.kind).name.lower(),
            "digest": hashlib.sha256(body).hexdigest()[:32],
        }


@click.command(epilog="Example: hubd log --edge barn-7 --json | head")
@click.option("--edge", default=None, help="Only this edge.")
@click.option("--after", default=0, type=click.IntRange(0), help="Only positions after this one.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.pass_obj
def log(config: Path, edge: str | None, after: int, as_json: bool) -> None:
    """List what is in the log of a hub that is not running."""
    _, hub_log = _open(config)
    with contextlib.closing(hub_log):
        for entry in _entries(hub_log, after):
            if edge is not None and entry.edge != edge:
                continue
            facts = {
                "position": entry.position,
                "edge": entry.edge,
                "lane": entry.lane.name.lower(),
                "first": entry.first,
                "last": entry.last,
                "codec": entry.codec.name.lower(),
                "bytes": len(entry.payload),
                "stored_at_ns": entry.stored_at_ns,
            }
            text = json.dumps(facts) if as_json else "  ".join(map(str, facts.values()))
            click.echo(text)


@click.command(epilog="Example: hubd ledger --edge barn-7 > rows.jsonl")
@click.option("--edge", required=True)
@click.pass_obj
def ledger(config: Path, edge: str) -> None:
    """Print every record of EDGE in the log, then every point in the state, a JSON object a line.

    For audits of a hub that is not running: what `edgesync demo --chaos` compares.
    """
    folder, hub_log = _open(config)
    with contextlib.closing(hub_log):
        for entry in _entries(hub_log):
            if entry.edge == edge:
                for row in record_rows(entry):
                    click.echo(json.dumps({"place": "log", **row}))
        with contextlib.closing(open_state(folder / serve.STATE, hub_log.generation)) as state:
            for row in state.read_now(lambda connection: list(_state_rows(connection, edge))):
                click.echo(json.dumps({"place": "state", **row}))


def _state_rows(connection: Any, edge: str) -> Iterator[dict[str, Any]]:
    series = tables.series
    for ref, number in connection.execute(
        series.select()
        .with_only_columns(series.c.ref, series.c.series)
        .where(series.c.edge == edge)
    ):
        yield {
            "series": tables.unsigned(number),
            "points": [
                [point.time_ns, point.value] for point in points.all_points(connection, ref)
            ],
        }


@click.command(epilog="Example: hubd backup /backups/hub-2026-11-21")
@click.argument("target", type=click.Path(path_type=Path, file_okay=False))
@click.pass_obj
def backup(config: Path, target: Path) -> None:
    """Copy the log of a hub that is not running; edges then may forget what it holds."""
    folder, hub_log = _open(config)
    with contextlib.closing(hub_log):
        (target / serve.LOG).mkdir(parents=True)
        trio.run(hub_log.backup, target / serve.LOG)
    if (folder / serve.CELLS).exists():
        shutil.copytree(folder / serve.CELLS, target / serve.CELLS)
    for name in (serve.KEYS, serve.REGISTRY):
        if (folder / name).exists():
            shutil.copy2(folder / name, target / name)
    click.echo(
        f"{target} holds the log, the cells, the hub's own keys and the registry; "
        "the state is made from the log"
    )


@click.command(epilog="Example: hubd restore /backups/hub-2026-11-21")
@click.argument("source", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.pass_obj
def restore(config: Path, source: Path) -> None:
    """Begin again from a backup, in an empty data directory; edges resend what it lacks."""
    settings = read_settings(config)
    folder = data_dir(config, settings)
    if (folder / serve.LOG).exists():
        raise click.ClickException(f"{folder / serve.LOG} exists; move it aside first")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for name in (serve.KEYS, serve.REGISTRY):
        if (source / name).exists():
            shutil.copy2(source / name, folder / name)
    for name in (serve.LOG, serve.CELLS):
        if (source / name).exists():
            shutil.copytree(source / name, folder / name)
    with contextlib.closing(LmdbLog(folder / serve.LOG)) as hub_log:
        hub_log.renew_generation()
        head = hub_log.head
    click.echo(f"restored up to position {head}; hubd run goes on from there")


def register(group: click.Group) -> None:
    for command in (log, ledger, backup, restore):
        group.add_command(command)

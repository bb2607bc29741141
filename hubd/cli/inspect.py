"""`hubd log`, `backup`, `restore`, `ledger`: the files of a hub, running or not."""

import contextlib
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any

import click
import trio

from edgesync._native import batch
from edgesync._native.store import Store
from edgesync.cells import DATABASE
from edgesync.cli.program import as_json_option
from edgesync.model import RecordKind
from edgesync.serve.control import NotRunning, ask_hub
from edgesync.store.directory import is_there
from edgesync_transport.messages import Codec
from hubd import data_folder
from hubd.cells.keyspaces import cells_path, stored_tenants
from hubd.cli.edges import registry_of
from hubd.cli.options import database_option, settings_of
from hubd.log.base import Entry
from hubd.log.lmdb import LmdbLog
from hubd.manifest import Manifest
from hubd.project.beside import read_beside
from hubd.registry import open_registry
from hubd.settings import data_dir, read_settings
from hubd.state import points, tables

# A copy of a large log takes its time.
BACKUP_LIMIT_S = 3600.0


def _open(config: Path) -> tuple[Path, LmdbLog]:
    settings = read_settings(config)
    folder = data_dir(config, settings)
    limit = int(settings.log.limit)
    return folder, LmdbLog(folder / data_folder.LOG, map_bytes_max=limit, readonly=True)


def _entries(hub_log: LmdbLog, after: int = 0) -> Iterator[Entry]:
    """Yield what is there; says so, beside, where some is there no more."""
    if after + 1 < hub_log.oldest:
        click.echo(f"the log has dropped what is before position {hub_log.oldest}", err=True)
    while page := trio.run(hub_log.read, after):
        yield from page
        after = page[-1].position


def record_rows(entry: Entry) -> Iterator[dict[str, Any]]:
    """Yield the records of an entry: lane, seq, event id, and a digest of kind and body."""
    if entry.codec in (Codec.DEAD, Codec.GAP, Codec.PROPOSAL):
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
@as_json_option
@click.pass_obj
def log(config: Path, edge: str | None, after: int, as_json: bool) -> None:
    """List what is in the log; the hub may be running."""
    _, hub_log = _open(config)
    is_found = edge is None
    with contextlib.closing(hub_log):
        for entry in _entries(hub_log, after):
            if edge is not None and entry.edge != edge:
                continue
            is_found = True
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
    if not is_found:
        _check_known(config, edge)


def _check_known(config: Path, edge: str | None) -> None:
    """Raise EdgeUnknown; of an edge that was forgotten there may be something all the same."""
    with contextlib.closing(registry_of(config)) as registry:
        registry.edges.one(edge or "")


@click.command(epilog="Example: hubd ledger --edge barn-7 > rows.jsonl")
@click.option("--edge", required=True, help="Whose records.")
@database_option
@click.pass_obj
def ledger(config: Path, edge: str) -> None:
    """Print every record of EDGE in the log, then every point in the state, as lines of JSON.

    For audits: what `edgesync demo --chaos` compares. A hub that is running may still be bringing
    the newest entries of its log into its state.
    """
    from hubd import serve

    folder, hub_log = _open(config)
    is_found = False
    with contextlib.closing(hub_log):
        for entry in _entries(hub_log):
            if entry.edge == edge:
                is_found = True
                for row in record_rows(entry):
                    click.echo(json.dumps({"place": "log", **row}))
        if not is_found:
            _check_known(config, edge)
        state = serve.open_derived_beside(settings_of(config), folder)
        if state is None:
            return  # restored, and not started yet: it is made from the log
        with contextlib.closing(state):
            for row in read_beside(
                state, edge, lambda after: _entries(hub_log, after),
                lambda connection: list(_state_rows(connection, edge)),
            ):  # fmt: skip
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


def _time(at_ns: int) -> str:
    if not at_ns:
        return "never"
    return datetime.fromtimestamp(at_ns / 1e9, UTC).isoformat(" ", "seconds")


def _held(standing: Mapping[str, Any]) -> str:
    by, cursors = standing["held_by"], standing["cursors"]
    return f"for {by} is at {cursors[by]}" if by in cursors else by


@click.command(epilog="Example: hubd status --json")
@as_json_option
@click.pass_obj
def status(config: Path, as_json: bool) -> None:
    """Say how the running hub is: its log, its projectors, and what is wrong."""
    found = ask_hub(data_dir(config, read_settings(config)), "status")
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    used, limit = found["log"]["used_bytes"], found["log"]["limit_bytes"]
    percent = 100 * used // limit
    click.echo(f"log: position {found['log_head']}, {used} of {limit} bytes ({percent} %)")
    oldest, standing = found["log"]["oldest"], found["retention"]
    click.echo(f"log: oldest position {oldest}, stored {_time(found['log']['oldest_at_ns'])}")
    if standing["held_by"]:
        click.echo(f"log: entries that are to go are kept, {_held(standing)}")
    for gap in found["gaps"]:
        click.echo(
            f"state: history before {_time(gap['before_ns'])} is not in {gap['projector']} "
            f"(entries {gap['after'] + 1} to {gap['until']})"
        )
    for one in found["projectors"]:
        click.echo(
            f"projector {one['name']}: {one['health']}, {one['lag']} behind, "
            f"{one['skipped']} entries skipped"
        )
    click.echo(f"state: made again {found['rebuilds']} times since the start")
    for problem in found["problems"]:
        click.echo(f"problem: {problem}")


@click.command(epilog="Example: hubd backup /backups/hub-2026-11-21")
@click.argument("target", type=click.Path(path_type=Path, file_okay=False))
@as_json_option
@database_option
@click.pass_obj
def backup(config: Path, target: Path, as_json: bool) -> None:
    """Copy the hub into TARGET, a folder of its own; the hub may be running.

    The copy holds the log, the keys, the registry (from PostgreSQL, too), the hub's own key pair
    and hub.toml, and the state (as a file, from PostgreSQL, too), each with its checksum. With
    `log.managed_backups` edges then forget what it holds; the log may drop what the state has.
    """
    from hubd import backup as copies

    settings = settings_of(config)
    folder = data_dir(config, settings)
    target = target.absolute()
    text = config.read_text()
    try:
        made = ask_hub(
            folder, "backup", target=str(target), settings=text, timeout_s=BACKUP_LIMIT_S
        )
        head, stored = made["head"], made["stored"]
    except NotRunning:
        from hubd import serve

        limit = int(settings.log.limit)
        with contextlib.ExitStack() as opened:
            hub_log = LmdbLog(folder / data_folder.LOG, map_bytes_max=limit)
            opened.enter_context(contextlib.closing(hub_log))
            keys: dict[str, Callable[[str], None]] = {}
            for tenant in stored_tenants(folder):
                path = cells_path(folder, tenant)
                if is_there(path):
                    cells = Store(
                        str(path), databases=(DATABASE,), readonly=True,
                        map_bytes_max=int(settings.cells.limit),
                    )  # fmt: skip
                    opened.callback(cells.close)
                    keys[tenant] = cells.copy
            registry = open_registry(folder, data_folder.database_url(settings))
            opened.enter_context(contextlib.closing(registry))
            source = copies.Source(
                folder=folder, hub_log=hub_log, copy_keys=keys, owned=registry.owned,
                copy_state=serve.copier_of(settings, folder, hub_log), settings=text,
            )  # fmt: skip
            trio.run(copies.backup, source, target)
            head, stored = hub_log.head, copies.stored_in(hub_log)
    if as_json:
        click.echo(json.dumps({"target": str(target), "head": head, "stored": stored}))
        return
    if stored:
        state = f"the state up to {stored}"
    elif (target / data_folder.STATE).exists():  # what is newest is in memory and the log
        state = "the state, whose readings are in the log alone so far"
    else:
        state = "no state: it is made again from the log"
    click.echo(
        f"{target} holds the log up to position {head}, the keys, the registry, the hub's own key "
        f"pair and its settings; {state}"
    )


@click.command(epilog="Example: hubd restore /backups/hub-2026-11-21")
@click.argument("source", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option(
    "--state", "only_state", is_flag=True, help="Only the state, into the hub as it is, stopped."
)
@click.option(
    "--registry",
    "only_registry",
    is_flag=True,
    help="Only tenants, edges, tokens, users, for the hub as it is, stopped: into an empty one.",
)
@click.option(
    "--keep-registry",
    is_flag=True,
    help="Go on with tenants, edges, tokens and users that are there.",
)
@database_option
@click.pass_obj
def restore(
    config: Path, source: Path, only_state: bool, only_registry: bool, keep_registry: bool
) -> None:
    """Begin again from a backup, in an empty data directory; edges resend what it lacks.

    Where there is no hub.toml yet, that of the backup is put there too. With --state, the hub's
    state alone is put back, history that the log has dropped with it; the log goes on from there.
    With --registry, a registry that was lost is put back alone. With --keep-registry, one that was
    not lost (in PostgreSQL, say) stays as it is.
    """
    from hubd import backup as copies

    if only_state + only_registry + keep_registry > 1:
        raise click.UsageError("say one of --state, --registry and --keep-registry")
    manifest = copies.check(source)
    if only_state:
        settings = settings_of(config)
        url = data_folder.database_url(settings)
        stored = copies.restore_state(source, data_dir(config, settings), url)
        click.echo(f"the state is that of the backup up to {stored}; hubd run reads on from there")
        return
    if only_registry:
        settings = settings_of(config)
        copies.restore_registry(
            source, data_dir(config, settings), data_folder.database_url(settings)
        )
        click.echo(
            "tenants, edges, tokens and users are those of the backup; hubd run lets them in"
        )
        _tell_who_is_back(config, manifest)
        return
    if not config.exists() and (source / "hub.toml").exists():
        config.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source / "hub.toml", config)
        click.echo(f"took {config} from the backup")
    settings = settings_of(config)
    head = copies.restore(
        source, data_dir(config, settings), data_folder.database_url(settings),
        manifest=manifest, keeps_owned=keep_registry,
    )  # fmt: skip
    if manifest is None:
        click.echo("an earlier version made this backup, without checksums", err=True)
    click.echo(f"restored up to position {head}; hubd run goes on from there")
    if not keep_registry:
        _tell_who_is_back(config, manifest)


def _tell_who_is_back(config: Path, manifest: Manifest | None) -> None:
    """Say that a registry of before lets in whom somebody has removed since."""
    since = f" at {_time(manifest.made_at_ns)}" if manifest is not None else ""
    click.echo(
        f"who was removed, revoked or given less after the backup{since} is let in as before it: "
        "look at `hubd edges`, `hubd users list`, `hubd tenant list`",
        err=True,
    )
    with contextlib.closing(registry_of(config)) as registry:
        if not registry.users.all():
            click.echo(
                "no users are in it: without tokens in hub.toml the dashboard and the API are open "
                "to this machine; `hubd users add NAME --role admin`",
                err=True,
            )


@click.command(epilog="Example: hubd alerts > /etc/prometheus/edgesync.yml")
def alerts() -> None:
    """Print alerts of hub and edges, as a rules file for Prometheus."""
    click.echo(resources.files("hubd").joinpath("alerts.yml").read_text(), nl=False)

"""`edgesync bench`: what this machine's disk and CPU can do, in a minute."""

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import click

from edgesync.cli.program import as_json_option
from edgesync.model import Lane


@click.command(epilog="Example: edgesync bench --folder /var/lib/edgesync --json")
@click.option("--folder", type=click.Path(path_type=Path, file_okay=False), default=None,
              help="Where the disk to be measured is mounted.")  # fmt: skip
@as_json_option
def bench(folder: Path | None, as_json: bool) -> None:
    """Measure synced appends by group size, and packing, on this machine."""
    with tempfile.TemporaryDirectory(dir=folder, prefix="edgesync-bench-") as place:
        appends, pack = _appends(Path(place)), _packing()
    if as_json:
        click.echo(json.dumps({"append": appends, "pack": pack}, indent=2))
        return
    for row in appends:
        click.echo(
            f"append {row['records']:>6} records a commit: {row['records_s']:>12,.0f} records/s, "
            f"{row['commit_ms']:.2f} ms a commit"
        )
    click.echo(f"pack   {pack['readings_s']:,.0f} readings/s, {pack['bytes']:.2f} bytes a reading")


def _appends(folder: Path) -> list[dict[str, Any]]:
    from edgesync._native.write import Write
    from edgesync.store.journal import EdgeStore

    rows: list[dict[str, Any]] = []
    with EdgeStore(folder / "store", map_bytes_max=1 << 30) as store:
        for count in (1, 10, 100, 1000, 10_000):
            bodies = [b"x" * 112] * count
            commits, started = 0, time.perf_counter()
            while (spent := time.perf_counter() - started) < 1.0 and commits < 2000:
                write = Write()
                write.append_many(2, 2, bodies)
                store.submit_sync(write)
                commits += 1
                if commits * count >= 300_000:
                    spent = time.perf_counter() - started
                    break
            rate = commits * count / spent
            rows.append({"records": count, "records_s": rate, "commit_ms": spent / commits * 1e3})
    return rows


def _packing() -> dict[str, float]:
    from edgesync._native import batch
    from edgesync._native.write import Write
    from edgesync.store.journal import EdgeStore

    with tempfile.TemporaryDirectory() as place, EdgeStore(Path(place) / "store") as store:
        write = Write()
        for second in range(1000):
            values = [round(230 + series * 0.1 + (second * 7 + series) % 13 * 0.1, 1)
                      for series in range(50)]  # fmt: skip
            body = batch.readings(second * 10**9, 0, list(range(1, 51)), values)
            write.append(2, 2, body)
        store.submit_sync(write)
        rows = store.read(Lane.BULK, 1)
        started = time.perf_counter()
        _, payload = batch.pack(rows.data)
        spent = time.perf_counter() - started
    return {"readings_s": 50_000 / spent, "bytes": len(payload) / 50_000}

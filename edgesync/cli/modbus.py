"""`edgesync modbus read | scan | probe`: ask devices from the command line, without the daemon."""

import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, NoReturn

import click
import trio

from edgesync.cli.program import EX_UNAVAILABLE, as_json_option
from edgesync.errors import ConfigError
from edgesync.settings import read_settings
from edgesync.sources.modbus.decode import BlockReader
from edgesync.sources.modbus.hosts import checked_host
from edgesync.sources.modbus.layout import Layout, Limits, resolve
from edgesync.sources.modbus.pdu import (
    GATEWAY_SILENT,
    BadAnswer,
    DeviceException,
    Request,
    decode_data,
    is_bit_table,
)
from edgesync.sources.modbus.planner import Planner
from edgesync.sources.modbus.points import WORDS
from edgesync.sources.modbus.profile import load_layout
from edgesync.sources.modbus.settings import ModbusDeviceSettings, PointSettings
from edgesync.sources.modbus.tcp import Answer, Line, LineDown, NoAnswer

PROBLEMS: Final = (NoAnswer, LineDown, BadAnswer, DeviceException)

Frames = list[dict[str, Any]]


@click.group(
    epilog="Example: edgesync modbus scan 10.0.0.5 --units 1-20",
    context_settings={"help_option_names": ["-h", "--help"]},
)
def modbus() -> None:
    """Ask Modbus TCP devices from the command line; nothing is stored.

    Many devices take one connection only: stop the daemon first if it polls the same one.
    """


def _line_options(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.option(
            "--port",
            default=502,
            show_default=True,
            type=click.IntRange(1, 65535),
            help="Of the device, or of its gateway.",
        ),
        click.option("--timeout", "timeout_s", default=1.0, show_default=True, help="Seconds."),
        as_json_option,
    ):
        command = option(command)
    return command


_table_option = click.option(
    "--table", default="holding", show_default=True,
    type=click.Choice(["holding", "input", "coil", "discrete"]), help="Where the registers are.",
)  # fmt: skip


@modbus.command(epilog="Example: edgesync modbus read 10.0.0.5 0 4 --unit 1 --type float32")
@click.argument("host")
@click.argument("address", type=click.IntRange(0, 65535))
@click.argument("count", type=click.IntRange(1, 2000), default=1)
@click.option(
    "--unit",
    "unit_id",
    default=1,
    show_default=True,
    type=click.IntRange(0, 255),
    help="The unit id behind a gateway.",
)
@_table_option
@click.option("--type", "kind", default="uint16", show_default=True,
              type=click.Choice([*WORDS]), help="How to read the registers.")  # fmt: skip
@click.option("--word-order", default="big", show_default=True,
              type=click.Choice(["big", "little"]),
              help="Of values of several registers.")  # fmt: skip
@click.option("--frames", "with_frames", is_flag=True, help="Show the frames as hex with times.")
@_line_options
def read(
    host: str, address: int, count: int, unit_id: int, table: Any, kind: Any, word_order: Any,
    with_frames: bool, port: int, timeout_s: float, as_json: bool,
) -> None:  # fmt: skip
    """Read COUNT registers (or bits) from ADDRESS on, counted from 0."""
    most = 2000 if is_bit_table(table) else 125
    if count > most or address + count > 1 << 16:
        raise click.UsageError(f"COUNT is at most {most}, and the last address 65535")
    request = Request(unit_id, table, address, count)
    frames: Frames = []
    limits = Limits(timeout=timeout_s)

    async def ask() -> Answer | Exception:
        async with _open_line(checked_host(host, "-"), port, frames) as line:
            try:
                return await line.ask(request, limits, urgency=0.0)
            except PROBLEMS as problem:
                return problem

    answer = trio.run(ask)
    if isinstance(answer, Exception):
        _show_frames(frames if with_frames and not as_json else [])
        _fail(str(answer), as_json, frames)
    values = _values(request, answer.data, kind, word_order)
    took_ms = round(1000 * (answer.answered_s - answer.sent_s), 1)
    if as_json:
        click.echo(json.dumps({"values": values, "took_ms": took_ms, "frames": frames}, indent=2))
        return
    _show_frames(frames if with_frames else [])
    for row in values:
        click.echo(f"{row['address']:6}  {row['raw']:18}  {row['value']}")
    click.echo(f"answered in {took_ms} ms")


def _values(request: Request, data: bytes, kind: Any, word_order: Any) -> list[dict[str, Any]]:
    """Return address, raw registers and value of each `kind` that fits into the reply."""
    if is_bit_table(request.table):
        bits = decode_data(data, request)
        return [
            {"address": request.address + i, "raw": str(bit), "value": bool(bit)}
            for i, bit in enumerate(bits)
        ]
    words = WORDS[kind]
    starts = range(request.address, request.address + request.count - words + 1, words)
    points = tuple(
        PointSettings(
            name=f"P{at}", address=at, type=kind, table=request.table, word_order=word_order
        )
        for at in starts
    )
    if not points:
        raise click.UsageError(f"a {kind} needs {words} registers: raise COUNT")
    layout = resolve(ModbusDeviceSettings(name="-", host="-", points=points), None)
    reader = BlockReader(request.address, request.count, [(point, None) for point in layout.points])
    size = 2 * words
    return [
        {"address": at, "raw": data[i * size : (i + 1) * size].hex(" ", 2), "value": value}
        for i, (at, value) in enumerate(zip(starts, reader.read(data, {}), strict=True))
    ]


@modbus.command(epilog="Example: edgesync modbus scan 10.0.0.5 --units 1-20")
@click.argument("host")
@click.option("--units", default="1-247", show_default=True, help="A range, or single ids: 1,3,7.")
@click.option("--address", default=0, show_default=True, type=click.IntRange(0, 65535),
              help="The register to ask for.")  # fmt: skip
@_table_option
@_line_options
def scan(
    host: str, units: str, address: int, table: Any, port: int, timeout_s: float, as_json: bool
) -> None:
    """Find the unit ids that answer behind HOST: with data, or with a refusal of their own."""
    wanted = _unit_ids(units)
    found: list[dict[str, Any]] = []
    limits = Limits(timeout=timeout_s)

    async def ask() -> str:
        async with _open_line(checked_host(host, "-"), port, []) as line:
            for unit_id in wanted:
                request = Request(unit_id, table, address, 1)
                try:
                    says = await _said(line, request, limits)
                except LineDown as problem:
                    return str(problem)
                if says:
                    found.append({"unit": unit_id, "says": says})
                    if not as_json:
                        click.echo(f"unit {unit_id:3}  {says}")
        return ""

    if problem := trio.run(ask):
        _fail(problem, as_json, [])
    if as_json:
        click.echo(json.dumps(found, indent=2))
    elif not found:
        click.echo(f"none of {len(wanted)} unit ids answered")


async def _said(line: Line, request: Request, limits: Limits) -> str:
    """Return what a unit answers; "" for silence. Raises LineDown without any connection."""
    for is_last in (False, True):
        try:
            answer = await line.ask(request, limits, urgency=0.0)
        except DeviceException as problem:
            return "" if problem.code in GATEWAY_SILENT else str(problem)
        except BadAnswer as problem:
            return str(problem)
        except NoAnswer:
            return ""
        except LineDown:
            if is_last:
                raise
            continue  # gateways close connections after silence
        return f"{decode_data(answer.data, request)[0]}"
    return ""


def _unit_ids(text: str) -> list[int]:
    found: list[int] = []
    try:
        for part in text.split(","):
            first, _, last = part.partition("-")
            found += range(int(first), int(last or first) + 1)
    except ValueError:
        found = []
    if not found or not all(0 <= unit_id <= 255 for unit_id in found):
        raise click.UsageError(f"--units {text!r}: write 1-20 or 1,3,7; ids are 0 to 255")
    return found


@modbus.command(epilog="Example: edgesync modbus probe meter0 --frames")
@click.argument("device")
@click.option("--frames", "with_frames", is_flag=True, help="Show the frames as hex with times.")
@as_json_option
@click.pass_obj
def probe(config: Path, device: str, with_frames: bool, as_json: bool) -> None:
    """Read every point of DEVICE (its name in edge.toml) once, and show values and problems."""
    settings = {one.name: one for one in read_settings(config).modbus}
    if device not in settings:
        known = ", ".join(settings) or "none"
        raise ConfigError(
            file=str(config), field="modbus", problem=f"no device is called {device!r}",
            remedy=f"known: {known}",
        )  # fmt: skip
    wanted = settings[device]
    frames: Frames = []
    layout = load_layout(wanted, config.parent)
    host = checked_host(wanted.host, device)
    blocks = trio.run(_probed, layout, host, wanted.port, frames)
    if as_json:
        click.echo(json.dumps({"blocks": blocks, "frames": frames}, indent=2))
    else:
        _show_frames(frames if with_frames else [])
        for block in blocks:
            where = f"{block['table']} {block['address']}, {block['count']} long"
            click.echo(f"{where}: {block['problem'] or f'''answered in {block['took_ms']} ms'''}")
            for key, value in block["values"].items():
                click.echo(f"  {key} = {'no value' if value is None else value}")
    if not any(block["values"] for block in blocks):
        raise SystemExit(EX_UNAVAILABLE)


async def _probed(layout: Layout, host: str, port: int, frames: Frames) -> list[dict[str, Any]]:
    """Ask for every block of `layout`; returns what each brought."""
    planner = Planner(layout)
    found: list[dict[str, Any]] = []
    factors: dict[str, bytes] = {}
    answers = []
    async with _open_line(host, port, frames) as line:
        queue = list(planner.plan([group for group, _ in layout.periods]))
        while queue:
            block = queue.pop(0)
            request = Request(layout.unit_id, block.table, block.address, block.count)
            row: dict[str, Any] = {
                "table": block.table, "address": block.address, "count": block.count,
                "problem": "", "took_ms": None, "values": {},
            }  # fmt: skip
            found.append(row)
            try:
                answer = await line.ask(
                    request, layout.limits, urgency=0.0,
                    any_unit_id="any_unit_id" in layout.quirks,
                    any_transaction_id="any_transaction_id" in layout.quirks,
                )  # fmt: skip
            except PROBLEMS as problem:
                row["problem"] = str(problem)
                if isinstance(problem, DeviceException) and problem.code not in GATEWAY_SILENT:
                    queue += planner.refuse(block, str(problem), 0.0)
                continue
            row["took_ms"] = round(1000 * (answer.answered_s - answer.sent_s), 1)
            factors |= block.factors(answer.data)
            answers.append((row, block, answer.data))
    for row, block, data in answers:
        row["values"] = dict(block.decode(data, factors))
    return found


async def device_answers(layout: Layout, host: str, port: int) -> str:
    """Ask a device for something cheap; return what is wrong, "" if it answers."""
    block = Planner(layout).probe()
    request = Request(layout.unit_id, block.table, block.address, block.count)
    async with _open_line(host, port, []) as line:
        try:
            await line.ask(
                request, layout.limits, urgency=0.0,
                any_unit_id="any_unit_id" in layout.quirks,
                any_transaction_id="any_transaction_id" in layout.quirks,
            )  # fmt: skip
        except PROBLEMS as problem:
            return str(problem)
    return ""


@asynccontextmanager
async def _open_line(host: str, port: int, frames: Frames) -> AsyncIterator[Line]:
    """Give a line to ask on; every frame is added to `frames` with its time."""
    began_s = time.monotonic()

    def note(direction: str, data: bytes) -> None:
        ms = round(1000 * (time.monotonic() - began_s), 1)
        frames.append({"ms": ms, "direction": direction, "bytes": data.hex(" ")})

    line = Line(host, port)
    line.on_bytes = note
    async with trio.open_nursery() as nursery:
        await nursery.start(line.serve)
        try:
            yield line
        finally:
            nursery.cancel_scope.cancel()


def _show_frames(frames: Sequence[dict[str, Any]]) -> None:
    for frame in frames:
        arrow = "→" if frame["direction"] == "sent" else "←"
        click.echo(f"{frame['ms']:9.1f} ms {arrow} {frame['bytes']}")


def _fail(problem: str, as_json: bool, frames: Frames) -> NoReturn:
    if as_json:
        click.echo(json.dumps({"error": problem, "frames": frames}, indent=2))
    else:
        click.echo(f"edgesync: {problem}", err=True)
    raise SystemExit(EX_UNAVAILABLE)

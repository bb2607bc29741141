"""The options that name a range of readings, for `edgesync` and `hubd`."""

import time
from typing import Final

import click

from edgesync.resend import Range, parse_time


def checked_time(_context: click.Context, _parameter: click.Parameter, value: str) -> int | None:
    """Return a time as nanoseconds since 1970 UTC; raises BadParameter for what is none."""
    if not value:
        return None
    try:
        found = parse_time(value, time.time_ns())
    except ValueError:
        found = 1 << 63
    if not -(1 << 63) <= found < 1 << 63:
        raise click.BadParameter(
            "a time is 2026-01-31T12:00:00Z, relative like -2h, now, or nanoseconds since 1970 UTC"
        )
    return found


from_option: Final = click.option(
    "--from", "from_ns", default="", callback=checked_time, metavar="TIME",
    help="The earliest: 2026-01-31T12:00:00Z, relative like -2h, or ns since 1970.",
)  # fmt: skip
to_option: Final = click.option(
    "--to", "to_ns", default="", callback=checked_time, metavar="TIME",
    help="The first that is later than all of them; such a time, or now.",
)  # fmt: skip
entity_option: Final = click.option("--entity", default="", help="Only of this one.")
key_option: Final = click.option("--key", default="", help="Only series of this name.")


def range_of(from_ns: int | None, to_ns: int | None, entity: str, key: str) -> Range:
    """Return the range that options name; raises UsageError unless both ends are there."""
    if from_ns is None or to_ns is None:
        raise click.UsageError("say --from and --to")
    if from_ns >= to_ns:
        raise click.UsageError("--from must be earlier than --to")
    return Range(from_ns, to_ns, entity, key)

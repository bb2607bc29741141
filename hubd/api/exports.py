"""Events as a file: CSV for a spreadsheet, or a JSON object a line.

A stream of pages, each with a view of its own: what arrives meanwhile is newer than where it began.
"""

import csv
import io
from collections.abc import AsyncGenerator, Sequence
from contextlib import ExitStack, aclosing
from typing import Annotated, Final, Literal

import msgspec
import trio
from msgspec import Meta
from starlette.responses import StreamingResponse

from hubd.api.context import Context
from hubd.api.errors import ApiError
from hubd.api.params import PAGE_MAX, EventQuestion, FleetEventsPage
from hubd.api.series import fleet_events
from hubd.state.views import EventRow

ROWS_MAX: Final = 100_000
# At once: each holds a reader of the state time and again.
EXPORTS_MAX: Final = 4
# What follows what is in the file; its `reason` is where a further one begins.
MORE: Final = "more"
COLUMNS: Final = EventRow.__struct_fields__
# What a cell begins with that is one to a spreadsheet: OWASP, "CSV Injection".
FORMULAS: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
MEDIA: Final = {"csv": "text/csv; charset=utf-8", "ndjson": "application/x-ndjson"}


class EventsExport(EventQuestion, frozen=True, kw_only=True):
    format: Annotated[Literal["csv", "ndjson"], Meta(description="csv or ndjson")] = "csv"


class Exports:
    def __init__(self) -> None:
        self._places = trio.CapacityLimiter(EXPORTS_MAX)

    async def events(self, context: Context, asked: EventsExport) -> StreamingResponse:
        """Answer with the file; raises ApiError for a wrong question, and when many are made."""
        fields = {name: getattr(asked, name) for name in EventQuestion.__struct_fields__}
        wanted = FleetEventsPage(**fields, limit=PAGE_MAX)
        place = ExitStack()
        try:  # at once: many may ask while the first page of each is made
            self._places.acquire_on_behalf_of_nowait(place)
        except trio.WouldBlock:
            raise ApiError(
                503, f"{EXPORTS_MAX} exports are being made", remedy="try again later"
            ) from None
        place.callback(self._places.release_on_behalf_of, place)
        try:
            page = await fleet_events(context, wanted)  # what is wrong is told before it begins
        except BaseException:
            place.close()
            raise
        written = _csv if asked.format == "csv" else _ndjson

        async def parts() -> AsyncGenerator[bytes]:
            nonlocal page
            with place:
                if asked.format == "csv":
                    yield _line(COLUMNS)
                count = 0
                while True:
                    yield written(page.events)
                    count += len(page.events)
                    if page.next is None:
                        return
                    if count >= ROWS_MAX:
                        yield _more(asked.format, page.next)
                        return
                    page = await fleet_events(
                        context, msgspec.structs.replace(wanted, after=page.next)
                    )

        return Download(parts(), asked.format, place)


class Download(StreamingResponse):
    """Closes `place` when it has been sent, or could not be."""

    def __init__(self, parts: AsyncGenerator[bytes], kind: str, place: ExitStack) -> None:
        super().__init__(
            parts,
            media_type=MEDIA[kind],
            headers={
                "Cache-Control": "no-store",
                "Content-Disposition": f'attachment; filename="events.{kind}"',
            },
        )
        self._parts = parts
        self._place = place

    async def __call__(self, *args: object) -> None:
        # Closed here and not by the collector, which would do it outside of any task.
        with self._place:
            async with aclosing(self._parts):
                await super().__call__(*args)  # type: ignore[arg-type]  # scope, receive, send


def _ndjson(rows: Sequence[EventRow]) -> bytes:
    return msgspec.json.Encoder().encode_lines(rows)


def _csv(rows: Sequence[EventRow]) -> bytes:
    return b"".join(_line([_text(getattr(row, name)) for name in COLUMNS]) for row in rows)


def _more(kind: str, after: str) -> bytes:
    if kind == "ndjson":
        return msgspec.json.encode({"status": MORE, "next": after}) + b"\n"
    told = {"status": MORE, "reason": f"after={after}"}
    return _line([told.get(name, "") for name in COLUMNS])


def _text(value: object) -> str:
    """A cell: devices write some of them, and a spreadsheet would carry out a formula."""
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    is_formula = isinstance(value, str) and text.startswith(FORMULAS)
    return f"'{text}" if is_formula else text


def _line(cells: Sequence[str]) -> bytes:
    out = io.StringIO()
    csv.writer(out, lineterminator="\r\n").writerow(cells)
    return out.getvalue().encode(errors="replace")

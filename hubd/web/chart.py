"""What the page of a chart draws: one series, and others beside it."""

from typing import Annotated, Final
from urllib.parse import urlencode

import msgspec
from msgspec import Meta

from hubd.api import fleet, params
from hubd.api.answers import Series
from hubd.api.context import Context
from hubd.state import views

BESIDE_MAX: Final = 5


class ChartPage(params.Params, frozen=True, kw_only=True):
    """`beside` are the ids of series that are drawn with the chosen one."""

    edge: params.EdgeName
    entity: params.Text = ""
    key: params.Text = ""
    beside: Annotated[
        tuple[params.SeriesId, ...],
        Meta(description=f"ids of up to {BESIDE_MAX} series, 16 hex digits each",
             max_length=BESIDE_MAX),
    ] = ()  # fmt: skip

    def address(self, beside: tuple[str, ...], tenant: str = "") -> str:
        """Return the query of a chart of the same series with others beside it."""
        asked: list[tuple[str, str]] = [("entity", self.entity), ("key", self.key)]
        asked += [("beside", one) for one in beside]
        return "?" + urlencode(asked + [("tenant", tenant)] * bool(tenant))

    def toggled(self, series: str) -> tuple[str, ...]:
        """Return what is beside the chosen series with one more, or without one of them."""
        rest = tuple(one for one in self.beside if one != series)
        return (*self.beside, series) if rest == self.beside else rest


async def lines_of(context: Context, asked: ChartPage) -> list[Series]:
    """Return the chosen series and those beside it that can be drawn; raises ApiError."""
    fleet.known_edge(context, asked.edge)
    rows = await context.state.read(
        lambda c: [
            views.find_series(c, asked.edge, asked.entity, asked.key),
            *(views.series_by_id(c, asked.edge, int(one, 16)) for one in asked.beside),
        ]
    )
    if rows[0] is None:
        return []
    chosen, *others = [fleet.shown_series(row) for row in rows if row is not None]
    drawn = {one.series: one for one in others if one.type != "text" and one.entity}
    drawn.pop(chosen.series, None)
    return [chosen, *drawn.values()]


def as_json(lines: list[Series]) -> str:
    """Return what the page's script needs of the series."""
    shown = [
        {"series": one.series, "entity": one.entity, "key": one.key, "unit": one.unit,
         "type": one.type}
        for one in lines
    ]  # fmt: skip
    return msgspec.json.encode(shown).decode()

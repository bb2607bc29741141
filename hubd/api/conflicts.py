"""Answers about conflicts, and resolving them: a write like any other, told to every edge."""

from typing import Any, Final

from edgesync.cells.conflicts import PREVIEW_BYTES, RESOLVED, Conflict, Side
from edgesync.errors import CommandError
from hubd.api.answers import Conflicts, ConflictSide, ConflictView
from hubd.api.context import Context
from hubd.api.errors import ApiError
from hubd.api.keys import storing
from hubd.api.params import (
    Choice,
    ConflictsPage,
    Int64,
    OneConflict,
    make_cursor,
    read_cursor,
)
from hubd.api.redis_json import argument, blob

CELLS: Final = {
    b"s": "string", b"h": "field", b"e": "member", b"z": "member", b"l": "element"
}  # fmt: skip


async def conflicts(context: Context, params: ConflictsPage) -> Conflicts:
    await context.answers.reach_told()
    (after,) = read_cursor(params.after, tuple[Int64], (0,))
    found = context.cells.conflicts.find(
        status=params.status or "",
        prefix=params.prefix.encode(errors="replace"),
        after=max(0, after),
        limit=params.limit,
    )
    following = make_cursor(found[-1].id) if len(found) == params.limit else None
    return Conflicts(conflicts=[shown(one) for one in found], next=following)


async def one_conflict(context: Context, params: OneConflict) -> ConflictView:
    await context.answers.reach_told()
    return shown(_known(context, params.id))


async def resolve(context: Context, params: OneConflict, asked: Choice) -> ConflictView:
    """Resolve a conflict; the log has it when this returns."""
    found = _known(context, params.id)
    choice = _choice(asked, context.cells.call.value_max)
    try:
        with storing():
            await context.answers.resolve(params.id, choice)
    except CommandError as error:
        is_over = found.status == RESOLVED
        remedy = "GET /api/v1/conflicts?status=open" if is_over else "GET it for its sides"
        raise ApiError(
            409 if is_over else 400, str(error).removeprefix("ERR "), field="choice", remedy=remedy
        ) from error
    return shown(_known(context, params.id))


def _known(context: Context, number: int) -> Conflict:
    found = context.cells.conflicts.get(number)
    if found is None:
        remedy = "`hubd conflicts` lists them; the oldest of many are forgotten"
        raise ApiError(404, f"no conflict {number}", field="id", remedy=remedy)
    return found


def _choice(asked: Choice, value_max: int) -> list[bytes]:
    """Return what was chosen as `HubCells.resolve` takes it; raises ApiError."""
    wanted = {"winner": (), "dot": ("replica", "number"), "value": ("value",)}[asked.choice]
    for field in ("replica", "number", "value"):
        if (getattr(asked, field) is None) == (field in wanted):
            problem = "is needed" if field in wanted else "says nothing"
            raise ApiError(
                400, f"`{field}` {problem} with the choice `{asked.choice}`", field=field,
                remedy="winner; dot with replica and number; or value with value",
            )  # fmt: skip
    if asked.choice != "value":
        numbers = [b"%d" % getattr(asked, field) for field in wanted]
        return [asked.choice.upper().encode(), *numbers]
    value = argument(asked.value or "")
    if len(value) > value_max:
        raise ApiError(
            413, f"a value of {len(value)} bytes", field="value", remedy=f"at most {value_max}"
        )
    return [b"VALUE", value]


def shown(one: Conflict) -> ConflictView:
    kind: Any = CELLS.get(one.name[:1], "string") if one.name else "key"
    status: Any = one.status
    what: Any = one.kind
    return ConflictView(
        id=one.id, status=status, kind=what, key=blob(one.key), cell=kind,
        name=blob(one.name[1:] if kind in ("field", "member") else b""),
        found_ns=one.found_ms * 1_000_000, strategy=one.strategy,
        winner=None if one.winner is None else _side(one.winner),
        losers=[_side(side) for side in one.losers],
    )  # fmt: skip


def _side(side: Side) -> ConflictSide:
    return ConflictSide(
        edge=side.edge, replica=side.r, number=side.n, time_ns=side.time_ms * 1_000_000,
        value=None if side.value is None else blob(_whole_letters(side.value)),
    )  # fmt: skip


def _whole_letters(beginning: bytes) -> bytes:
    """Drop the last letter of a beginning if it was cut through."""
    if len(beginning) == PREVIEW_BYTES:
        for size in range(PREVIEW_BYTES, PREVIEW_BYTES - 4, -1):
            try:
                beginning[:size].decode()
            except UnicodeDecodeError:
                continue
            return beginning[:size]
    return beginning

"""Answers about keys, and commands on them. What is answered is in the log, on disk (I1)."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import msgspec
import trio
from msgspec import Raw

from edgesync._native.commands import keys_of
from edgesync._native.keyspace import HASH, LIST, NEVER, STRING, ZSET, sortable
from edgesync._native.resp import ReplyError
from edgesync.cells import Reply
from edgesync.cells.commands import TABLE
from edgesync.cells.commands.table import TYPE_NAMES
from edgesync.cells.conflicts import strategy_name
from edgesync.errors import StoreError
from hubd.api.answers import (
    CommandAnswer,
    Key,
    KeyChange,
    KeyChanges,
    KeyRow,
    Keys,
    KeysStats,
    Outcome,
)
from hubd.api.context import Context
from hubd.api.errors import ApiError, Problem
from hubd.api.params import (
    ChangesPage,
    Commands,
    KeysPage,
    Nothing,
    OneKey,
    make_cursor,
    read_cursor,
)
from hubd.api.redis_json import argument, blob, plain
from hubd.cells import Answers, HubCells
from hubd.cells.budget import TOO_LARGE, TooLarge
from hubd.cells.proposals import OutcomeUnknown

if TYPE_CHECKING:
    from edgesync._native.cells import Entry

COMMANDS_MAX: Final = 1000
ARGUMENTS_MAX: Final = 10_000
# Looking at more in one go would hold up the link of every edge (I8).
KEYS_LOOKED_AT_MAX: Final = 10_000
PAGE_BYTES: Final = 4 << 20
# Values that are looked at for a page of changes.
CHANGES_BYTES: Final = 1 << 20

# What Redis has for a connection, or for a server as a whole.
OF_A_CONNECTION: Final = frozenset(
    b"auth client discard exec hello multi psubscribe punsubscribe quit reset select subscribe "
    b"unsubscribe unwatch watch".split()
)
ELSEWHERE: Final = {
    b"info": "GET /api/v1/stats and /metrics tell it",
    b"edge": "GET /api/v1/conflicts and /api/v1/replicas tell it",
    b"config": "hub.toml is the configuration",
    b"publish": "messages go among the clients of one edge",
    b"shutdown": "the service manager stops the hub",
}


# -- commands ------------------------------------------------------------------------------------


async def command(context: Context, _params: Nothing, asked: Commands) -> CommandAnswer:
    """Carry out one command, or several with nothing between them and one commit."""
    requests = requests_of(asked)
    problems = [_refused(context.cells, request) for request in requests]
    taken = [one for one, problem in zip(requests, problems, strict=True) if problem is None]
    replies = iter(await _replies(context, taken, writes=is_writing(asked)))
    outcomes = [
        _outcome(problem, None if problem else next(replies), field)
        for problem, field in zip(problems, _fields(asked), strict=True)
    ]
    if asked.commands is not None:
        return CommandAnswer(replies=outcomes)
    (only,) = outcomes
    if isinstance(only.error, Problem):
        raise ApiError(400, **msgspec.structs.asdict(only.error))
    return CommandAnswer(reply=only.reply)


async def _replies(
    context: Context, requests: Sequence[list[bytes]], *, writes: bool
) -> Sequence[Reply]:
    if not writes:
        await context.answers.reach_told()
        return context.cells.run_all(requests)
    with storing():
        return await context.answers.run_commands(requests) if requests else []


def _fields(asked: Commands) -> list[str]:
    """Return how the commands are named in what is answered."""
    if asked.commands is None:
        return ["command"]
    return [f"commands[{at}]" for at in range(len(asked.commands))]


def is_writing(asked: Commands) -> bool:
    """Whether one of the commands may change something."""
    names = [_name(request) for request in (asked.command, *(asked.commands or ())) if request]
    return any(TABLE[name].writes for name in names if name in TABLE)


def _name(request: Sequence[Any]) -> bytes:
    return str(request[0]).lower().encode(errors="replace")


def requests_of(asked: Commands) -> list[list[bytes]]:
    """Return the commands as bytes; raises ApiError."""
    if (asked.command is None) == (asked.commands is None):
        raise ApiError(
            400, "either `command` or `commands` is needed", field="command",
            remedy='{"command": ["GET", "key"]} or {"commands": [["GET", "a"], ["GET", "b"]]}',
        )  # fmt: skip
    several = [asked.command] if asked.command is not None else list(asked.commands or ())
    if len(several) > COMMANDS_MAX or sum(map(len, several)) > ARGUMENTS_MAX:
        raise ApiError(
            413, "too many commands or arguments", field="commands",
            remedy=f"at most {COMMANDS_MAX} commands with {ARGUMENTS_MAX} arguments in all",
        )  # fmt: skip
    try:
        return [[argument(one) for one in request] for request in several]
    except UnicodeEncodeError as error:
        raise ApiError(
            400, "an argument with half a character", field="command",
            remedy='give bytes that are no UTF-8 as {"base64": "…"}',
        ) from error  # fmt: skip


def _outcome(problem: Problem | None, reply: Reply, field: str) -> Outcome:
    if problem is None and isinstance(reply, TooLarge):
        problem = _too_large(reply, field)
    if problem is not None:
        return Outcome(error=msgspec.structs.replace(problem, field=field))
    if isinstance(reply, ReplyError):
        return Outcome(error=_problem(reply, field))
    return Outcome(reply=Raw(msgspec.json.encode(plain(reply))))


def _refused(cells: HubCells, request: list[bytes]) -> Problem | None:
    """What a command may not be asked here, though it is one."""
    one = TABLE.get(request[0].lower())
    if one is None:
        return _not_here(request[0].lower())
    if b"" in keys_of(one, request):
        # Edges refuse pages with such a key, and would go on refusing.
        return Problem(error="ERR a key of 0 bytes", code="ERR", remedy="1 to 500 bytes")
    if one.name == "keys" and cells.space.keys > KEYS_LOOKED_AT_MAX:
        error = f"ERR KEYS looks at all keys, of which there are {cells.space.keys}"
        return Problem(error=error, code="ERR", remedy="SCAN, or GET /api/v1/keys?prefix=…")
    return None


def _not_here(name: bytes) -> Problem | None:
    shown = name[:64].decode(errors="replace").upper()
    if name in OF_A_CONNECTION:
        error = f"ERR {shown} is about a connection, and here is none"
        remedy = "`commands` carries out several with nothing between them"
    elif (word := name.partition(b".")[0]) in ELSEWHERE:
        error, remedy = f"ERR the hub carries out no {shown}", ELSEWHERE[word]
    else:
        return None
    return Problem(error=error, code="ERR", remedy=remedy)


def _problem(error: ReplyError, field: str) -> Problem:
    text = str(error)
    word = text.partition(" ")[0]
    remedy = "TYPE tells what a key is" if word == "WRONGTYPE" else "see docs/redis-commands.md"
    return Problem(error=text, field=field, code=word if word.isupper() else "ERR", remedy=remedy)


def _too_large(error: TooLarge, field: str) -> Problem:
    remedy = "fewer commands at once"
    if error is TOO_LARGE:
        remedy = f"ask for parts: SCAN, HSCAN, LRANGE, {remedy}"
    return Problem(error=str(error), field=field, code="TOOLARGE", remedy=remedy)


@contextmanager
def storing() -> Iterator[None]:
    """Answer what the log refuses with ApiError."""
    try:
        yield
    except OutcomeUnknown as error:
        raise ApiError(
            503, str(error), remedy="look whether it was, before you try again"
        ) from error
    except StoreError as error:
        raise ApiError(
            503, f"nothing was stored: {error}", remedy="mend that, then try again"
        ) from error


# -- reading -------------------------------------------------------------------------------------


async def keys(context: Context, params: KeysPage) -> Keys:
    await context.answers.reach_told()
    cells = context.cells
    space = _now(cells)
    (after,) = read_cursor(params.after, tuple[bytes | None], (None,))
    prefix = params.prefix.encode(errors="replace")
    found: list[KeyRow] = []
    left = KEYS_LOOKED_AT_MAX
    while len(found) < params.limit and left > 0:
        limit = min(params.limit - len(found), left)
        names = space.names(after, prefix, limit)
        found += [row for name in names if (row := _row(cells, name)) is not None]
        after, left = names[-1] if names else None, left - limit
        if len(names) < limit:
            after = None
            break
    return Keys(keys=found, next=None if after is None else make_cursor(after))


def _row(cells: HubCells, name: bytes) -> KeyRow | None:
    kind = cells.space.type_of(name)
    if not kind:
        return None
    return KeyRow(key=blob(name), type=_type(kind), expires_ns=_expires_ns(cells, name))


async def changes(context: Context, params: ChangesPage) -> KeyChanges:
    """Return keys that changed after a place in the feed; without a place, where it is now."""
    await context.answers.reach_told()
    cells = context.cells
    keyspace, prefix = cells.mark.keyspace, params.prefix.encode(errors="replace")
    known, position = read_cursor(params.after, tuple[bytes, int], (keyspace, cells.space.seq))
    if known != keyspace:
        raise ApiError(
            410, "the hub's keys are others than those", field="after",
            remedy="read the keys again, and begin without `after`",
        )  # fmt: skip
    scope = [(prefix, True), (b"", False)] if prefix else []
    found: list[Entry] = []
    with trio.move_on_after(params.wait_s if params.after else 0.0):
        while not found:
            # What follows is noted before the look: nothing comes between.
            changed = context.answers.changed
            found, position, is_all = cells.space.page(
                position, position, params.limit, CHANGES_BYTES, scope
            )
            if not found and not is_all:
                await trio.lowlevel.checkpoint()
            elif not found:
                await changed.wait()
    space = _now(cells)
    rows = [
        KeyChange(
            key=blob(one.key), type=_type(kind) if (kind := space.type_of(one.key)) else None,
            after=make_cursor(keyspace, one.position),
        )
        for one in found
    ]  # fmt: skip
    return KeyChanges(changes=rows, next=make_cursor(keyspace, position))


async def one_key(context: Context, params: OneKey) -> Key:
    await context.answers.reach_told()
    cells, name = context.cells, _key_name(params)
    space = _now(cells)
    kind = space.type_of(name)
    if not kind:
        raise ApiError(404, "no such key", field="key", remedy="GET /api/v1/keys lists them")
    value, following = _value(cells, name, kind, params)
    return Key(
        key=blob(name), type=_type(kind), expires_ns=_expires_ns(cells, name),
        strategy=strategy_name(space.strategy_of(name)),
        stored_bytes=space.stored_bytes(name) or 0,
        count=1 if kind == STRING else space.count(name, kind),
        value=value, next=following,
    )  # fmt: skip


def _key_name(params: OneKey) -> bytes:
    try:
        if params.encoding == "base64":
            padded = params.key + "=" * (-len(params.key) % 4)
            return msgspec.convert(padded.replace("-", "+").replace("_", "/"), bytes)
        return params.key.encode()
    except ValueError as error:
        raise ApiError(
            400, "not a key in that encoding", field="key", remedy="URL-safe base64 of its bytes"
        ) from error


# A place to go on from, and what stands there.
Item = tuple[bytes, tuple[Any, ...]]


def _value(cells: HubCells, name: bytes, kind: int, params: OneKey) -> tuple[Any, str | None]:
    """Return a page of the value as JSON has it, and the cursor behind it."""
    if kind == STRING:
        return plain(cells.space.get_string(name)), None
    known, after = read_cursor(params.after, tuple[int, bytes], (kind, b""))
    if known != kind:
        raise ApiError(400, "the key is of another type by now", field="after", remedy="begin anew")
    page: list[Item] = []
    room, is_all = PAGE_BYTES, True
    for at, item in _items(cells, name, kind, after):
        if len(page) == params.limit or room <= 0:
            is_all = False
            break
        page.append((at, item))
        room -= sum(len(part) for part in item if isinstance(part, bytes))
    values = [_shown(kind, item) for _, item in page]
    value = plain(dict(values) if kind == HASH else values)
    return value, None if is_all else make_cursor(kind, page[-1][0] + b"\0")


def _items(cells: HubCells, name: bytes, kind: int, start: bytes) -> Iterator[Item]:
    """Yield what a collection holds from a place on, each with its place."""
    if kind == ZSET:
        for score, member in cells.space.by_score(name, start, b"\xff" * 9):
            yield sortable(score) + member, (member, score)
        return
    for at, value in cells.space.cells(name, kind, start):
        yield at, (at, value) if kind != LIST else (value,)


def _shown(kind: int, item: tuple[Any, ...]) -> Any:
    return item if kind in (HASH, ZSET) else item[0]


def _now(cells: HubCells) -> Any:
    """The keys as they are now: what is past its deadline is absent."""
    cells.space.now_ms = cells.now_ms()
    return cells.space


def _type(kind: int) -> Any:
    return TYPE_NAMES[kind]


def _expires_ns(cells: HubCells, name: bytes) -> int | None:
    deadline = cells.space.deadline(name)
    return None if deadline in (None, NEVER) else min(int(deadline or 0) * 1_000_000, (1 << 63) - 1)


def stats(context: Context) -> KeysStats:
    """Return how the keys are that are read and written here."""
    return _stats(context, context.answers)


def stats_by_tenant(context: Context) -> dict[str, KeysStats]:
    """Return how all keys are that may be told of here."""
    return {tenant: _stats(context, answers) for tenant, answers in context.seen_answers().items()}


def _stats(context: Context, answers: Answers) -> KeysStats:
    cells = answers.cells
    return KeysStats(
        keys=cells.space.keys,
        used_bytes=cells.used_bytes,
        change=cells.space.seq,
        stable=cells.stable(),
        collected=cells.mark.collected,
        lag=max(0, context.hub.log_head - cells.position),
        replicas=cells.names.count,
        conflicts_open=cells.conflicts.open_count,
        conflicts_detected=cells.conflicts.detected,
        commands=cells.commands,
        skipped=answers.skipped,
        clamped=cells.space.clamped,
    )

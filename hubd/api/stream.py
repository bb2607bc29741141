"""Server-sent events: what has just happened, for as long as somebody listens."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

import msgspec
import trio
from starlette.responses import StreamingResponse

from hubd.api.context import Context
from hubd.api.errors import ApiError
from hubd.api.params import LiveParams
from hubd.project.live import TooManyWatchers, Watcher

# Not more often: a person cannot read it, and the browser has to draw it.
PAUSE_S = 0.1
# A comment now and then lets both sides notice that the other is gone.
QUIET_S = 15.0


def live_readings(context: Context, params: LiveParams) -> StreamingResponse:
    wanted = frozenset(int(one, 16) for one in params.series)

    async def tell(watcher: Watcher) -> bytes:
        updates, edges = watcher.take()
        events = [_event("reading", update.json) for update in updates]
        events += [_event("edge", msgspec.json.encode({"edge": edge})) for edge in sorted(edges)]
        return b"".join(events)

    return event_stream(context, params.edge, wanted, tell)


def event_stream(
    context: Context,
    edge: str | None,
    series: frozenset[int],
    tell: Callable[[Watcher], Awaitable[bytes]],
    *,
    pause_s: float = PAUSE_S,
    readings: bool = True,
    quiet_s: float | None = None,
) -> StreamingResponse:
    """Call `tell` when there is news and send what it returns; raises ApiError when full.

    readings   whether readings are news
    quiet_s    call it after that without news, too: some things change with time alone
    """
    watching = context.live.watch(edge, series, context.sees, readings=readings)
    try:
        watcher = watching.__enter__()
    except TooManyWatchers as error:
        raise ApiError(503, str(error), remedy="close another page of this dashboard") from error

    async def chunks() -> AsyncGenerator[bytes]:
        yield b"retry: 1000\n\n"
        while True:
            await trio.sleep(pause_s)  # a page that was just made is newer than what others share
            with trio.move_on_after(QUIET_S if quiet_s is None else quiet_s) as waited:
                await watcher.wait()
            is_quiet = waited.cancelled_caught and quiet_s is None
            yield b": still here\n\n" if is_quiet else await tell(watcher)

    return _Stream(chunks(), lambda: watching.__exit__(None, None, None))


def as_event(data: str, name: str = "") -> bytes:
    """Text as one event; a listener gets the lines back as they were."""
    head = f"event: {name}\n" if name else ""
    lines = "".join(f"data: {line}\n" for line in data.splitlines())
    return f"{head}{lines}\n".encode()


class _Stream(StreamingResponse):
    """Gives its place back when the listener is gone, however that came."""

    def __init__(self, chunks: AsyncGenerator[bytes], done: Callable[[], object]) -> None:
        super().__init__(
            chunks,
            media_type="text/event-stream",
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )
        self._chunks = chunks
        self._done = done

    async def __call__(self, *args: object) -> None:
        try:
            # Closed here and not by the collector, which would do it outside of any task.
            async with aclosing(self._chunks):
                await super().__call__(*args)  # type: ignore[arg-type]  # scope, receive, send
        finally:
            self._done()


def _event(name: str, json: bytes) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), json)  # encoded JSON is one line

"""Clear errors for programs without Trio, and for `with` where `async with` is needed."""

import functools
from collections.abc import Awaitable, Callable
from typing import Concatenate, Final, ParamSpec, Protocol, TypeVar


class MaybePlain(Protocol):
    @property
    def is_plain(self) -> bool:
        """Whether it was opened with `with`, not with `async with`."""
        ...


P = ParamSpec("P")
T = TypeVar("T")
N = TypeVar("N", bound=MaybePlain)

# What a program without Trio calls instead.
PLAIN: Final = {
    "ingest": "ingest_sync",
    "emit": "emit_sync",
    "record": "record_sync",
    "execute": "command",
}


def awaited(
    method: Callable[Concatenate[N, P], Awaitable[T]],
) -> Callable[Concatenate[N, P], Awaitable[T]]:
    """Make `method` raise at once on a node opened with plain `with`.

    There nobody can await it, and what is not awaited stores nothing and says nothing.
    """

    @functools.wraps(method)
    def checked(self: N, /, *args: P.args, **options: P.kwargs) -> Awaitable[T]:
        if self.is_plain:
            instead = PLAIN.get(method.__name__)
            remedy = f"call {instead}()" if instead else "it needs the hub, or other tasks"
            raise RuntimeError(
                f"{method.__name__}() is for `async with`, and this node was opened with `with`: "
                f"{remedy}"
            )
        return method(self, *args, **options)

    return checked


def check_runs_on_trio() -> None:
    """Raise a clear error under asyncio, where Trio's own would come from deep inside."""
    import sniffio

    try:
        library = sniffio.current_async_library()
    except sniffio.AsyncLibraryNotFoundError:
        library = "no event loop"
    if library != "trio":
        raise RuntimeError(
            f"`async with EdgeNode` needs Trio, and this is {library}: start the program with "
            "`trio.run(main)`; in an asyncio or plain program use `with EdgeNode.local(folder)` "
            "and the methods that end in _sync, or run the daemon and its Redis port"
        )

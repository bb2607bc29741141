"""The control socket: how `edgesync status`, `hubd backup` and their kin speak to a daemon.

A Unix socket in the data directory, mode 0600: who may read the directory may ask. One JSON object
a line each way: {"ask": "status"} is answered {"ok": …}, or {"error": …, "remedy": …}.
"""

import contextlib
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import trio

from edgesync.errors import EdgesyncError, sentence_of
from edgesync_transport.descriptors import Door

log = logging.getLogger(__name__)

# Names of the sockets: an edge and a hub may share a folder.
EDGE, HUB = "control", "hub.control"
# `sun_path` in unix(7), with a zero at its end.
ADDRESS_BYTES_MAX: Final = 107
LINE_BYTES_MAX: Final = 64 * 1024
ASKERS_MAX: Final = 16
IDLE_S: Final = 60.0

Answer = Callable[[Mapping[str, Any]], Awaitable[Any]]


class NotRunning(EdgesyncError):
    """Nobody answers in `folder`."""

    def __init__(self, folder: Path, *, start: str = "edgesync run") -> None:
        super().__init__(f"no daemon answers in {folder}; start one with `{start}`")


class NoAnswer(EdgesyncError):
    """A daemon runs, and its answer did not come: whether it did what was asked is not known."""


async def serve_control(
    folder: Path,
    answers: Mapping[str, Answer],
    *,
    name: str = EDGE,
    mendable: tuple[type[Exception], ...] = (EdgesyncError,),
    task_status: trio.TaskStatus[Path] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Answer until cancelled. The store's lock keeps two daemons from sharing the socket.

    mendable  errors whose sentence is the answer; any other is a bug and is logged as one
    """
    path = folder / name
    path.unlink(missing_ok=True)
    listening = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    door = Door(name, ASKERS_MAX, reserved_max=ASKERS_MAX)

    async def handle(connection: trio.socket.SocketType) -> None:
        await _converse(trio.SocketStream(connection), answers, mendable)

    try:
        # What it is bound to has the mode of the socket. The umask is of all threads: a folder that
        # one of them makes meanwhile could not be entered.
        os.fchmod(listening.fileno(), 0o600)
        with _address(path) as address:
            await listening.bind(address)
        listening.listen(ASKERS_MAX)
        async with trio.open_nursery() as nursery:
            task_status.started(path)
            await door.serve(listening, handle, nursery)
    finally:
        listening.close()
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def _address(path: Path) -> Iterator[str]:
    """Yield the path of a socket as the kernel takes it, however deep its folder lies."""
    if len(os.fsencode(path)) <= ADDRESS_BYTES_MAX:
        yield os.fspath(path)
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


async def _converse(
    stream: trio.SocketStream,
    answers: Mapping[str, Answer],
    mendable: tuple[type[Exception], ...],
) -> None:
    """Answer until the other end has gone, or is idle; an answer takes as long as it takes."""
    pending = b""
    async with stream:
        with contextlib.suppress(trio.TooSlowError, trio.BrokenResourceError):
            while len(pending) <= LINE_BYTES_MAX:
                with trio.fail_after(IDLE_S):
                    data = await stream.receive_some()
                if not data:
                    return
                pending += data
                while b"\n" in pending:
                    line, _, pending = pending.partition(b"\n")
                    reply = await _answer(line, answers, mendable)
                    with trio.fail_after(IDLE_S):
                        await stream.send_all(reply + b"\n")


async def _answer(
    line: bytes, answers: Mapping[str, Answer], mendable: tuple[type[Exception], ...]
) -> bytes:
    try:
        asked = msgspec.json.decode(line, type=dict[str, Any])
        answer = answers.get(str(asked.get("ask")))
        if answer is None:
            known = ", ".join(answers)
            return msgspec.json.encode({"error": "unknown question", "remedy": f"ask {known}"})
        return msgspec.json.encode({"ok": await answer(asked)})
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        return msgspec.json.encode({"error": f"not a question: {error}"})
    except mendable as error:
        return msgspec.json.encode({"error": sentence_of(error)})
    except trio.TooSlowError:
        return msgspec.json.encode({"error": "the hub did not have everything in time"})
    except Exception:
        log.exception("a question failed: %r", line[:200])
        return msgspec.json.encode({"error": "this question failed at the daemon; see its log"})


def ask_hub(data_dir: Path, question: str, **facts: Any) -> Any:
    """Ask the hub of `data_dir` from a plain program; raises as `ask` does."""
    return _ask(data_dir / HUB, NotRunning(data_dir, start="hubd run"), question, facts)


def ask(data_dir: Path, question: str, **facts: Any) -> Any:
    """Ask the edge of `data_dir` from a plain program.

    Raises NotRunning, NoAnswer, and EdgesyncError for an answer that is a refusal.
    """
    return _ask(data_dir / EDGE, NotRunning(data_dir), question, facts)


def _ask(path: Path, absent: NotRunning, question: str, facts: Mapping[str, Any]) -> Any:
    line = msgspec.json.encode({"ask": question, **facts}) + b"\n"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream:
        timeout_s = float(facts.get("timeout_s", 30.0)) + 5.0
        stream.settimeout(timeout_s)
        try:
            with _address(path) as address:
                stream.connect(address)
        except OSError as error:
            raise absent from error
        try:
            stream.sendall(line)
            reply = b""
            while not reply.endswith(b"\n"):
                data = stream.recv(65536)
                if not data:
                    raise ConnectionResetError
                reply += data
        except TimeoutError as error:
            raise NoAnswer(f"the daemon has not answered in {timeout_s:.0f} s") from error
        except OSError as error:
            raise NoAnswer("the daemon ended before it had answered; see its log") from error
    found = msgspec.json.decode(reply, type=dict[str, Any])
    if "error" in found:
        raise EdgesyncError(found["error"])
    return found["ok"]

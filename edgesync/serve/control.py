"""The control socket: how `edgesync status` and its kin speak to the daemon.

A Unix socket in the data directory, mode 0600: who may read the directory may ask. One JSON object
a line each way: {"ask": "status"} is answered {"ok": …}, or {"error": …, "remedy": …}.
"""

import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import trio

from edgesync.errors import EdgesyncError
from edgesync.events import EventQuery
from edgesync.node import EdgeNode

NAME: Final = "control"
LINE_BYTES_MAX: Final = 64 * 1024
ASKERS_MAX: Final = 16
IDLE_S: Final = 60.0

Answer = Callable[[Mapping[str, Any]], Awaitable[Any]]


class NotRunning(EdgesyncError):
    def __init__(self, folder: Path) -> None:
        super().__init__(f"no daemon answers in {folder}; start one with `edgesync run`")


async def serve_control(
    node: EdgeNode, *, task_status: trio.TaskStatus[Path] = trio.TASK_STATUS_IGNORED
) -> None:
    """Answer until cancelled. The store's lock keeps two daemons from sharing the socket."""
    path = node.data_dir / NAME
    path.unlink(missing_ok=True)
    listening = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        await listening.bind(os.fspath(path))
    finally:
        os.umask(mask)
    listening.listen(ASKERS_MAX)
    limiter = trio.CapacityLimiter(ASKERS_MAX)
    answers = _answers(node)

    async def handle(stream: trio.SocketStream) -> None:
        async with limiter:
            with trio.move_on_after(IDLE_S):
                await _converse(stream, answers)

    try:
        async with trio.open_nursery() as nursery:
            listener = trio.SocketListener(listening)
            await nursery.start(trio.serve_listeners, handle, [listener])
            task_status.started(path)
    finally:
        path.unlink(missing_ok=True)


def _answers(node: EdgeNode) -> Mapping[str, Answer]:
    async def status(_asked: Mapping[str, Any]) -> Any:
        return node.status()

    async def latest(_asked: Mapping[str, Any]) -> Any:
        return node.latest()

    async def events(asked: Mapping[str, Any]) -> Any:
        return node.events(msgspec.convert(asked.get("query", {}), EventQuery))

    async def dead(_asked: Mapping[str, Any]) -> Any:
        return node.dead()

    async def replay(_asked: Mapping[str, Any]) -> Any:
        return {"replayed": await node.replay_dead()}

    async def sync(asked: Mapping[str, Any]) -> Any:
        await node.sync(float(asked.get("timeout_s", 30.0)))
        return {"synced": True}

    return {
        "status": status,
        "latest": latest,
        "events": events,
        "dead": dead,
        "replay": replay,
        "sync": sync,
    }


async def _converse(stream: trio.SocketStream, answers: Mapping[str, Answer]) -> None:
    pending = b""
    async with stream:
        try:
            async for data in stream:
                pending += data
                while b"\n" in pending:
                    line, _, pending = pending.partition(b"\n")
                    await stream.send_all(await _answer(line, answers) + b"\n")
                if len(pending) > LINE_BYTES_MAX:
                    return
        except trio.BrokenResourceError:
            return


async def _answer(line: bytes, answers: Mapping[str, Answer]) -> bytes:
    try:
        asked = msgspec.json.decode(line, type=dict[str, Any])
        answer = answers.get(str(asked.get("ask")))
        if answer is None:
            known = ", ".join(answers)
            return msgspec.json.encode({"error": "unknown question", "remedy": f"ask {known}"})
        return msgspec.json.encode({"ok": await answer(asked)})
    except (msgspec.DecodeError, msgspec.ValidationError, EdgesyncError) as error:
        return msgspec.json.encode({"error": str(error)})
    except trio.TooSlowError:
        return msgspec.json.encode({"error": "the hub did not have everything in time"})


def ask(data_dir: Path, question: str, **facts: Any) -> Any:
    """Ask the daemon of `data_dir` from a plain program; raises NotRunning or EdgesyncError."""
    line = msgspec.json.encode({"ask": question, **facts}) + b"\n"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream:
        stream.settimeout(float(facts.get("timeout_s", 30.0)) + 5.0)
        try:
            stream.connect(os.fspath(data_dir / NAME))
            stream.sendall(line)
            reply = b""
            while not reply.endswith(b"\n"):
                data = stream.recv(65536)
                if not data:
                    raise NotRunning(data_dir)
                reply += data
        except OSError as error:
            raise NotRunning(data_dir) from error
    found = msgspec.json.decode(reply, type=dict[str, Any])
    if "error" in found:
        raise EdgesyncError(found["error"])
    return found["ok"]

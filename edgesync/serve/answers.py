"""The control socket of an edge: which questions it answers."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec
import trio

from edgesync.events import EventQuery
from edgesync.parts.part import Part
from edgesync.serve.control import Answer, serve_control

if TYPE_CHECKING:
    from edgesync.node import EdgeNode


class ControlPart(Part):
    """Answers the command line; without it nobody could ask, so an error ends the daemon."""

    async def run(self, *, task_status: trio.TaskStatus[object] = trio.TASK_STATUS_IGNORED) -> None:
        answers = control_answers(self.context.node)
        await serve_control(self.context.data_dir, answers, task_status=task_status)


def control_answers(node: "EdgeNode") -> Mapping[str, Answer]:
    """Return the questions of the control socket, each with what answers it."""

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

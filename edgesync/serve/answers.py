"""The control socket of an edge: which questions it answers."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec
import trio

from edgesync.errors import EdgesyncError
from edgesync.events import EventQuery
from edgesync.parts.part import Part
from edgesync.resend import Range
from edgesync.serve.control import Answer, serve_control

if TYPE_CHECKING:
    from edgesync.node import EdgeNode
    from edgesync.parts.resend import ResendPart
    from edgesync.tunnel.part import TunnelPart


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
        await node.sync(float(asked.get("timeout_s", 30.0)), full=asked.get("full") is True)
        return {"synced": True}

    async def resend(asked: Mapping[str, Any]) -> Any:
        part: ResendPart = node.part("resend")
        if asked.get("stop"):
            await part.stop()
        elif "range" in asked:
            await part.begin(msgspec.convert(asked["range"], Range))
        return part.status().get("resend")

    async def tunnel(asked: Mapping[str, Any]) -> Any:
        if not node.settings.tunnel.allow:
            raise EdgesyncError("no tunnels are allowed here: `allow` under [tunnel] is empty")
        part: TunnelPart = node.part("tunnel")
        if "close" in asked:
            return {"closed": part.close_tunnel(str(asked["close"]))}
        return part.status()["tunnels"]

    async def objects(_asked: Mapping[str, Any]) -> Any:
        return node.status().objects

    return {
        "status": status,
        "latest": latest,
        "events": events,
        "dead": dead,
        "replay": replay,
        "sync": sync,
        "resend": resend,
        "tunnel": tunnel,
        "objects": objects,
    }

"""The door for Redis clients, as a part of a node."""

from typing import TYPE_CHECKING

import trio

from edgesync.parts.part import DoorPart
from edgesync.serve.resp.server import RespServer

if TYPE_CHECKING:
    from edgesync.serve.resp.gather import Gather


class RedisPart(DoorPart):
    offer = "Redis clients"

    @property
    def address(self) -> str:
        cells = self.context.settings.cells
        return f"cells.port {cells.port} on {cells.host}"

    def open(self) -> None:
        self.context.parts.get("keys")

    async def serve(
        self, *, task_status: trio.TaskStatus[object] = trio.TASK_STATUS_IGNORED
    ) -> None:
        node, settings = self.context.node, self.context.settings
        cells = settings.cells
        server = RespServer(
            node.cells,
            site=node,
            password=cells.password,
            durability=cells.durability,
            clients_max=cells.clients_max,
            notify_keyspace_events=cells.notify_keyspace_events,
            edge=settings.edge.name,
            stop=self.context.stop,
            make_gather=self._make_gather,
        )
        await server.serve(cells.host, cells.port, task_status=task_status)

    def _make_gather(self) -> "Gather":
        from edgesync.serve.resp.gather import Gather

        node, cells = self.context.node, self.context.settings.cells
        return Gather(node.points, node.record, every_s=cells.commit_every_s())

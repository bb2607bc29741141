"""The resources of a node: watched when the settings say so, or when it has keys."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import trio

from edgesync.parts.part import Part
from edgesync.resources.edge import monitor_of
from edgesync.resources.monitor import ResourceMonitor

if TYPE_CHECKING:
    from edgesync.parts.keys import KeysPart
    from edgesync.parts.link import LinkPart
    from edgesync.store.edgecells import EdgeCells


class ResourcesPart(Part):
    """See the module."""

    monitor: ResourceMonitor

    def open(self) -> None:
        context, settings = self.context, self.context.settings
        link: LinkPart = context.parts.get("link")
        self.monitor = monitor_of(
            context.recorder.store,
            settings.resources,
            cells=self._cells,
            link=link.link_status,
            sync_now=link.hurry,
            may_pack=settings.cells.may_pack,
            may_evict=settings.cells.eviction == "lru",
            root=context.system,
        )

    def _cells(self) -> "EdgeCells | None":
        keys: KeysPart | None = self.context.parts.find("keys")
        return None if keys is None else keys.cells

    async def run(self, *, task_status: trio.TaskStatus[object] = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        await self.monitor.run()

    def status(self) -> Mapping[str, Any]:
        return {"resource_level": self.monitor.level, "resources_worst": self.monitor.worst}

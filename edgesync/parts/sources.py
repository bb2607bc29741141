"""The sources of a node: those of the settings, which can be read anew, and those of a program."""

from collections.abc import Hashable, Mapping
from typing import Any

import msgspec
import trio

from edgesync import settings as settings_module
from edgesync.errors import ConfigError
from edgesync.parts import table
from edgesync.parts.part import Context, Part
from edgesync.settings import Settings
from edgesync.sources.base import Source
from edgesync.sources.running import RunningSources
from edgesync.sources.sink import GatheringSink


class SourcesPart(Part):
    """See the module."""

    _running: RunningSources

    async def run(self, *, task_status: trio.TaskStatus[object] = trio.TASK_STATUS_IGNORED) -> None:
        context, nursery = self.context, self.context.parts.nursery
        assert nursery is not None, "run by a node that has tasks"
        self._running = RunningSources(
            nursery, GatheringSink(context.node, nursery), context.random
        )
        await self._running.change_to(_sources_of(context, context.settings))
        task_status.started()

    async def reload(self) -> tuple[int, int]:
        """Run the sources that the file names now; see `EdgeNode.reload_devices`."""
        context = self.context
        if context.settings_path is None:
            raise ConfigError(
                file="settings", field="(file)", problem="were not read from a file",
                remedy="open the node with a path to edge.toml",
            )  # fmt: skip
        settings = settings_module.read_settings(context.settings_path)
        changed = await self._running.change_to(_sources_of(context, settings))
        self._running.retry_now()  # whoever changed a cable does not want to wait for the back-off
        sections = {row.section: getattr(settings, row.section) for row in table.SOURCES}
        context.settings = msgspec.structs.replace(context.settings, **sections)
        return changed

    def status(self) -> Mapping[str, Any]:
        return {"sources": self._running.statuses()}


def _sources_of(context: Context, settings: Settings) -> dict[Hashable, Source]:
    made: dict[Hashable, Source] = {id(source): source for source in context.sources}
    for row in table.SOURCES:
        section = getattr(settings, row.section)
        if section:
            factory = table.load(row.factory)
            found = factory(section, folder=context.folder, wall_ns=context.wall_ns)
            made |= {source.key: source for source in found}
    return made

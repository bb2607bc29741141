"""The projectors as the log's retention sees them: how far each has the log in rows."""

from collections.abc import Mapping

from hubd.project.cursors import durable_cursors
from hubd.project.projectors import Projectors
from hubd.state import State


class ProjectorReaders:
    """Implements `hubd.log.retention.Readers`."""

    def __init__(self, state: State, projectors: Projectors) -> None:
        self._state = state
        self._projectors = projectors

    async def cursors(self) -> Mapping[str, int]:
        """Return up to where the log is in rows; of a view that has none yet it is the start."""
        found = await self._state.write(durable_cursors)
        return {f"projector {one.name}": found.get(one.name, 0) for one in self._projectors.all}

    def press(self, position: int) -> None:
        for projector, progress in zip(
            self._projectors.all, self._projectors.progress, strict=True
        ):
            projector.press(position)
            progress.press()

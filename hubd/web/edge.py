"""What an edge's page shows: the cells that change by themselves, and all beside them."""

from collections.abc import Iterator, Sequence

import msgspec

from hubd.api.answers import Device, Edge, Latest
from hubd.state.views import EventRow
from hubd.web import format


class EdgePage(msgspec.Struct, frozen=True, kw_only=True):
    """All that is known of an edge; devices with those that are away first."""

    edge: Edge
    latest: Latest
    devices: Sequence[Device]
    resources: EventRow | None

    def frame(self) -> tuple[object, ...]:
        """Return what is shown beside the cells."""
        link, state = self.edge.link, self.edge.state
        series = [
            (entity, key, one.series, one.unit)
            for entity, keys in self.latest.latest.items()
            for key, one in keys.items()
        ]
        return (
            link.edge, self.edge.health, link.is_connected, link.since_ns, link.software,
            link.address, link.epoch, link.incarnation, [lane.lane for lane in link.lanes],
            None if link.is_connected else (link.state, link.known_at_ns), link.slowed,
            link.prefixes,
            state.series, state.dead, state.lost, series, self.latest.next is None,
            self.devices, self.resources,
        )  # fmt: skip

    def cells(self) -> dict[str, str]:
        link, state = self.edge.link, self.edge.state
        cells = {
            "state": link.state,
            "lag": "not known" if link.lag_records is None else format.count(link.lag_records),
            "lag-age": self._lag_age(),
            "rtt": format.seconds(link.rtt_s),
            "clock": format.seconds(link.clock_offset_s),
            "readings": format.count(state.readings),
            "events": format.count(state.events),
            "keys": self._keys(),
            "keys-age": self._keys_age(),
        }
        return {**cells, **dict(self._lanes()), **dict(self._values())}

    def _keys(self) -> str:
        keys = self.edge.keys
        if keys is None:
            return "not known"
        return "all told" if keys.share >= 1 else f"{keys.share:.0%} told"

    def _keys_age(self) -> str:
        keys = self.edge.keys
        if keys is None:
            return "it has not asked since the hub's start"
        return f"asked {format.age(keys.at_ns, self.latest.now_ns)}"

    def _lag_age(self) -> str:
        link = self.edge.link
        if not link.is_connected:
            return "last known" if link.known_at_ns else ""
        return format.seconds(link.lag_s) if link.lag_records else "all is here"

    def _lanes(self) -> Iterator[tuple[str, str]]:
        for lane in self.edge.link.lanes:
            yield f"{lane.lane} tail", format.count(lane.tail)
            yield f"{lane.lane} floor", format.count(lane.floor)
            yield f"{lane.lane} safe", format.count(lane.safe)
            yield f"{lane.lane} behind", format.count(lane.tail - lane.floor)

    def _values(self) -> Iterator[tuple[str, str]]:
        for keys in self.latest.latest.values():
            for one in keys.values():
                yield from format.newest(one.series, one.value, one.time_ns, self.latest.now_ns)

"""Is the event record written by hand worth it beside pycapnp?

Decides whether pycapnp may stand in the path of an event: it is the oracle of the tests, and the
codec of the link's few control messages.
"""

import timeit
from pathlib import Path
from typing import Any

import capnp

import edgesync_transport
from edgesync._native import event

FIELDS = (2, 1, 2, "meter0", b'{"key":"ActivePower","value":1234.5}', 1_700_000_000 * 10**9, 5, 6)
SCHEMA = Path(edgesync_transport.__file__).parent / "schema" / "event.capnp"


def by_pycapnp(schema: Any) -> bytes:
    message = schema.new_message()
    (message.type, message.action, message.entityType, message.entityId, message.body) = FIELDS[:5]
    (message.timeNs, message.createdNs, message.hlc) = FIELDS[5:]
    return bytes(message.to_bytes())


class Event:
    params = ("by hand", "pycapnp")
    param_names = ("codec",)

    def setup(self, codec: str) -> None:
        self.schema = capnp.load(str(SCHEMA)).Event
        self.data = event.encode(*FIELDS)

    def fields(self) -> tuple[Any, ...]:
        with self.schema.from_bytes(self.data) as m:
            head = (m.type, m.action, m.entityType, m.entityId, m.body)
            return (*head, m.timeNs, m.createdNs, m.hlc)

    def track_encode(self, codec: str) -> float:
        if codec == "pycapnp":
            return min(timeit.repeat(lambda: by_pycapnp(self.schema), number=2000)) / 2000 * 1e9
        return min(timeit.repeat(lambda: event.encode(*FIELDS), number=20_000)) / 20_000 * 1e9

    def track_decode(self, codec: str) -> float:
        if codec == "pycapnp":
            return min(timeit.repeat(self.fields, number=2000)) / 2000 * 1e9
        return min(timeit.repeat(lambda: event.decode(self.data), number=20_000)) / 20_000 * 1e9

    track_encode.unit = track_decode.unit = "ns/event"  # type: ignore[attr-defined]


if __name__ == "__main__":
    for name in Event.params:
        one = Event()
        one.setup(name)
        print(
            f"{name:8} encode {one.track_encode(name):,.0f} decode {one.track_decode(name):,.0f} ns"
        )

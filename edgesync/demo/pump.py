"""A pump that speaks MQTT to the edge, as a device of somebody's would: ThingsBoard's topics."""

import json
from typing import Final

import trio

from edgesync.serve.mqtt.decode import Parser
from edgesync.serve.mqtt.encode import encode
from edgesync.serve.mqtt.packets import (
    V311,
    Connack,
    Connect,
    Filter,
    Packet,
    Puback,
    Publish,
    Subscribe,
)

NAME: Final = "pump-1"
TOKEN: Final = "demo-pump"
DEVICES: Final = f'[[device]]\nname = "{NAME}"\ntoken = "{TOKEN}"\n'
REQUESTS: Final = "v1/devices/me/rpc/request/"
TELEMETRY_S: Final = 1.0
AGAIN_S: Final = 0.5
PACKET_MAX: Final = 1 << 16
COOL_C, HOT_C = 61.0, 91.0
RPM: Final = 1450


class Pump:
    """Tells its temperature and speed each second, and does as `setSpeed` says.

    acknowledged   readings that the edge has said are stored
    """

    def __init__(self) -> None:
        self.temperature_c, self.rpm = COOL_C, RPM
        self.acknowledged = 0
        self._next_id = 0
        self._unacked: dict[int, int] = {}  # readings of a message

    async def run(self, port: int) -> None:
        """Stay connected to the edge's door until cancelled."""
        while True:
            try:
                async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                    await self._talk(stream)
            except (OSError, trio.BrokenResourceError):
                pass  # the edge is away
            await trio.sleep(AGAIN_S)

    async def _talk(self, stream: trio.SocketStream) -> None:
        connect = Connect(level=V311, client_id=NAME, username=TOKEN, keepalive_s=30)
        await stream.send_all(encode(connect, V311))
        parser = Parser(PACKET_MAX, level=V311)
        async with trio.open_nursery() as nursery:
            async for data in stream:
                parser.feed(bytes(data))
                while (packet := parser.next()) is not None:
                    if isinstance(packet, Connack):
                        if packet.reason:
                            break
                        nursery.start_soon(self._tell, stream)
                    else:
                        await self._hear(stream, packet)
            nursery.cancel_scope.cancel()

    async def _tell(self, stream: trio.SocketStream) -> None:
        subscribe = Subscribe(self._id(), (Filter(f"{REQUESTS}+", 1),))
        await stream.send_all(encode(subscribe, V311))
        while True:
            told = {"temperature": self.temperature_c, "speed": self.rpm}
            await self._publish(stream, "v1/devices/me/telemetry", told, readings=len(told))
            await trio.sleep(TELEMETRY_S)

    async def _hear(self, stream: trio.SocketStream, packet: Packet) -> None:
        if isinstance(packet, Puback):
            self.acknowledged += self._unacked.pop(packet.packet_id, 0)
        elif isinstance(packet, Publish) and packet.topic.startswith(REQUESTS):
            if packet.qos:
                await stream.send_all(encode(Puback(packet.packet_id), V311))
            call = json.loads(packet.payload)
            if call["method"] == "setSpeed":
                self.rpm = int(call["params"]["rpm"])
            number = packet.topic.removeprefix(REQUESTS)
            await self._publish(stream, f"v1/devices/me/rpc/response/{number}", {"rpm": self.rpm})

    async def _publish(
        self, stream: trio.SocketStream, topic: str, body: object, *, readings: int = 0
    ) -> None:
        packet = Publish(topic, json.dumps(body).encode(), qos=1, packet_id=self._id())
        self._unacked[packet.packet_id] = readings
        await stream.send_all(encode(packet, V311))

    def _id(self) -> int:
        self._next_id = self._next_id % 65_535 + 1
        return self._next_id

"""How many messages a second does one link carry under Trio?

It decides whether the pump or the disk is the limit: with batches of 1,000 records a hub that
stores a million records a second needs 1,000 messages a second from here.

The sender is a process of its own, as an edge is; the figure is what the receiver counts.
"""

import sys
import time
from typing import ClassVar

import trio
import zmq

from edgesync_transport.keys import KeyPair, new_key_pair
from edgesync_transport.pump import Pump

WARM_UP = 1_000


def flood(port: int, size: int, count: int, server_key: str) -> None:
    """Send `count` messages of `size` bytes as fast as the pump takes them."""

    async def main() -> None:
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        socket = context.socket(zmq.DEALER)
        if server_key:
            keys = new_key_pair()
            socket.curve_serverkey = server_key.encode()
            socket.curve_publickey = keys.public.encode()
            socket.curve_secretkey = keys.secret.encode()
        socket.connect(f"tcp://127.0.0.1:{port}")
        pump, message = Pump(socket), [bytes(size)]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pump.run)
            for _ in range(count):
                await pump.send(message)
            await trio.sleep_forever()

    trio.run(main)


async def receive(size: int, count: int, server: KeyPair | None) -> float:
    """Return the seconds between message WARM_UP and the last of `count`."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.linger = 0
    if server is not None:
        socket.curve_server = True
        socket.curve_publickey = server.public.encode()
        socket.curve_secretkey = server.secret.encode()
    port = socket.bind_to_random_port("tcp://127.0.0.1")
    arguments = [str(port), str(size), str(count), server.public if server else ""]
    sender = await trio.lowlevel.open_process([sys.executable, __file__, "flood", *arguments])
    pump = Pump(socket)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pump.run)
            for _ in range(WARM_UP):
                await pump.receive()
            begun = time.perf_counter()
            for _ in range(count - WARM_UP):
                await pump.receive()
            taken_s = time.perf_counter() - begun
            nursery.cancel_scope.cancel()
        return taken_s
    finally:
        sender.kill()
        await sender.wait()
        socket.close()
        context.term()


def messages_per_s(size: int, count: int, *, curve: bool) -> float:
    taken_s = trio.run(receive, size, count, new_key_pair() if curve else None)
    return (count - WARM_UP) / taken_s


class Flood:
    params: ClassVar = [[64, 4096, 65536], [False, True]]
    param_names: ClassVar = ["bytes", "curve"]
    timeout = 120
    unit = "messages/s"

    def track_messages_per_s(self, size: int, curve: bool) -> float:
        count = {64: 200_000, 4096: 80_000, 65536: 10_000}[size]
        return messages_per_s(size, count, curve=curve)


if __name__ == "__main__" and sys.argv[1:2] == ["flood"]:
    port, size, count = map(int, sys.argv[2:5])
    flood(port, size, count, sys.argv[5])
elif __name__ == "__main__":
    for curve in (False, True):
        for size in (64, 4096, 65536):
            figures = sorted(Flood().track_messages_per_s(size, curve) for _ in range(5))
            print(f"{size:6} B, CURVE {curve!s:5}: {figures[2]:9,.0f} messages/s")

"""How many messages a second does one link carry under Trio?

It decides whether the pump or the disk is the limit: with batches of 1,000 records a hub that
stores a million records a second needs 1,000 messages a second from here.

The sender is a process of its own, as an edge is; the figure is what the receiver counts.
"""

import multiprocessing
import time
from collections.abc import Callable
from typing import ClassVar

import trio
import zmq

from edgesync_transport.keys import KeyPair, new_key_pair
from edgesync_transport.pump import Pump

WARM_UP = 1_000


def flood(port: int, size: int, count: int, server_key: str | None, keys: KeyPair) -> None:
    """Send `count` messages of `size` bytes as fast as the pump takes them."""

    async def main() -> None:
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        socket = context.socket(zmq.DEALER)
        if server_key is not None:
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


async def receive(start_sender: Callable[[int], None], count: int, server: KeyPair | None) -> float:
    """Return the seconds between message WARM_UP and the last of `count`."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.linger = 0
    if server is not None:
        socket.curve_server = True
        socket.curve_publickey = server.public.encode()
        socket.curve_secretkey = server.secret.encode()
    start_sender(socket.bind_to_random_port("tcp://127.0.0.1"))
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
        socket.close()
        context.term()


def messages_per_s(size: int, count: int, *, curve: bool) -> float:
    spawn = multiprocessing.get_context("spawn")
    server, client = new_key_pair(), new_key_pair()
    senders: list[multiprocessing.process.BaseProcess] = []

    def start_sender(port: int) -> None:
        server_key = server.public if curve else None
        process = spawn.Process(
            target=flood, args=(port, size, count, server_key, client), daemon=True
        )
        process.start()
        senders.append(process)

    try:
        taken_s = trio.run(receive, start_sender, count, server if curve else None)
    finally:
        for process in senders:
            process.kill()
            process.join()
    return (count - WARM_UP) / taken_s


class Flood:
    params: ClassVar = [[64, 4096, 65536], [False, True]]
    param_names: ClassVar = ["bytes", "curve"]
    timeout = 120
    unit = "messages/s"

    def track_messages_per_s(self, size: int, curve: bool) -> float:
        count = {64: 200_000, 4096: 80_000, 65536: 10_000}[size]
        return messages_per_s(size, count, curve=curve)


if __name__ == "__main__":
    for curve in (False, True):
        for size in (64, 4096, 65536):
            figures = sorted(Flood().track_messages_per_s(size, curve) for _ in range(5))
            print(f"{size:6} B, CURVE {curve!s:5}: {figures[2]:9,.0f} messages/s")

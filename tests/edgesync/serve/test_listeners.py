"""Doors whose clients one task serves let in whom they can, and nobody ends them."""

import select
import socket
import struct
from pathlib import Path

import pytest
import trio

from edgesync import EdgeNode
from edgesync.serve.listeners import ACCEPTS_A_TURN, Listeners
from edgesync.serve.resp.server import RespServer
from edgesync_transport import descriptors

pytestmark = pytest.mark.feature("L9", "F1")

RESET_AT_CLOSE = struct.pack("ii", 1, 0)


async def test_so_many_are_let_in_at_one_go_and_the_others_at_the_next() -> None:
    with select.epoll() as epoll:
        listeners = Listeners("listeners", epoll)
        number = listeners.listen("127.0.0.1", 0)
        (port,) = listeners.ports()
        clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(ACCEPTS_A_TURN + 3)]
        async with trio.open_nursery() as nursery:
            found = [list(listeners.accept(number, nursery)) for _ in range(3)]
        assert [len(one) for one in found] == [ACCEPTS_A_TURN, 3, 0]
        for connection, _ in [*found[0], *found[1]]:
            assert not connection.getblocking()
            connection.close()
        for client in clients:
            client.close()
        listeners.close()


async def test_nobody_is_let_in_for_a_moment_while_descriptors_are_short(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with select.epoll() as epoll:
        listeners = Listeners("listeners", epoll)
        number = listeners.listen("127.0.0.1", 0)
        with socket.create_connection(("127.0.0.1", listeners.ports()[0])):
            async with trio.open_nursery() as nursery:
                monkeypatch.setattr(descriptors, "is_reserved", lambda _number: True)
                assert list(listeners.accept(number, nursery)) == []
                with socket.create_connection(("127.0.0.1", listeners.ports()[0])):
                    assert epoll.poll(0.05) == []  # before any task has had its turn
                    await trio.sleep(2 * descriptors.PAUSE_S)
                    assert epoll.poll(5) == [(number, select.EPOLLIN)]
        listeners.close()


async def test_a_listening_socket_that_is_broken_ends_its_door() -> None:
    with select.epoll() as epoll:
        listeners = Listeners("listeners", epoll)
        number = listeners.listen("127.0.0.1", 0)
        listeners._sockets[number].close()
        async with trio.open_nursery() as nursery:
            with pytest.raises(OSError, match="Bad file descriptor"):
                list(listeners.accept(number, nursery))


async def test_whoever_is_not_let_in_may_be_gone_when_told_so(tmp_path: Path) -> None:
    async with (
        EdgeNode({"http": {"port": 0}}, folder=tmp_path) as node,
        trio.open_nursery() as nursery,
    ):
        server = RespServer(node.cells, clients_max=1)
        port = await nursery.start(server.serve, "127.0.0.1", 0)
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(b"PING\r\n")
            assert await stream.receive_some() == b"+PONG\r\n"
            for _ in range(3):  # before the server has its turn
                with socket.create_connection(("127.0.0.1", port)) as client:
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_AT_CLOSE)
            with trio.fail_after(100):
                while server.house.facts.rejected < 3:  # noqa: ASYNC110
                    await trio.sleep(0.01)
                await stream.send_all(b"PING\r\n")
                assert await stream.receive_some() == b"+PONG\r\n"
        nursery.cancel_scope.cancel()

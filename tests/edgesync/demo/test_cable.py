"""The cable must really part the two ends, or the chaos it causes means nothing."""

import pytest
import trio

from edgesync.demo.cable import Cable, open_cable


async def echo(stream: trio.SocketStream) -> None:
    async with stream:
        try:
            async for data in stream:
                await stream.send_all(data)
        except trio.BrokenResourceError:
            pass


async def echo_server(nursery: trio.Nursery) -> tuple[str, int]:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    nursery.start_soon(trio.serve_listeners, echo, listeners)
    name = listeners[0].socket.getsockname()
    return (name[0], name[1])


async def talk(cable: Cable) -> bytes:
    stream = await trio.open_tcp_stream(*cable.address)
    async with stream:
        await stream.send_all(b"hello")
        return bytes(await stream.receive_some(100))


async def test_a_plugged_cable_carries_bytes_both_ways(nursery: trio.Nursery) -> None:
    async with open_cable(await echo_server(nursery)) as cable:
        assert await talk(cable) == b"hello"
        assert (cable.bytes_to, cable.bytes_back) == (5, 5)


async def test_a_cut_ends_connections_and_refuses_new_ones(nursery: trio.Nursery) -> None:
    async with open_cable(await echo_server(nursery)) as cable:
        stream = await trio.open_tcp_stream(*cable.address)
        await stream.send_all(b"x")
        assert await stream.receive_some(1) == b"x"
        cable.cut()
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some(1)
        await stream.aclose()
        with pytest.raises(trio.BrokenResourceError):
            await talk(cable)
        cable.plug()
        assert await talk(cable) == b"hello"


async def test_a_hushed_cable_delivers_nothing_until_plugged(nursery: trio.Nursery) -> None:
    async with open_cable(await echo_server(nursery)) as cable:
        cable.hush()
        stream = await trio.open_tcp_stream(*cable.address)
        await stream.send_all(b"later")
        with trio.move_on_after(0.1) as waited:
            await stream.receive_some(5)
        assert waited.cancelled_caught
        cable.plug()
        assert await stream.receive_some(5) == b"later"
        await stream.aclose()

"""Peers that may not speak, no longer may, or speak nonsense: nothing gets through (I8, I12)."""

import struct
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager

import pytest
import trio
import zmq
from zmq.utils.monitor import parse_monitor_message

from edgesync_transport import descriptors
from edgesync_transport.dealer import Cause, ZmqLink
from edgesync_transport.keys import KeyPair, new_key_pair
from edgesync_transport.messages import Ping
from edgesync_transport.pump import PARTS_MAX
from edgesync_transport.router import _prepare_server, _receive_one
from edgesync_transport.wire import decode, encode
from tests.faults.memory import peak
from tests.transport.hub import MUTE, QUICK, Hub, collect, end_of, eventually, open_hub
from tests.transport.samples import ACK, BATCH, BYE, HELLO, WELCOME

pytestmark = pytest.mark.feature("S6")

# A ZMTP 3.1 greeting of a CURVE client (rfc.zeromq.org/spec/37): signature, version, mechanism.
GREETING = b"\xff" + bytes(8) + b"\x7f" + b"\3\1" + b"CURVE".ljust(20, b"\0") + b"\0" + bytes(31)


class RawDealer:
    """A client that says what it likes: the key may be right, the messages need not be."""

    def __init__(self, hub: Hub, keys: KeyPair | None, *, server_key: str = "") -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.socket = self._context.socket(zmq.DEALER)
        self.socket.linger = 0
        if keys is not None:
            self.socket.curve_serverkey = (server_key or hub.keys.public).encode()
            self.socket.curve_publickey = keys.public.encode()
            self.socket.curve_secretkey = keys.secret.encode()
        self.socket.connect(hub.address)

    def send(self, *frames: bytes) -> None:
        self.socket.send_multipart(frames, zmq.DONTWAIT)

    def __enter__(self) -> "RawDealer":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()
        self._context.term()


async def hears_only(hub: Hub, link: ZmqLink, edge: str) -> None:
    """Hear an honest edge first, once the other side has seen how its own attempt ended."""
    assert (await hub.hears(link)).edge == edge


HANDSHAKES = (
    zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)


@contextmanager
def open_monitor(socket: zmq.Socket[bytes]) -> Iterator[zmq.Socket[bytes]]:
    """Yield a socket that tells how handshakes end."""
    monitor = socket.get_monitor_socket(HANDSHAKES)
    try:
        yield monitor
    finally:
        socket.disable_monitor()
        monitor.close()


async def is_let_in(monitor: zmq.Socket[bytes]) -> bool:
    """Tell how the next handshake of a monitored socket ends."""
    assert await trio.to_thread.run_sync(monitor.poll, 30_000), "no handshake has ended"
    event = parse_monitor_message(monitor.recv_multipart())["event"]
    return bool(event == zmq.EVENT_HANDSHAKE_SUCCEEDED)


async def test_a_peer_without_a_key() -> None:
    async with open_hub() as hub, hub.edge("honest") as link:
        with RawDealer(hub, None) as stranger, open_monitor(stranger.socket) as monitor:
            stranger.send(*encode(HELLO))
            assert not await is_let_in(monitor)
            await hears_only(hub, link, "honest")


@contextmanager
def open_sockets(*kinds: int) -> Iterator[list[zmq.Socket[bytes]]]:
    with zmq.Context() as context, ExitStack() as stack:
        made = [stack.enter_context(context.socket(kind)) for kind in kinds]
        for socket in made:
            socket.linger = 0
        yield made


async def test_without_a_handler_for_keys_nobody_is_let_in() -> None:
    """There is one before the link is open: were it gone, libzmq would welcome everybody."""
    server_keys, pair = new_key_pair(), new_key_pair()
    with open_sockets(zmq.ROUTER, zmq.DEALER) as (server, client):
        _prepare_server(server, server_keys, QUICK)
        with open_monitor(server) as monitor:
            server.bind("tcp://127.0.0.1:*")
            client.curve_serverkey = server_keys.public.encode()
            client.curve_publickey = pair.public.encode()
            client.curve_secretkey = pair.secret.encode()
            client.connect(server.getsockopt_string(zmq.LAST_ENDPOINT))
            assert not await is_let_in(monitor)


async def test_an_unknown_key_is_refused_until_it_is_enrolled() -> None:
    async with open_hub() as hub, hub.edge("honest") as link:
        keys = new_key_pair()
        async with hub.connect(keys) as connect:
            stranger = await connect()
            await stranger.send(HELLO)
            assert (await end_of(stranger)).cause is Cause.REFUSED
            await hears_only(hub, link, "honest")
            assert hub.hearing.zap.refused == 1
            hub.edges.add(keys.public, "new")
            assert (await hub.hears(await connect())).edge == "new"


@pytest.mark.feature("F24")
async def test_who_may_come_in_does_not_while_descriptors_are_short(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with (
        open_hub() as hub,
        hub.edge("first") as link,
        hub.connect(hub.admit("second")) as connect,
    ):
        with monkeypatch.context() as short:
            short.setattr(descriptors, "are_short", lambda: True)
            assert (await end_of(await connect())).cause is Cause.FULL
            assert any("file descriptors" in problem for problem in descriptors.problems())
            await hears_only(hub, link, "first")
        assert (await hub.hears(await connect())).edge == "second"


async def test_the_public_key_of_another_edge_is_not_enough() -> None:
    """Public keys are no secret; without the other half the handshake proves nothing."""
    async with open_hub() as hub, hub.edge("victim") as link:
        victim = next(iter(hub.edges._edges))
        thief = hub.admit("thief")
        async with hub.connect(KeyPair(public=victim, secret=thief.secret)) as connect:
            stolen = await connect()
            await stolen.send(HELLO)
            assert (await end_of(stolen)).cause in (Cause.UNPROVEN, Cause.SILENT)
            await hears_only(hub, link, "victim")


async def test_identity_is_the_key_whatever_the_routing_id_claims() -> None:
    async with open_hub() as hub, hub.edge("victim") as link:
        victim = await hub.hears(link)
        with RawDealer(hub, hub.admit("thief")) as thief:
            thief.socket.disconnect(hub.address)
            thief.socket.setsockopt(zmq.ROUTING_ID, b"victim")
            thief.socket.connect(hub.address)
            thief.send(*encode(HELLO))
            peer, message = await hub.hearing.receive()
            assert (peer.edge, message) == ("thief", HELLO)
        await hub.hearing.send(victim, WELCOME)
        assert await link.receive() == WELCOME


async def test_a_routing_id_in_use_is_not_handed_over() -> None:
    async with open_hub() as hub, hub.edge("honest") as link:
        with (
            RawDealer(hub, hub.admit("victim")) as victim,
            RawDealer(hub, hub.admit("thief")) as thief,
        ):
            for claimant in (victim, thief):
                claimant.socket.disconnect(hub.address)
                claimant.socket.setsockopt(zmq.ROUTING_ID, b"plant")
            victim.socket.connect(hub.address)
            victim.send(*encode(HELLO))
            peer, _ = await hub.hearing.receive()
            assert peer.edge == "victim"
            welcomed = hub.hearing.zap.accepted
            thief.socket.connect(hub.address)
            thief.send(*encode(HELLO))
            await eventually(lambda: hub.hearing.zap.accepted > welcomed)
            await hears_only(hub, link, "honest")
            await hub.hearing.send(peer, WELCOME)
            assert await trio.to_thread.run_sync(victim.socket.poll, 30_000), "the thief has it"
            assert decode(victim.socket.recv_multipart()) == WELCOME
            assert not thief.socket.poll(0)


def test_parts_beyond_the_limit_are_not_kept() -> None:
    with open_sockets(zmq.ROUTER, zmq.DEALER) as (router, dealer):
        router.bind("inproc://parts")
        dealer.connect("inproc://parts")
        dealer.send_multipart([b"part"] * 1000)
        _, public, *parts = _receive_one(router)
        assert (public, parts) == (b"", [b"part"] * PARTS_MAX)


async def test_a_wrong_server_key() -> None:
    async with open_hub() as hub, hub.edge("honest") as link:
        keys = hub.admit("deceived")
        async with hub.connect(keys, server_key=new_key_pair().public) as connect:
            deceived = await connect()
            await deceived.send(HELLO)
            assert (await end_of(deceived)).cause is Cause.UNPROVEN
            await hears_only(hub, link, "honest")


async def test_a_revoked_key_is_dropped_on_its_next_message() -> None:
    async with open_hub() as hub, hub.edge("honest") as link:
        keys = hub.admit("revoked")
        async with hub.connect(keys) as connect:
            revoked = await connect()
            await hub.hears(revoked)
            assert hub.edges.remove_edge("revoked") == 1
            for _ in range(5):
                await revoked.send(BATCH)
            await eventually(lambda: len(hub.hearing._pump._inbox.items) == 5)
            await hears_only(hub, link, "honest")
            assert hub.hearing.stats.revoked == 5
            assert (await end_of(await connect())).cause is Cause.REFUSED
            hub.edges.add(keys.public, "revoked")
            assert (await hub.hears(revoked)).edge == "revoked", "the connection was still there"


async def test_a_message_that_waited_is_judged_when_it_is_read() -> None:
    async with (
        open_hub() as hub,
        hub.edge("honest") as link,
        hub.connect(hub.admit("revoked")) as connect,
    ):
        revoked = await connect()
        await revoked.send(BATCH)
        await eventually(lambda: bool(hub.hearing._pump._inbox.items))
        hub.edges.remove_edge("revoked")
        await hears_only(hub, link, "honest")
        assert hub.hearing.stats.revoked == 1


@pytest.mark.parametrize(
    "frames",
    [
        [b""],
        [b"nonsense"],
        [b"", b"", b""],
        [b"x"] * 100,
        [bytes(64 * 1024 + 8)],
        [encode(BATCH)[0]],
        [encode(BATCH)[0], b"another payload"],
        [encode(BATCH)[0], bytes(600 * 1024)],
    ],
    ids=["empty", "nonsense", "three", "hundred", "large", "half", "crc", "huge"],
)
async def test_a_malformed_message_is_a_strike_and_nothing_else(frames: list[bytes]) -> None:
    async with open_hub() as hub, hub.edge("honest") as link:
        with RawDealer(hub, hub.admit("broken")) as broken:
            broken.send(*frames)
            broken.send(*encode(ACK))
            peer, message = await hub.hearing.receive()
            assert (peer.edge, message) == ("broken", ACK)
        assert hub.hearing.stats.edges["broken"].malformed == 1
        assert "honest" not in hub.hearing.stats.edges
        await hears_only(hub, link, "honest")


async def test_a_message_of_a_later_version_is_counted_and_no_strike() -> None:
    frame = bytearray(encode(BYE)[0])
    frame[16] = 200
    async with open_hub() as hub:
        with RawDealer(hub, hub.admit("newer")) as newer:
            newer.send(bytes(frame))
            newer.send(*encode(ACK))
            assert (await hub.hearing.receive())[1] == ACK
        counts = hub.hearing.stats.edges["newer"]
        assert (counts.unknown, counts.malformed) == (1, 0)


async def test_a_malformed_answer_of_the_hub_is_dropped() -> None:
    async with open_hub() as hub, hub.edge("plant-7") as link:
        peer = await hub.hears(link)
        assert hub.hearing._pump.send_soon([peer.route, b"nonsense"])
        await hub.hearing.send(peer, WELCOME)
        assert await link.receive() == WELCOME
        assert (link.malformed, link.unknown) == (1, 0)


async def test_a_frame_over_the_limit_ends_only_its_own_connection() -> None:
    async with open_hub() as hub, hub.edge("honest") as link:
        with RawDealer(hub, hub.admit("greedy")) as greedy:
            greedy.send(*encode(HELLO))
            await hub.hearing.receive()
            with peak() as memory:
                greedy.send(bytes(2 * 1024 * 1024))
                # libzmq connects that client again by itself; what it had begun to send before
                # went with the connection.
                heard = None
                while heard is None:
                    greedy.send(*encode(ACK))
                    with trio.move_on_after(1):
                        heard = await hub.hearing.receive()
                assert (heard[0].edge, heard[1]) == ("greedy", ACK)
            assert "greedy" not in hub.hearing.stats.edges, "the frame was read to its end"
            await hears_only(hub, link, "honest")
            assert memory.grown_kib < 16 * 1024


async def test_a_giant_frame_before_the_handshake_is_not_read() -> None:
    async with open_hub() as hub, hub.edge("honest") as link:
        stream = await trio.open_tcp_stream(*hub.target)
        with peak() as memory:
            async with stream:
                await stream.send_all(GREETING)
                # A long command frame of 200 MiB: flags 0x06, then its length.
                await stream.send_all(b"\x06" + struct.pack(">Q", 200 * 1024 * 1024))
                with pytest.raises(trio.BrokenResourceError):
                    await send_all(stream, 200)
        assert memory.grown_kib < 32 * 1024
        await hears_only(hub, link, "honest")


@pytest.mark.parametrize(
    "noise",
    [
        b"GET / HTTP/1.1\r\nHost: hub\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
        bytes(4096),
        b"\xff" * 4096,
        GREETING + b"\x04\xff" + bytes(255),
        GREETING + b"\x04\x06\x05HELLO",
        GREETING[:30],
    ],
    ids=["http", "tls", "zeros", "ones", "command", "hello", "partial"],
)
async def test_noise_on_the_port(noise: bytes) -> None:
    async with open_hub() as hub, hub.edge("honest") as link:
        for _ in range(20):
            stream = await trio.open_tcp_stream(*hub.target)
            await stream.send_all(noise)
            await trio.aclose_forcefully(stream)
        stream = await trio.open_tcp_stream(*hub.target)
        await stream.send_all(noise)
        assert (await hub.hears(link)).edge == "honest"
        await read_to_the_end(stream)
        await trio.aclose_forcefully(stream)
        await hears_only(hub, link, "honest")


async def test_three_hundred_silent_connections_keep_nobody_out() -> None:
    async with open_hub() as hub, AsyncExitStack() as stack:
        silent = [
            await stack.enter_async_context(await trio.open_tcp_stream(*hub.target))
            for _ in range(300)
        ]
        async with hub.connect(hub.admit("honest")) as connect:
            link = await connect()
            assert (await hub.hears(link)).edge == "honest"
            for token in range(100):
                await hub.hears(link, token)
            # Each is closed by the hub when its time for a handshake is over.
            for stream in silent:
                await read_to_the_end(stream)
            assert (await hub.hears(link)).edge == "honest"


async def send_all(stream: trio.SocketStream, mebibytes: int) -> None:
    for _ in range(mebibytes):
        await stream.send_all(bytes(1024 * 1024))


async def read_to_the_end(stream: trio.SocketStream) -> None:
    try:
        while await stream.receive_some(4096):
            pass
    except trio.BrokenResourceError:
        pass


async def test_something_that_accepts_but_is_no_hub() -> None:
    async def mute(stream: trio.SocketStream) -> None:
        await read_to_the_end(stream)

    async def rude(stream: trio.SocketStream) -> None:
        await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 10)

    async with open_hub() as hub, trio.open_nursery() as nursery:
        for serve, causes in ((mute, {Cause.SILENT}), (rude, {Cause.UNPROVEN})):
            listeners = await nursery.start(trio.serve_tcp, serve, 0)
            port = listeners[0].socket.getsockname()[1]
            address = f"tcp://127.0.0.1:{port}"
            async with hub.connect(hub.admit("e"), address=address, settings=MUTE) as connect:
                assert (await end_of(await connect())).cause in causes
        nursery.cancel_scope.cancel()


async def test_a_stranger_who_hammers_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    async with open_hub() as hub, hub.connect(new_key_pair()) as connect:
        for _ in range(10):
            assert (await end_of(await connect())).cause is Cause.REFUSED
        assert hub.hearing.zap.refused == 10
    lines = [line for line in caplog.messages if "unknown key" in line]
    assert len(lines) == 1


async def test_a_neighbours_nonsense_does_not_delay_the_honest() -> None:
    async with open_hub() as hub, hub.edge("honest") as link:
        with RawDealer(hub, hub.admit("broken")) as broken:
            for _ in range(900):
                broken.send(b"nonsense")
            for token in range(200):
                await link.send(Ping(epoch=1, token=token, at_ns=0))
                peer, message = await hub.hearing.receive()
                assert (peer.edge, message) == ("honest", Ping(epoch=1, token=token, at_ns=0))
                await hub.hearing.send(peer, message)
            assert len(await collect(link, 200)) == 200

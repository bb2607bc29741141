"""Questions of edges about the hub's keys, at the hub."""

from pathlib import Path

import pytest
import trio

from edgesync_transport.link import Peer
from edgesync_transport.messages import Message, Pull
from edgesync_transport.receiver import Receiver
from tests.hubd.keys import open_answers

pytestmark = pytest.mark.feature("L8")


async def test_a_question_that_comes_while_the_hub_stops_is_not_answered(tmp_path: Path) -> None:
    told: list[Message] = []

    async def send(_peer: Peer, message: Message) -> None:
        told.append(message)

    def ask() -> None:
        pull = Pull(epoch=1, token=1, keyspace=bytes(16), replica=1, base=0, after=0, made=0)
        answers.ask(Peer(route=b"r", edge="till"), pull, Receiver("till"), send)

    with open_answers(tmp_path) as answers:
        async with trio.open_nursery() as nursery:
            await nursery.start(answers.run)
            ask()
            while not told:
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
            ask()
        count = len(told)
        ask()
        await trio.testing.wait_all_tasks_blocked()
    assert len(told) == count

"""Calls between chains and devices: those that a chain makes, and those that it answers.

A call that a chain makes is on disk, waits for a device that is away until its time has passed, and
is sent in order; the chain goes on with the answer, unless the edge was restarted meanwhile. A call
of a device that no program answers is a message to the chains, which answer it with a reply node.
"""

import itertools
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

import msgspec
import trio

from edgesync.errors import StoreError
from edgesync.rpc.model import Report, State
from edgesync.rules.effects import CallDevice, ReplyTo
from edgesync.rules.message import CALL_FROM_DEVICE, Message, device_message
from edgesync.rules.model import FAILURE, SUCCESS

if TYPE_CHECKING:
    from edgesync.parts.part import Context
    from edgesync.parts.rpc import RpcPart

REPLY_S: Final = 10.0
WAITING_MAX: Final = 1000

Take = Callable[[Message], Awaitable[bool]]
Answer = Callable[[ReplyTo, str, Message], None]


class _Waiting:
    """A device that waits for an answer."""

    def __init__(self) -> None:
        self.replied = trio.Event()
        self.data: Any = None


class DeviceCalls:
    """See the module.

    take    lets chains have a device's call; returns whether one of them may answer
    answer  lets a node go on that had asked
    """

    def __init__(self, context: "Context", take: Take, answer: Answer) -> None:
        self._context, self._take, self._answer = context, take, answer
        self._numbers = itertools.count(1)
        self._waiting: dict[tuple[str, str], _Waiting] = {}
        self._rpc: RpcPart | None = None

    @property
    def rpc(self) -> "RpcPart":
        if self._rpc is None:
            self._rpc = self._context.parts.get("rpc")
        return self._rpc

    def attach(self) -> None:
        """Take the calls of devices that no program answers."""
        if self._context.settings.mqtt.is_open or self._context.parts.find("rpc") is not None:
            self.rpc.any_method = self._called

    def detach(self) -> None:
        if self._rpc is not None:
            self._rpc.any_method = None

    # -- from a chain ----------------------------------------------------------------------------

    async def place(self, effect: CallDevice) -> None:
        """Call a device; its node goes on when the call has ended."""

        def ended(report: Report) -> None:
            self._ended(effect, report)

        try:
            await self.rpc.place(
                effect.device.name, effect.method, effect.params, timeout_s=effect.timeout_s,
                one_way=effect.is_oneway, ended=ended,
            )  # fmt: skip
        except (StoreError, LookupError, msgspec.EncodeError) as error:
            self._fail(effect, str(error))

    def _ended(self, effect: CallDevice, report: Report) -> None:
        if report.state is State.EXPIRED:
            self._fail(effect, report.reason or "the device has not answered in time")
        elif report.error:
            self._fail(effect, f"the device answered with an error: {report.error}")
        elif effect.reply_to is not None:
            message = effect.reply_to.message
            if bytes(report.answer):
                message = message.changed(data=msgspec.json.decode(report.answer))
            self._answer(effect.reply_to, SUCCESS, message)

    def _fail(self, effect: CallDevice, problem: str) -> None:
        if effect.reply_to is not None:
            message = effect.reply_to.message.with_metadata(error=problem)
            self._answer(effect.reply_to, FAILURE, message)

    # -- from a device ---------------------------------------------------------------------------

    async def _called(self, device: str, method: str, params: Any) -> Any:
        """Let chains answer; raises LookupError when none does in time."""
        if len(self._waiting) >= WAITING_MAX:
            raise LookupError(f"{WAITING_MAX} calls wait for an answer already")
        request_id = str(next(self._numbers))
        name, waiting = (device, request_id), _Waiting()
        data = {"method": method, "params": params}
        message = device_message(
            CALL_FROM_DEVICE, device, data, self._context.wall_ns()
        ).with_metadata(requestId=request_id, serviceId="edge", sessionId=request_id)
        self._waiting[name] = waiting
        try:
            if not await self._take(message) and not waiting.replied.is_set():
                raise LookupError(f"nobody answers {method[:100]!r} at this edge")
            with trio.move_on_after(REPLY_S):
                await waiting.replied.wait()
        finally:
            del self._waiting[name]
        if not waiting.replied.is_set():
            raise LookupError(f"no chain has answered {method[:100]!r}")
        return waiting.data

    def reply(self, device: str, request_id: str, data: Any) -> None:
        """Answer a call that a device has made; one that waits no longer gets none."""
        waiting = self._waiting.get((device, request_id))
        if waiting is not None:
            waiting.data = data
            waiting.replied.set()

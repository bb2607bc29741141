"""Calls of devices, and by devices: what a door asks of the node, whatever devices speak."""

import logging
from collections.abc import Collection, Sequence
from typing import Any, Final, Protocol

import msgspec
import trio
from msgspec import Raw

from edgesync.serve.devices.thingsboard import CallAnswer, DeviceCall

log = logging.getLogger(__name__)

CALL_TIMEOUT_S: Final = 10.0


class Rpc(Protocol):
    """The part `rpc` of a node, as a door uses it."""

    def attach(self, device: str, speaker: Any, holds: Collection[int] = ()) -> None: ...
    def resume(self, device: str, speaker: Any) -> None: ...
    def detach(self, device: str, speaker: Any) -> None: ...
    def sent(self, device: str, number: int) -> None: ...
    def delivered(self, device: str, number: int) -> None: ...
    def take_answer(
        self, device: str, number: int, answer: Raw | None, error: str = ""
    ) -> None: ...
    async def flush(self) -> None: ...
    def answers(self, method: str) -> bool: ...
    async def call(self, device: str, method: str, params: Any) -> Any: ...


async def store_answers(rpc: Rpc, answers: Sequence[CallAnswer]) -> list[str]:
    """Store what devices answered, on disk when this returns; returns what was refused.

    Raises StoreError.
    """
    refused: list[str] = []
    for one in answers:
        try:
            rpc.take_answer(one.device, one.number, one.answer)
        except LookupError as unknown:
            refused.append(str(unknown))
    await rpc.flush()
    return refused


async def answer_of(rpc: Rpc, call: DeviceCall) -> bytes:
    """Return the JSON that answers a device's call, by what was registered for it."""
    found: Any = {"error": f"no answer within {CALL_TIMEOUT_S:.0f} s"}
    with trio.move_on_after(CALL_TIMEOUT_S):
        try:
            answer = await rpc.call(call.device, call.method, call.params)
            found = Raw(msgspec.json.encode(answer))
        except Exception as error:  # of a function that somebody registered: I8
            if type(error) is LookupError:  # nobody answers it
                found = {"error": str(error)}
            else:
                log.exception("a call failed: device=%s", call.device)
                found = {"error": f"{type(error).__name__}: {error}"}
    return msgspec.json.encode(found)

"""Lanes that have gone on for very long: sequences have 64 bits, and nothing happens on the way."""

from pathlib import Path

import pytest

from edgesync_transport.messages import Codec, Lane
from hubd.log.base import Append, Appended
from hubd.log.lmdb import LmdbLog
from tests.hubd.log.test_contract import INCARNATION, Lanes, begin, drafts, only


@pytest.mark.feature("S4")
@pytest.mark.parametrize("start", [2**31 - 10, 2**32 - 10, 2**53 - 10, 2**63 - 10**6])
async def test_a_lane_goes_on_past_every_width(start: int, tmp_path: Path) -> None:
    """2^31 and 2^32 of other systems' counters, 2^53 of JavaScript, and nearly all there are."""
    lane = Lanes(drafts(1, 40), start=start)
    log = LmdbLog(tmp_path / "log", map_bytes_max=64 << 20)
    epoch = await begin(log)
    gap = Append(
        edge="barn", epoch=epoch, incarnation=INCARNATION, lane=Lane.BULK, first=1, last=start,
        prev_chain=0, last_chain=0, codec=Codec.GAP, payload=b"", reason="as it were",
    )  # fmt: skip
    assert (await only(log, gap)).floor == start
    for first in range(start + 1, start + 41, 8):
        answer = await only(log, lane.cut(first, first + 7, epoch=epoch))
        assert isinstance(answer, Appended)
        assert answer.floor == first + 7
    await log.aclose()
    log = LmdbLog(tmp_path / "log", map_bytes_max=64 << 20)
    found = await log.read(0)
    assert [(one.first, one.last) for one in found][1:] == [
        (first, first + 7) for first in range(start + 1, start + 41, 8)
    ]
    again = await only(log, lane.cut(start + 1, start + 8, epoch=await begin(log)))
    assert again == Appended(position=0, floor=start + 40, safe=start + 40)
    await log.aclose()

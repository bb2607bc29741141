"""The control socket of a daemon is its user's alone, and waits for answers."""

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from edgesync.errors import EdgesyncError
from edgesync.serve.control import IDLE_S, NoAnswer, NotRunning, ask, serve_control

pytestmark = pytest.mark.feature("F11")


async def test_only_its_user_may_connect_and_other_files_keep_their_modes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not by the umask: what other threads make meanwhile would have it too."""
    monkeypatch.setattr(os, "umask", pytest.fail)
    async with trio.open_nursery() as nursery:
        path = await nursery.start(serve_control, tmp_path, {})
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        nursery.cancel_scope.cancel()


async def test_a_folder_may_lie_as_deep_as_one_likes(tmp_path: Path) -> None:
    """The address of a socket has 107 bytes; a daemon of a deeper folder did not start."""
    deep = tmp_path / ("a site with a name" * 8) / "data"
    with pytest.raises(NotRunning):
        await trio.to_thread.run_sync(ask, deep, "status")
    deep.mkdir(parents=True)

    async def told(_asked: Mapping[str, Any]) -> str:
        return "here"

    async with trio.open_nursery() as nursery:
        path = await nursery.start(serve_control, deep, {"status": told})
        assert stat.S_ISSOCK(path.stat().st_mode)
        assert await trio.to_thread.run_sync(ask, deep, "status") == "here"
        nursery.cancel_scope.cancel()
    assert list(deep.iterdir()) == []


async def test_an_answer_takes_as_long_as_it_takes(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """The copy of a large hub, for one; whoever asks nothing after it is hung up on."""

    async def copied(_asked: Mapping[str, Any]) -> str:
        await trio.sleep(100 * IDLE_S)
        return "copied"

    async with trio.open_nursery() as nursery:
        path = await nursery.start(serve_control, tmp_path, {"backup": copied})
        async with await trio.open_unix_socket(os.fspath(path)) as asker:
            await asker.send_all(b'{"ask": "backup"}\n')
            assert await asker.receive_some() == b'{"ok":"copied"}\n'
            assert trio.current_time() >= 100 * IDLE_S
            with trio.fail_after(2 * IDLE_S):
                assert await asker.receive_some() == b""
        nursery.cancel_scope.cancel()


async def test_a_daemon_that_ends_before_its_answer_is_not_one_that_does_not_run(
    tmp_path: Path,
) -> None:
    """Or what is on its disk would be opened in its place."""
    with pytest.raises(NotRunning):
        await trio.to_thread.run_sync(ask, tmp_path, "status")

    async def ends(_asked: Mapping[str, Any]) -> None:
        nursery.cancel_scope.cancel()
        await trio.lowlevel.checkpoint()

    caught: list[EdgesyncError] = []

    async def asks() -> None:
        try:
            await trio.to_thread.run_sync(ask, tmp_path, "status")
        except EdgesyncError as error:
            caught.append(error)

    async with trio.open_nursery() as asking, trio.open_nursery() as nursery:
        await nursery.start(serve_control, tmp_path, {"status": ends})
        asking.start_soon(asks)
    assert [type(error) for error in caught] == [NoAnswer]

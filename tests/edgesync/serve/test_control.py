"""The control socket of a daemon is its user's alone."""

import os
import stat
from pathlib import Path

import pytest
import trio

from edgesync.serve.control import serve_control

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

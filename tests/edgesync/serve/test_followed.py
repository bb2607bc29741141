"""Files that a door follows."""

import logging
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from edgesync.errors import ConfigError
from edgesync.serve import followed
from edgesync.serve.followed import FollowedFiles

pytestmark = pytest.mark.feature("S29")


class Text(FollowedFiles[str]):
    """The text of a file, unless reading fails."""

    def __init__(self, path: Path) -> None:
        self.path, self.fails, self.is_passing = path, "", True
        super().__init__()

    @property
    def files(self) -> Sequence[Path]:
        return [self.path]

    def read(self) -> str:
        if self.fails:
            cause = OSError(self.fails) if self.is_passing else None
            raise ConfigError(file="text", field="", problem=self.fails, remedy="wait") from cause
        return self.path.read_text()


def test_what_could_not_be_read_once_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Too many open files, say: the file does not change for that a second time."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    path = tmp_path / "file"
    path.write_text("old")
    text = Text(path)
    path.write_text("newer")
    text.fails = "too many open files"
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            assert not text.refresh()
            now[0] += followed.AGAIN_S
    assert caplog.text.count("stay as they were") == 1
    assert (text.current, "too many" in text.problem) == ("old", True)
    text.fails = ""
    assert text.refresh()
    assert (text.current, text.problem) == ("newer", "")
    now[0] += 10 * followed.AGAIN_S
    assert not text.refresh()
    text.fails, text.is_passing = "a mistake in the file", False
    path.write_text("wrong")
    assert not text.refresh()
    text.fails = ""
    now[0] += 10 * followed.AGAIN_S
    assert not text.refresh()  # it is read when it changes

"""The compiled part and its formats on aarch64, emulated: equal to those of x86-64.

Emulation shows meaning, not speed or the order in which a weakly ordered memory shows its writes.
"""

import os
from pathlib import Path

import pytest

from tests.arm.inner import run_inner

HERE = Path(__file__).parent
FOLDER = HERE.parent.parent / ".cache" / "arm64"


@pytest.mark.long
@pytest.mark.root
@pytest.mark.timeout(3600)
@pytest.mark.feature("K4")
def test_formats_and_the_store_are_the_same_on_aarch64() -> None:
    assert os.geteuid() == 0, (
        "needs root, to enter a Debian of another architecture (chroot, mount)"
    )
    run_inner([str(HERE / "arm64.sh"), str(FOLDER)], HERE.parent.parent, dict(os.environ))

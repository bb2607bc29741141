"""Kernels with pages of 16 and 64 KiB (Raspberry Pi 5): page.c makes a process believe it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.arm.inner import run_inner

HERE = Path(__file__).parent
ROOT = HERE.parent.parent

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]


@pytest.mark.parametrize("page_bytes", [16384, 65536])
@pytest.mark.feature("K4")
def test_the_store_works_with_larger_pages(page_bytes: int, tmp_path: Path) -> None:
    library = tmp_path / "page.so"
    source = str(HERE / "page.c")
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", str(library), source, "-ldl"], check=True)
    tests = ("tests/native", "tests/edgesync/store", "tests/golden")
    options = ("-v", "--color=no", "-p", "no:cacheprovider", f"--basetemp={tmp_path / 'inner'}")
    run_inner(
        [sys.executable, "-m", "pytest", *options, *tests],
        ROOT,
        {**os.environ, "PAGE_BYTES": str(page_bytes), "LD_PRELOAD": str(library)},
    )

"""Kernels with pages of 16 and 64 KiB (Raspberry Pi 5): page.c makes a process believe it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
# With 64 KiB the schema loader of pycapnp unmaps more than it mapped, for the kernel knows better.
WITHOUT = {16384: (), 65536: ("--ignore=tests/native/test_event.py",)}

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]


@pytest.mark.parametrize("page_bytes", WITHOUT)
@pytest.mark.feature("K4")
def test_the_store_works_with_larger_pages(page_bytes: int, tmp_path: Path) -> None:
    library = tmp_path / "page.so"
    source = str(HERE / "page.c")
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", str(library), source, "-ldl"], check=True)
    tests = ("tests/native", "tests/edgesync/store", "tests/golden")
    options = ("-q", "--color=no", "-p", "no:cacheprovider", f"--basetemp={tmp_path / 'inner'}")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *WITHOUT[page_bytes], *tests],
        cwd=ROOT,
        env={**os.environ, "PAGE_BYTES": str(page_bytes), "LD_PRELOAD": str(library)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-5000:]

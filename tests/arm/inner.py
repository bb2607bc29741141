"""A run of pytest within a test, which says what it was at when it ends badly."""

import subprocess
from pathlib import Path


def run_inner(command: list[str], folder: Path, environment: dict[str, str]) -> None:
    """Run a command that calls pytest -v; fail with the test that was last begun and the output."""
    done = subprocess.run(
        command,
        cwd=folder,
        env={**environment, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    begun = [
        line for line in done.stdout.splitlines() if line.startswith("tests/") and "::" in line
    ]
    last = begun[-1] if begun else "none: while tests were collected, or before"
    # Of a failed test the end of the output tells more; where the process died, this line does.
    assert done.returncode == 0, (
        f"exit status {done.returncode}; last test begun: {last}\n{done.stdout[-7000:]}"
    )

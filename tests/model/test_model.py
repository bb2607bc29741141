"""The protocol's model, checked exhaustively by spin; without any one rule it is violated."""

import re
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SEARCH_S = 600

pytestmark = [pytest.mark.long, pytest.mark.model, pytest.mark.timeout(SEARCH_S + 60)]

# What goes wrong together. Each search is complete: all states within these bounds were seen.
SOUND = {
    "crashes of both": "-DCRASHES=2 -DUP=2 -DGREETINGS=2",
    "the edge restored": "-DEDGE_RESTORES=1 -DUP=2",
    "the edge restored, late answers": "-DEDGE_RESTORES=1 -DDOWN=2 -DCRASHES=1",
    "the edge restored often": "-DN=1 -DEDGE_RESTORES=2 -DGREETINGS=5",
    "the hub restored": "-DHUB_RESTORES=1 -DUP=2 -DDOWN=2 -DGREETINGS=2",
    "both restored": "-DEDGE_RESTORES=1 -DHUB_RESTORES=1 -DDOWN=2",
    "the hub lost what it promised": "-DHUB_LOSSES=1 -DDOWN=2",
    "a record that cannot be stored": "-DPOISON=1 -DCRASHES=1 -DDOWN=2 -DHUB_RESTORES=1",
    "the second of a batch cannot be stored": "-DPOISON=2 -DCRASHES=1 -DHUB_RESTORES=1",
    "another edge with our names": "-DIMPOSTOR=1 -DCRASHES=1 -DUP=2",
}

# Rule left out -> faults in which it is missed.
MUTANTS = {
    "R1 NO_COMMIT": "-DCRASHES=1",
    "R1 NO_ONE_STEP": "-DCRASHES=1 -DNO_DEDUPE",
    "R2 NO_OWN_ACKS": "-DHUB_RESTORES=1 -DDOWN=2 -DMADE=2",
    "R3 NO_NONCE": "-DEDGE_RESTORES=1 -DDOWN=2",
    "R4 NO_HASH": "-DEDGE_RESTORES=1",
    "R5 NO_RANDOM_NAME": "-DN=1 -DEDGE_RESTORES=2 -DGREETINGS=5",
    "R6 NO_SAFE": "-DHUB_RESTORES=1",
    "R6 NO_DEDUPE": "-DEDGE_RESTORES=1",
    "R7 NO_FENCE": "-DEDGE_RESTORES=1 -DUP=2",
    "R8 NO_GAP_RECORD": "-DHUB_LOSSES=1",
    "R9 NO_IDENTITY": "-DIMPOSTOR=1",
    "R11 NO_UNIQUE_IDS": "-DEDGE_RESTORES=1",
    "R12 NO_DEAD_LETTER": "-DPOISON=1",
    "R12 NO_PREFIX": "-DPOISON=1",
}
MIRRORED_MUTANTS = ("NO_ONE_STEP", "NO_IDEMPOTENCE", "NO_DURABLE_REPORT", "NO_EXPIRY")

# A model in which these never happen would be sound for the wrong reason.
REACHED = {
    "REACH_FORK": "-DEDGE_RESTORES=1",
    "REACH_TRIM": "-DHUB_RESTORES=1",
    "REACH_REWIND": "-DHUB_RESTORES=1",
}

MEMORY_MB = 4000


def search(folder: Path, model: str, defines: str) -> str:
    """Return what was violated in the model, "" if nothing in a complete search."""
    generate = ["spin", "-a", "-m", *defines.split(), str(HERE / model)]
    subprocess.run(generate, cwd=folder, check=True, capture_output=True)
    compile_it = ["gcc", "-O2", "-w", "-DSAFETY", "-DCOLLAPSE", f"-DMEMLIM={MEMORY_MB}"]
    subprocess.run([*compile_it, "-o", "pan", "pan.c"], cwd=folder, check=True)
    run = subprocess.run(
        ["./pan", "-m200000", "-E", "-n"],
        cwd=folder,
        check=True,
        capture_output=True,
        text=True,
        timeout=SEARCH_S,
    )
    violated = re.search(r"assertion violated (.*) \(at depth", run.stdout)
    if violated:
        return violated[1]
    assert "errors: 0" in run.stdout, run.stdout
    for incomplete in ("Search not completed", "max search depth too small", "out of memory"):
        assert incomplete not in run.stdout, run.stdout
    return ""


@pytest.mark.parametrize("faults", SOUND)
@pytest.mark.feature("S2", "S3", "S32")
def test_no_record_is_lost_doubled_or_inverted(faults: str, tmp_path: Path) -> None:
    assert search(tmp_path, "link.pml", SOUND[faults]) == ""


@pytest.mark.parametrize("rule", MUTANTS)
def test_every_rule_is_needed(rule: str, tmp_path: Path) -> None:
    without = f"-D{rule.split()[1]} {MUTANTS[rule]}"
    assert search(tmp_path, "link.pml", without) != ""


@pytest.mark.parametrize("what", REACHED)
def test_the_model_gets_there(what: str, tmp_path: Path) -> None:
    assert search(tmp_path, "link.pml", f"-D{what} {REACHED[what]}") != ""


def test_commands_take_effect_once(tmp_path: Path) -> None:
    assert search(tmp_path, "downlink.pml", "") == ""


@pytest.mark.parametrize("rule", MIRRORED_MUTANTS)
def test_every_rule_of_the_mirror_is_needed(rule: str, tmp_path: Path) -> None:
    assert search(tmp_path, "downlink.pml", f"-D{rule}") != ""

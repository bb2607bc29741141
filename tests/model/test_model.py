"""The protocol's model, checked exhaustively by spin; without any one rule it is violated.

The rules are named in docs/protocol.md: R of the lanes to the hub, D of the lanes to the edge.
"""

import re
import subprocess
from pathlib import Path

import pytest

MODEL = Path(__file__).parent / "link.pml"
SEARCH_S = 600

pytestmark = [pytest.mark.long, pytest.mark.model, pytest.mark.timeout(SEARCH_S + 60)]

# A search is of one direction, with nothing to tell in the other, or of both in one session.
TO_EDGE = "-DN=1 -DMADE=0 -DDOWN_N=2 -DDOWN_MADE=2 -DGREETINGS=2"
BOTH = "-DMADE=2 -DDOWN_N=1 -DDOWN_MADE=2 -DREPORTS=1 -DGREETINGS=2"

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
SOUND_TO_EDGE = {
    "crashes of both": "-DCRASHES=2 -DUP=2",
    "the edge restored": "-DEDGE_RESTORES=1 -DCRASHES=1 -DGREETINGS=3",
    "the edge restored, late batches": "-DEDGE_RESTORES=1 -DDOWN=2",
    "the edge restored, late answers": "-DEDGE_RESTORES=1 -DUP=2",
    "the edge restored often": "-DEDGE_RESTORES=2 -DGREETINGS=4",
    "the hub restored": "-DHUB_RESTORES=1 -DCRASHES=1 -DGREETINGS=3 -DDOWN_MADE=3",
    "the hub restored, late batches": "-DHUB_RESTORES=1 -DDOWN=2 -DDOWN_MADE=3",
    "the hub restored, late answers": "-DHUB_RESTORES=1 -DUP=2 -DDOWN_MADE=3",
    "the hub restored often": "-DHUB_RESTORES=2 -DGREETINGS=3 -DDOWN_MADE=3",
    "a second belt left out": "-DNO_PREV_CHAIN -DHUB_RESTORES=1 -DGREETINGS=3 -DDOWN_MADE=3",
    "both restored": "-DEDGE_RESTORES=1 -DHUB_RESTORES=1 -DGREETINGS=3 -DDOWN_MADE=3",
    "the hub lost what it promised": "-DHUB_LOSSES=1 -DGREETINGS=3 -DDOWN_MADE=3",
    "given up at a restored hub": "-DGIVE_UPS=1 -DHUB_RESTORES=1 -DCRASHES=1 -DDOWN_MADE=3",
    "given up before a restored edge": "-DGIVE_UPS=1 -DEDGE_RESTORES=1 -DGREETINGS=3",
    "a record that cannot be stored": "-DDOWN_POISON=1 -DCRASHES=1 -DHUB_RESTORES=1 -DDOWN_MADE=3",
    "the second of a batch cannot be stored": "-DDOWN_POISON=2 -DHUB_RESTORES=1 -DDOWN_MADE=3",
}
SOUND_BOTH = {
    "crashes of both": "-DCRASHES=1 -DDOWN_N=2",
    "the edge restored": "-DEDGE_RESTORES=1",
    "the hub restored": "-DHUB_RESTORES=1 -DGREETINGS=3",
    "both restored": "-DEDGE_RESTORES=1 -DHUB_RESTORES=1",
    "the hub's registry restored": "-DREGISTRY_RESTORES=1 -DGREETINGS=3",
    "the edge and the hub's registry restored": "-DEDGE_RESTORES=1 -DREGISTRY_RESTORES=1",
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
MUTANTS_TO_EDGE = {
    "D1 NO_ONE_TRANSACTION": "-DCRASHES=1",
    "D1 NO_STORED_ANSWERS": "-DCRASHES=1",
    "D2 NO_OWN_ANSWERS": "-DHUB_RESTORES=1 -DUP=2 -DDOWN_MADE=3",
    "D3 NO_DOWN_FENCE": "-DEDGE_RESTORES=1 -DDOWN=2",
    "D3 NO_NONCE": "-DEDGE_RESTORES=1 -DDOWN=2 -DGREETINGS=3",
    "D4 NO_DOWN_HASH": "-DHUB_RESTORES=1",
    "D5 NO_NEW_LIFE": "-DHUB_RESTORES=1 -DGREETINGS=3 -DDOWN_MADE=3",
    "D6 NO_DELETE": "-DEDGE_RESTORES=1",
    "D7 NO_EFFECT_IDS": "-DHUB_RESTORES=1 -DGREETINGS=3",
    "D8 NO_GAP_EVENT": "-DEDGE_RESTORES=1",
    "D8 NO_EARLY_START": "-DHUB_RESTORES=1 -DGIVE_UPS=1 -DDOWN_MADE=3",
    "D9 NO_SETTLE": "-DHUB_RESTORES=1 -DGREETINGS=3",
    "D10 NO_DOWN_DEAD_LETTER": "-DDOWN_POISON=1",
    "D10 NO_DOWN_PREFIX": "-DDOWN_POISON=1",
    "D11 NO_PROOF_OF_LIFE": "-DCRASHES=1 -DUP=2",
    "D11 NO_KNOWN_JOURNAL": "-DHUB_RESTORES=2 -DGREETINGS=3 -DDOWN_MADE=3",
    "D11 NO_STORED_FLOOR": "-DHUB_RESTORES=2 -DGREETINGS=4",
    "D12 NO_DOUBT": "-DHUB_RESTORES=1 -DGIVE_UPS=1 -DDOWN_MADE=3",
}

# A model in which these never happen would be sound for the wrong reason.
REACHED = {
    "REACH_FORK": "-DEDGE_RESTORES=1",
    "REACH_TRIM": "-DHUB_RESTORES=1",
    "REACH_REWIND": "-DHUB_RESTORES=1",
    "REACH_FORK_DOWN": f"{TO_EDGE} -DHUB_RESTORES=1",
    "REACH_GAP_DOWN": f"{TO_EDGE} -DEDGE_RESTORES=1",
}

MEMORY_MB = 4000


def search(folder: Path, defines: str) -> str:
    """Return what was violated in the model, "" if nothing in a complete search."""
    generate = ["spin", "-a", "-m", *defines.split(), str(MODEL)]
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
    assert search(tmp_path, SOUND[faults]) == ""


@pytest.mark.parametrize("faults", SOUND_TO_EDGE)
@pytest.mark.feature("S1", "S8", "S32")
def test_what_the_hub_tells_takes_effect_once_or_the_edge_knows_why(
    faults: str, tmp_path: Path
) -> None:
    assert search(tmp_path, f"{TO_EDGE} {SOUND_TO_EDGE[faults]}") == ""


@pytest.mark.parametrize("faults", SOUND_BOTH)
@pytest.mark.feature("S1", "S3", "S8", "S32")
def test_both_directions_in_one_session(faults: str, tmp_path: Path) -> None:
    assert search(tmp_path, f"{BOTH} {SOUND_BOTH[faults]}") == ""


@pytest.mark.parametrize("rule", MUTANTS)
def test_every_rule_is_needed(rule: str, tmp_path: Path) -> None:
    assert search(tmp_path, f"-D{rule.split()[1]} {MUTANTS[rule]}") != ""


@pytest.mark.parametrize("rule", MUTANTS_TO_EDGE)
def test_every_rule_of_the_lanes_to_the_edge_is_needed(rule: str, tmp_path: Path) -> None:
    without = f"-D{rule.split()[1]} {MUTANTS_TO_EDGE[rule]}"
    assert search(tmp_path, f"{TO_EDGE} {without}") != ""


@pytest.mark.parametrize("what", REACHED)
def test_the_model_gets_there(what: str, tmp_path: Path) -> None:
    assert search(tmp_path, f"-D{what} {REACHED[what]}") != ""

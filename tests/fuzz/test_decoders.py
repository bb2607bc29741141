"""A small share of the fuzzing, in every test run; `python -m tests.fuzz.fuzz` does millions."""

import pytest

from tests.fuzz.fuzz import Target, all_targets, attack

INPUTS = 3000


@pytest.mark.slow
@pytest.mark.parametrize("target", all_targets(), ids=lambda target: target.name)
def test_hostile_input_ends_in_a_result_or_in_the_decoders_error(target: Target) -> None:
    tally = attack(target, INPUTS, seed=2)
    # Both must happen, or the mutations test nothing but the first check.
    assert tally.accepted > 0
    assert tally.refused > 0

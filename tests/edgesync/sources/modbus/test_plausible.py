"""A value the device cannot mean is refused, a new level is taken once it has stayed."""

from edgesync.sources.modbus.plausible import ACCEPT_AFTER_S, Plausibility, PlausibleRule

PERIOD_S = 10.0
STEPS = PlausibleRule(never_falls=False, max_step=5.0, period_s=PERIOD_S)


def seen(*values: float, rule: PlausibleRule = STEPS) -> Plausibility:
    """Return what remembers `values`, one a period from 0 s on."""
    made = Plausibility({"A": rule})
    for nth, value in enumerate(values):
        made.problem("A", value, nth * PERIOD_S)
    return made


def test_a_step_may_be_as_large_as_the_rule_says() -> None:
    assert seen(100.0).problem("A", 105.0, PERIOD_S) == ""
    assert "more than 5 a poll" in seen(100.0).problem("A", 105.1, PERIOD_S)
    assert "more than 5 a poll" in seen(100.0).problem("A", 105.1, 1.0)  # asked again early


def test_after_an_outage_a_value_may_be_as_far_as_that_many_steps() -> None:
    assert seen(100.0).problem("A", 115.0, 3 * PERIOD_S) == ""
    assert seen(100.0).problem("A", 115.1, 3 * PERIOD_S)


def test_a_new_level_is_taken_only_when_it_has_stayed() -> None:
    steady = seen(100.0, 900.0)
    assert steady.problem("A", 901.0, PERIOD_S + ACCEPT_AFTER_S - 1)
    assert steady.problem("A", 901.0, PERIOD_S + ACCEPT_AFTER_S) == ""
    assert steady.problem("A", 100.0, 2 * PERIOD_S + ACCEPT_AFTER_S)


def test_values_that_disagree_among_themselves_are_no_level() -> None:
    noisy = seen(100.0)
    for nth in range(1, 100):
        at_s = nth * PERIOD_S
        assert noisy.problem("A", 1e6 * (nth % 2 + 1), at_s), at_s


def test_a_good_value_in_between_ends_the_wait_for_a_new_level() -> None:
    wavering = seen(100.0, 900.0)
    assert wavering.problem("A", 100.0, 2 * PERIOD_S) == ""
    assert wavering.problem("A", 900.0, PERIOD_S + ACCEPT_AFTER_S)

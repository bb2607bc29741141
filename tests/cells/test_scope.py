"""A scope that was narrowed by a grant holds what is in both, and nothing else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesync._native.keyspace import is_in
from edgesync.cells.scope import granted, narrowed

pytestmark = pytest.mark.feature("L5", "C14")

words = st.text("ab/", max_size=4).map(str.encode)


@given(st.dictionaries(words, st.booleans(), max_size=6), st.lists(words, max_size=4), words)
def test_a_key_is_told_if_it_is_wished_for_and_granted(
    rules: dict[bytes, bool], grant: list[bytes], key: bytes
) -> None:
    wish = sorted(rules.items(), key=lambda rule: -len(rule[0]))
    both = is_in(key, wish) and granted(key, grant)
    scope = narrowed(wish, grant)
    assert is_in(key, scope) == both
    # A hub that narrows what the edge has narrowed already changes nothing.
    assert narrowed(scope, grant) == scope

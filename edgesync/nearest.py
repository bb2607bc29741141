"""The nearest of known names, for whoever misspelt one."""

import difflib
from collections.abc import Iterable


def guess(word: str, known: Iterable[str]) -> str:
    """Return "did you mean `x`? " with the known name nearest to `word`; "" if none is near."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"did you mean `{near[0]}`? " if near else ""

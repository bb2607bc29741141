"""What is wrong with a question is said in words, with what to write instead."""

from typing import Annotated

import msgspec
import pytest
from msgspec import Meta

from hubd.api.errors import Problem, from_validation

pytestmark = pytest.mark.feature("S21")

DESCRIPTIONS = {"id": "id of an alarm, 24 hex digits", "ttl_s": "seconds until it is given up"}


class Question(msgspec.Struct, forbid_unknown_fields=True):
    id: Annotated[str, Meta(pattern="^[0-9a-f]{24}$")] = ""
    ttl_s: float = 60.0


def problem(**asked: object) -> Problem:
    with pytest.raises(msgspec.ValidationError) as refused:
        msgspec.convert(asked, Question)
    return from_validation(refused.value, DESCRIPTIONS).problem


def test_a_parameter_that_is_misspelt_is_guessed() -> None:
    found = problem(ttl=3)
    assert found.field == "ttl"
    assert found.remedy == "did you mean `ttl_s`? parameters are: id, ttl_s"


def test_a_value_of_the_wrong_form_says_which_is_right() -> None:
    found = problem(id="nothere")
    assert (found.error, found.field) == ("has the wrong form", "id")
    assert found.remedy == "id of an alarm, 24 hex digits"

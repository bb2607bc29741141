"""The process image holds the newest value of each series, and a bounded number of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesync._native.intake import Ready, ReadyTable
from edgesync._native.write import Write
from edgesync.image import ProcessImage
from edgesync.model import Lane, Reading, ValueType
from edgesync.store.point_rows import Point
from edgesync.store.series import Series

READINGS = st.lists(
    st.builds(
        Reading,
        entity=st.sampled_from("abc"),
        key=st.sampled_from("xy"),
        value=st.integers(0, 9),
        time_ns=st.integers(0, 9),
    ),
    max_size=6,
)


@pytest.mark.slow
@pytest.mark.feature("L13")
@given(
    groups=st.lists(READINGS, max_size=6),
    limit=st.integers(1, 7),
    ready=st.lists(st.tuples(st.integers(0, 5), st.sampled_from("abc"), st.sampled_from("xy"))),
)
def test_the_image_is_the_last_value_of_the_first_series(
    groups: list[list[Reading]], limit: int, ready: list[tuple[int, str, str]]
) -> None:
    """Also when series become known, and unknown, to the intake between two groups."""
    image = ProcessImage(limit)
    table = ReadyTable()
    model: dict[tuple[str, str], Reading] = {}
    refused = 0
    for number, group in enumerate(groups):
        for at, entity, key in ready:
            if at == number and (entity, key) in table:
                table.discard((entity, key))
            elif at == number:
                table.add(Ready((entity, key), 1, "", ValueType.F64))
        image.update(group, table.stage(Write(), Lane.BULK, group, 120))
        for reading in group:
            name = (reading.entity, reading.key)
            if name in model or len(model) < limit:
                model[name] = reading
            else:
                refused += 1
    shown = [(view.entity, view.key, view.value, view.time_ns) for view in image.views()]
    assert shown == [(*name, one.value, one.time_ns) for name, one in sorted(model.items())]
    assert len(image) == len(model) <= limit
    assert image.refused == refused


def test_of_a_value_held_elsewhere_too_the_later_is_shown() -> None:
    image = ProcessImage(2)
    image.update([Reading("a", "x", 1.0, 5), Reading("b", "x", 1.0, 5)])
    points = [("a", 4), ("b", 6), ("c", 1)]
    image.suppliers.append(
        lambda: [(Series(entity, "x", "kg", 1), Point(at, 2.0)) for entity, at in points]
    )
    shown = [(view.entity, view.value, view.unit) for view in image.views()]
    assert shown == [("a", 1.0, ""), ("b", 2.0, "kg"), ("c", 2.0, "kg")]
    # By a clock that says 5, what was told of 6 comes of one that was wrong.
    assert [view.value for view in image.views(until_ns=5)] == [1.0, 1.0, 2.0]

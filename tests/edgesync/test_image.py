"""The process image holds the newest value of each series, and a bounded number of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesync.image import ProcessImage
from edgesync.model import Reading
from edgesync.store.points import Point
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
@given(groups=st.lists(READINGS, max_size=6), limit=st.integers(1, 7))
def test_the_image_is_the_last_value_of_the_first_series(
    groups: list[list[Reading]], limit: int
) -> None:
    image = ProcessImage(limit)
    model: dict[tuple[str, str], Reading] = {}
    refused = 0
    for group in groups:
        image.update(group)
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

"""The compiled reader of a block gives what the plain decoder of its points gives."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesync.errors import ConfigError
from edgesync.sources.modbus.decode import BlockReader
from edgesync.sources.modbus.layout import resolve
from edgesync.sources.modbus.points import decode_point
from edgesync.sources.modbus.settings import ModbusDeviceSettings, PointSettings

POINTS = st.lists(
    st.fixed_dictionaries(
        {
            "address": st.integers(0, 30),
            "type": st.sampled_from(["int16", "uint16", "int32", "uint32", "int64", "uint64"]),
        },
        optional={
            "scale": st.sampled_from([0.1, 0.001, 10, 1000, -1, 2.5]),
            "offset": st.sampled_from([-40, 0.5, 3]),
            "invalid": st.sampled_from([(0xFFFF,), (-1,), (0x8000, 0), "sunspec"]),
            "min": st.sampled_from([-100, 0]),
            "max": st.sampled_from([500, 1e6]),
        },
    ),
    min_size=1,
    max_size=8,
)


@pytest.mark.slow
@given(POINTS, st.binary(min_size=80, max_size=80))
def test_a_reader_gives_what_the_points_alone_give(
    points: list[dict[str, Any]], data: bytes
) -> None:
    named = tuple(PointSettings(name=f"P{i}", **point) for i, point in enumerate(points))
    try:
        layout = resolve(ModbusDeviceSettings(name="d", host="h", points=named), None)
    except ConfigError:
        return  # a marker that does not fit
    reader = BlockReader(0, 40, [(point, None) for point in layout.points])
    assert reader.is_plain
    alone = [value for point in layout.points for _, value in decode_point(point, data, 0)]
    found = reader.read(data, {})
    assert found == alone
    assert list(map(type, found)) == list(map(type, alone))

"""Simulated devices: register images laid out as their profile says.   [sans-IO]"""

import math
from collections.abc import Callable, Mapping
from typing import Final

from edgesync.model import Value
from edgesync.sources.modbus.layout import Layout
from edgesync.sources.modbus.pdu import ILLEGAL_ADDRESS, DeviceException, Request
from edgesync.sources.modbus.planner import Planner
from edgesync.sources.modbus.points import Point, encode_point
from edgesync.sources.modbus.profile import load_layout
from edgesync.sources.modbus.settings import ModbusDeviceSettings
from edgesync.sources.simulate.site import BATTERY_MOST_W, CAPACITY_WH, Site

NO_ALARM: Final = 0


class SimulatedDevice:
    """The registers of one device, laid out by its profile; unset points read as zero.

    `has_holes` makes addresses between the points illegal, as strict devices do.
    """

    def __init__(self, layout: Layout, *, has_holes: bool = False) -> None:
        self.layout = layout
        self._points = {point.name: point for point in layout.points}
        self._holes = has_holes
        self._registers: dict[tuple[str, int], int] = {
            (point.table, address): 0
            for point in layout.points
            for address in range(point.address, point.end)
        }
        spans = Planner(layout).plan([group for group, _ in layout.periods])
        self._spans = [(block.table, block.address, block.end) for block in spans]

    def set(self, values: Mapping[str, Value]) -> None:
        """Show `values` by point name; a scale factor is given by its own name."""
        for name, value in values.items():
            point = self._points[name]
            factor = int(values.get(point.sf, 0)) if point.sf else 0
            self._store(point, value, factor)

    def set_words(self, table: str, address: int, words: list[int]) -> None:
        """Show raw registers, for example a marker for "not available"."""
        for offset, word in enumerate(words):
            self._registers[table, address + offset] = word

    def read(self, request: Request) -> list[int]:
        """Return the registers or bits asked for. Raises DeviceException(2) outside the map."""
        words = []
        for address in range(request.address, request.address + request.count):
            word = self._registers.get((request.table, address))
            if word is None:
                if self._holes or not self._is_spanned(request.table, address):
                    raise DeviceException(ILLEGAL_ADDRESS)
                word = 0
            words.append(word)
        return words

    def _is_spanned(self, table: str, address: int) -> bool:
        return any(t == table and start <= address < end for t, start, end in self._spans)

    def _store(self, point: Point, value: Value, factor: int) -> None:
        if point.is_bit_table:
            self._registers[point.table, point.address] = int(bool(value))
            return
        for offset, word in enumerate(encode_point(point, value, factor)):
            self._registers[point.table, point.address + offset] = word


Show = Callable[[Site], dict[str, Value]]


def site_layouts() -> dict[int, Layout]:
    """Return the layouts of the site's devices by unit id."""
    found = {}
    for name, unit_id, profile in SITE_DEVICES:
        settings = ModbusDeviceSettings(name=name, host="-", unit_id=unit_id, profile=profile)
        found[unit_id] = load_layout(settings)
    return found


def _meter(site: Site) -> dict[str, Value]:
    phases_w = [site.grid_w * share for share in (0.36, 0.33, 0.31)]
    reactive_var = 0.12 * site.load_w + 60
    apparent_va = math.hypot(site.grid_w, reactive_var)
    volts = site.voltages_v
    values: dict[str, Value] = {
        "ActivePower": round(site.grid_w),
        "ReactivePower": round(reactive_var),
        "ApparentPower": round(apparent_va),
        "PowerFactor": round(site.grid_w / apparent_va, 3) if apparent_va else 1.0,
        "Frequency": round(site.frequency_hz, 2),
        "ImportedEnergy": int(site.imported_wh),
        "ExportedEnergy": int(site.exported_wh),
        "Status": "ok",
        "Alarms": NO_ALARM,
        "SerialNumber": "ES-METER-0001",
        "Firmware": "1.4.2",
    }
    for phase in range(3):
        following = (phase + 1) % 3
        # Two phases 120 degrees apart.
        line_v = math.sqrt(
            volts[phase] ** 2 + volts[following] ** 2 + volts[phase] * volts[following]
        )
        name = f"L{phase + 1}"
        values[f"Voltage{name}"] = round(volts[phase], 1)
        values[f"Voltage{name}L{following + 1}"] = round(line_v, 1)
        values[f"Current{name}"] = round(phases_w[phase] / volts[phase], 3)
        values[f"ActivePower{name}"] = round(phases_w[phase])
    return values


def _battery(site: Site) -> dict[str, Value]:
    volts = 380 + 60 * site.soc - 0.0008 * site.battery_w
    cell_mv = round(volts / 0.112)
    charging, discharging = site.battery_w < -20, site.battery_w > 20
    return {
        "Soc": round(100 * site.soc, 1),
        "Soh": 98.4,
        "ActivePower": round(site.battery_w),
        "Voltage": round(volts, 1),
        "Current": round(site.battery_w / volts, 2),
        "Capacity": int(CAPACITY_WH),
        "CellVoltageMin": cell_mv - 7,
        "CellVoltageMax": cell_mv + 6,
        "CellTemperatureMin": round(site.battery_c - 1.2, 1),
        "CellTemperatureMax": round(site.battery_c + 1.7, 1),
        "ChargedEnergy": int(site.charged_wh),
        "DischargedEnergy": int(site.discharged_wh),
        "Cycles": int(site.discharged_wh // CAPACITY_WH),
        "MaxChargePower": int(BATTERY_MOST_W),
        "MaxDischargePower": int(BATTERY_MOST_W),
        "State": "charging" if charging else "discharging" if discharging else "idle",
        "Warnings": (1 if site.soc < 0.12 else 0) | (2 if site.soc > 0.94 else 0),
        "SerialNumber": "ES-BATT-0001",
    }


def _pv(site: Site) -> dict[str, Value]:
    # Like real inverters: more digits while there is little power (SunSpec's scale factors move).
    power_sf = 0 if site.pv_w > 3000 else -1
    string_w = [site.pv_w * 0.52 / 0.97, site.pv_w * 0.48 / 0.97]
    string_v = [612.0 - 0.004 * string_w[0], 588.0 - 0.004 * string_w[1]]
    if not site.is_day:
        string_v = [0.0, 0.0]
    return {
        "ActivePower": round(site.pv_w, -power_sf),
        "ActivePowerSf": power_sf,
        "ProducedEnergy": int(site.produced_wh),
        "Dc1Voltage": round(string_v[0], 1),
        "Dc1Current": round(string_w[0] / string_v[0], 2) if string_v[0] else 0.0,
        "Dc1Power": round(string_w[0]),
        "Dc2Voltage": round(string_v[1], 1),
        "Dc2Current": round(string_w[1] / string_v[1], 2) if string_v[1] else 0.0,
        "Dc2Power": round(string_w[1]),
        "Irradiance": round(site.irradiance_w_m2, 1),
        "ModuleTemperature": round(site.module_c, 1),
        "CabinetTemperature": round(24 + 0.002 * site.pv_w, 1),
        "Frequency": round(site.frequency_hz, 2),
        "State": "running" if site.pv_w > 50 else "sleeping",
        "Events": NO_ALARM,
        "SerialNumber": "ES-PV-0001",
    }


def _load(site: Site) -> dict[str, Value]:
    return {
        "HousePower": round(site.house_w, 1),
        "HeatPumpPower": round(site.heat_pump_w, 1),
        "ChargerPower": round(site.charger_w, 1),
        "TotalPower": round(site.load_w, 1),
        "ConsumedEnergy": int(site.consumed_wh),
        "RoomTemperature": round(site.room_c, 1),
        "HeatPumpRelay": site.heating,
        "ChargerRelay": site.charger_w > 100,
        "DoorClosed": True,
        "VehicleConnected": site.charger_w > 100,
    }


# Device name, unit id, profile: the names an edge of this site uses.
SITE_DEVICES: Final = (
    ("meter0", 1, "edgesync-sim-meter"),
    ("battery0", 2, "edgesync-sim-battery"),
    ("pv0", 3, "edgesync-sim-pv"),
    ("load0", 4, "edgesync-sim-load"),
)
SHOW: Final[dict[int, Show]] = {1: _meter, 2: _battery, 3: _pv, 4: _load}

"""The physics of a small energy site: grid meter, battery, PV and loads.   [sans-IO]

Powers are watts: `grid_w` > 0 is bought, `battery_w` > 0 discharges, `pv_w` and `load_w` are >= 0.
At every instant  load = pv + battery + grid,  and every energy counter is the integral of its
power. The same seed and the same steps give the same site.
"""

import math
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from random import Random

PV_PEAK_W: Final = 12_000.0
CAPACITY_WH: Final = 20_000.0
BATTERY_MOST_W: Final = 8_000.0
SOC_LOW, SOC_HIGH = 0.10, 0.95
EFFICIENCY: Final = 0.96  # each way
# An inverter follows its setpoint in about this time; the grid sees the difference meanwhile.
BATTERY_LAG_S: Final = 2.0
SUNRISE_H, SUNSET_H = 6.0, 20.0
HEAT_PUMP_W, CHARGER_W = 2_200.0, 7_400.0
# One step integrates at most this much; longer ones are divided so that energy stays exact.
STEP_MOST_S: Final = 5.0


class Wander:
    """A value that wanders about zero: an Ornstein-Uhlenbeck process of deviation 1."""

    def __init__(self, chance: "Random", memory_s: float) -> None:
        self.value = chance.gauss(0, 1)
        self._chance = chance
        self._memory_s = memory_s

    def step(self, dt_s: float) -> float:
        keep = math.exp(-dt_s / self._memory_s)
        noise = math.sqrt(1 - keep * keep) * self._chance.gauss(0, 1)
        self.value = self.value * keep + noise
        return self.value


class Site:
    """State of the site; `step` moves it on."""

    def __init__(self, chance: "Random", *, start_h: float = 11.0, soc: float = 0.5) -> None:
        self.hour = start_h % 24
        self.elapsed_s = 0.0
        self.soc = soc
        self.pv_w = self.load_w = self.battery_w = self.grid_w = 0.0
        self.house_w = self.heat_pump_w = self.charger_w = 0.0
        self.irradiance_w_m2 = 0.0
        self.frequency_hz = 50.0
        self.voltages_v = [230.0, 230.0, 230.0]
        self.battery_c, self.module_c, self.room_c = 22.0, 20.0, 20.5
        self.imported_wh = self.exported_wh = self.produced_wh = self.consumed_wh = 0.0
        self.charged_wh = self.discharged_wh = 0.0
        self.heating = False
        self._chance = chance
        self._clouds = Wander(chance, 180.0)
        self._hum = Wander(chance, 40.0)
        self._frequency = Wander(chance, 20.0)
        self._volts = [Wander(chance, 30.0) for _ in range(3)]
        self._kettle_s = 0.0
        self._update_powers(0.0)
        self._balance()

    def step(self, dt_s: float) -> None:
        """Advance by `dt_s` seconds of the site's time."""
        pieces = max(1, math.ceil(dt_s / STEP_MOST_S))
        for _ in range(pieces):
            self._step(dt_s / pieces)

    @property
    def is_day(self) -> bool:
        return SUNRISE_H < self.hour < SUNSET_H

    def _step(self, dt_s: float) -> None:
        self.elapsed_s += dt_s
        self.hour = (self.hour + dt_s / 3600) % 24
        self._update_powers(dt_s)
        self._update_battery(dt_s)
        self._balance()
        self._count(dt_s)
        self._update_surroundings(dt_s)

    def _update_powers(self, dt_s: float) -> None:
        height = math.sin(math.pi * (self.hour - SUNRISE_H) / (SUNSET_H - SUNRISE_H))
        clear = max(height, 0.0) ** 1.2 if self.is_day else 0.0
        # Mostly clear, sometimes a cloud that takes up to four fifths of the light.
        shade = 0.8 / (1 + math.exp(-3 * (self._clouds.step(dt_s) - 1.0)))
        self.irradiance_w_m2 = 1000.0 * clear * (1 - shade)
        heat_loss = 1 - 0.004 * max(self.module_c - 25.0, 0.0)
        self.pv_w = PV_PEAK_W * 0.86 * self.irradiance_w_m2 / 1000.0 * heat_loss
        self.house_w = self._house(dt_s)
        self.heat_pump_w = HEAT_PUMP_W * (1 + 0.01 * self._hum.value) if self.heating else 8.0
        self.charger_w = CHARGER_W if 18.5 <= self.hour < 21.5 else 4.0
        self.load_w = self.house_w + self.heat_pump_w + self.charger_w

    def _house(self, dt_s: float) -> float:
        def peak(at_h: float, width_h: float, watts: float) -> float:
            return watts * math.exp(-(((self.hour - at_h) / width_h) ** 2))

        self._kettle_s = max(self._kettle_s - dt_s, 0.0)
        # A kettle about every 20 minutes by day.
        if self._kettle_s == 0.0 and self._chance.random() < dt_s / 1200 and 6 < self.hour < 23:
            self._kettle_s = 120.0
        steady = 320 + peak(7.5, 1.0, 900) + peak(12.5, 0.8, 700) + peak(19.0, 1.8, 1600)
        hum = 40 * self._hum.step(dt_s)
        return max(steady + hum, 120.0) + (2000.0 if self._kettle_s else 0.0)

    def _update_battery(self, dt_s: float) -> None:
        """Follow load - pv, within the power limits and the state of charge."""
        wanted_w = min(max(self.load_w - self.pv_w, -BATTERY_MOST_W), BATTERY_MOST_W)
        follow = 1 - math.exp(-dt_s / BATTERY_LAG_S)
        power_w = self.battery_w + (wanted_w - self.battery_w) * follow
        hours = dt_s / 3600
        if power_w >= 0:
            room_wh = max(self.soc - SOC_LOW, 0.0) * CAPACITY_WH * EFFICIENCY
            power_w = min(power_w, room_wh / hours) if hours else power_w
            self.soc -= power_w * hours / EFFICIENCY / CAPACITY_WH
            self.discharged_wh += power_w * hours
        else:
            room_wh = max(SOC_HIGH - self.soc, 0.0) * CAPACITY_WH / EFFICIENCY
            power_w = max(power_w, -room_wh / hours) if hours else power_w
            self.soc -= power_w * hours * EFFICIENCY / CAPACITY_WH
            self.charged_wh -= power_w * hours
        self.battery_w = power_w

    def _balance(self) -> None:
        self.grid_w = self.load_w - self.pv_w - self.battery_w

    def _count(self, dt_s: float) -> None:
        hours = dt_s / 3600
        self.produced_wh += self.pv_w * hours
        self.consumed_wh += self.load_w * hours
        if self.grid_w >= 0:
            self.imported_wh += self.grid_w * hours
        else:
            self.exported_wh -= self.grid_w * hours

    def _update_surroundings(self, dt_s: float) -> None:
        self.frequency_hz = 50 + 0.015 * self._frequency.step(dt_s)
        drop_v = 0.25 * self.grid_w / 3 / 230
        self.voltages_v = [231.5 + 0.6 * w.step(dt_s) - drop_v for w in self._volts]
        air_c = 16 + 6 * math.sin(math.pi * (self.hour - 9) / 12)
        self._warm("module_c", air_c + 0.03 * self.irradiance_w_m2, 300, dt_s)
        self._warm("battery_c", 22 + 10 * abs(self.battery_w) / BATTERY_MOST_W, 1800, dt_s)
        self._warm("room_c", 24.0 if self.heating else 17.0, 3600, dt_s)
        # The thermostat's hysteresis makes the heat pump run for some ten minutes at a time.
        if self.room_c < 20.0:
            self.heating = True
        elif self.room_c > 21.0:
            self.heating = False

    def _warm(self, name: str, towards_c: float, memory_s: float, dt_s: float) -> None:
        now_c: float = getattr(self, name)
        setattr(self, name, now_c + (towards_c - now_c) * (1 - math.exp(-dt_s / memory_s)))

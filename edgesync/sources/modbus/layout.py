"""Settings and profile of a device, checked and resolved into what is polled.   [sans-IO]

Errors name the file, the field and what is allowed there; nothing is guessed.
"""

import math
import struct
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction

from msgspec import Struct

from edgesync.errors import ConfigError, gathered
from edgesync.report import ReportRule, parse_deadband
from edgesync.sources.modbus.plausible import PlausibleRule
from edgesync.sources.modbus.points import (
    FLOATS,
    INTEGERS,
    SUNSPEC_INVALID,
    WORDS,
    Point,
    byte_order,
    linear,
)
from edgesync.sources.modbus.settings import (
    GroupSettings,
    LimitSettings,
    ModbusDeviceSettings,
    Order,
    PointSettings,
    ProfileSettings,
    Quirk,
)
from edgesync.units import Period

# What nearly every device can do at once, and what a site wants when it says nothing.
DEFAULT_GROUPS = {"fast": Period("1s"), "slow": Period("60s")}
# Mistakes told at once.
MISTAKES_MAX = 20
# Between the smallest and the largest unit anybody converts; keeps every product finite.
SCALE_MAX = 1e15
_SIZED = ("string", "bcd", "enum", "bits")
# bcd in 5 registers could pass 2^63; bits and enums are at most a 64-bit word.
_LENGTH_MAX = {"string": 125, "bcd": 4, "enum": 4, "bits": 4}


class Limits(Struct, frozen=True, kw_only=True):
    """What one request may ask for, and how long to wait; times in seconds."""

    max_words: int = 125  # Modbus Application Protocol V1.1b3, 6.3
    max_bits: int = 2000  # and 6.1
    # One more request costs a turn-around (tens of ms on a serial line behind a gateway), an
    # unused register 2 bytes (2 ms at 9600 baud).
    max_gap: int = 16
    timeout: float = 1.0
    retries: int = 1
    busy_retries: int = 5
    busy_wait: float = 0.25
    min_gap: float = 0.0
    connect_delay: float = 0.0
    unit_switch: float = 0.0
    # Many gateways drop or mix up a request that comes before the answer to the one before.
    overlap: bool = False


class Layout(Struct, frozen=True, kw_only=True):
    """Everything known about a device before it is asked anything."""

    name: str
    unit_id: int
    points: tuple[Point, ...]
    atomic: tuple[frozenset[str], ...]  # names that must come from one reply
    periods: tuple[tuple[str, float], ...]  # (group, seconds); groups without points are left out
    limits: Limits
    quirks: frozenset[Quirk]
    rules: tuple[tuple[str, ReportRule], ...]  # (series key, rule)
    address_base: int = 0  # as the settings write addresses; `points` count from 0
    plausible: tuple[tuple[str, PlausibleRule], ...] = ()  # (series key, rule)


def resolve(device: ModbusDeviceSettings, profile: ProfileSettings | None) -> Layout:
    """Combine a device's settings with its profile. Raises ConfigError."""
    return _Resolver(device, profile).layout()


class _Resolver:
    def __init__(self, device: ModbusDeviceSettings, profile: ProfileSettings | None) -> None:
        self.device = device
        self.profile = profile
        self.settings = self._merged_points()
        self.groups = self._merged_groups()
        self.moved = self._moves()

    def error(self, field: str, problem: str, remedy: str = "") -> ConfigError:
        return ConfigError(
            file=f"device {self.device.name!r}", field=field, problem=problem, remedy=remedy
        )

    def layout(self) -> Layout:
        points = self._points()
        by_name = {point.name: point for point in points}
        limits = self._limits()
        atomic = self._atomic(by_name, limits)
        self._check_keys(points)
        used = {point.group for point in points}
        profile_unit = self.profile.unit_id if self.profile else 1
        unit_id = profile_unit if self.device.unit_id is None else self.device.unit_id
        return Layout(
            name=self.device.name,
            unit_id=unit_id,
            address_base=self._address_base(),
            points=tuple(points),
            atomic=atomic,
            periods=tuple((g, every) for g, every in self.groups.items() if g in used),
            limits=limits,
            quirks=self._quirks(limits),
            rules=tuple(self._rules(by_name)),
            plausible=tuple(self._plausible(by_name)),
        )

    def _points(self) -> list[Point]:
        """Resolve every point. Raises ConfigError with the mistakes of all."""
        points: dict[str, Point] = {}
        mistakes: list[ConfigError] = []
        for settings in self.settings.values():
            try:
                points[settings.name] = self._point(settings)
            except ConfigError as mistake:
                mistakes.append(mistake)
        for point in points.values():
            try:
                if point.sf not in self.settings or point.sf in points:
                    self._check_sf(point, points)
            except ConfigError as mistake:
                mistakes.append(mistake)
        if mistakes:
            raise gathered(mistakes[:MISTAKES_MAX])
        return list(points.values())

    def _merged_points(self) -> dict[str, PointSettings]:
        merged: dict[str, PointSettings] = {}
        for points in (self.profile.points if self.profile else (), self.device.points):
            for name, times in Counter(point.name for point in points).items():
                if times > 1:
                    raise self.error(f"points.{name}", "is defined twice", "give each its own name")
            merged.update((point.name, point) for point in points)
        if not merged:
            raise self.error("points", "there is nothing to read", "name a profile or add points")
        return merged

    def _merged_groups(self) -> dict[str, float]:
        every: dict[str, float] = dict(DEFAULT_GROUPS)
        for groups in (self.profile.poll_groups if self.profile else {}, self.device.poll_groups):
            for name, group in groups.items():
                if group.every is not None:
                    every[name] = group.every
                elif name not in every:
                    remedy = 'add every = "10s"'
                    raise self.error(f"poll_groups.{name}", "has no period", remedy)
        return every

    def _moves(self) -> dict[str, str]:
        """Return the group of each point named in a group's list; the device's list wins."""
        moved: dict[str, str] = {}
        for groups in (self.profile.poll_groups if self.profile else {}, self.device.poll_groups):
            here = [name for group in groups.values() for name in group.points]
            for group, settings in groups.items():
                moved.update(self._moves_into(group, settings, here))
        return moved

    def _moves_into(
        self, group: str, settings: GroupSettings, named: Sequence[str]
    ) -> Iterable[tuple[str, str]]:
        for name in settings.points:
            field = f"poll_groups.{group}.points"
            if name not in self.settings:
                raise self.error(field, f"no point is called {name!r}", _known(self.settings))
            if named.count(name) > 1:
                raise self.error(field, f"{name!r} is in two groups", "name it once")
            yield name, group

    def _limits(self) -> Limits:
        chosen: dict[str, object] = {}
        for settings in (self.profile.limits if self.profile else LimitSettings(), self.device):
            for field in LimitSettings.__struct_fields__:
                if (value := getattr(settings, field)) is not None:
                    chosen[field] = float(value) if isinstance(value, float) else value
        return Limits(**chosen)  # type: ignore[arg-type]

    def _quirks(self, limits: Limits) -> frozenset[Quirk]:
        quirks = {*self.device.quirks, *(self.profile.quirks if self.profile else ())}
        if limits.overlap and "any_transaction_id" in quirks:
            problem = "cannot be used with the quirk any_transaction_id"
            remedy = "leave overlap out: only the order tells the answers of such a device apart"
            raise self.error("overlap", problem, remedy)
        return frozenset(quirks)

    def _point(self, settings: PointSettings) -> Point:
        self._check_shape(settings)
        base = self._address_base()
        words = settings.length or WORDS.get(settings.type, 1)
        address = settings.address - base
        if not 0 <= address <= 65536 - words:
            allowed = f"allowed: {base} to {65536 - words + base}"
            raise self.error(f"points.{settings.name}.address", "is out of range", allowed)
        group = self.moved.get(settings.name) or settings.group or "slow"
        if group not in self.groups:
            raise self.error(
                f"points.{settings.name}.group", f"no group {group!r}", _known(self.groups)
            )
        scale = Fraction(1) if settings.scale is None else Fraction(repr(settings.scale))
        offset = Fraction(repr(settings.offset or 0))
        return Point(
            name=settings.name, table=settings.table, address=address, words=words,
            type=settings.type, group=group, order=self._order(settings, words), bit=settings.bit,
            scale=scale, offset=offset, linear=linear(scale, offset), sf=settings.sf,
            unit=settings.unit,
            invalid=self._invalid(settings, words), low=settings.min, high=settings.max,
            symbols=self._symbols(settings, words),
        )  # fmt: skip

    def _address_base(self) -> int:
        if self.device.address_base is not None:
            return self.device.address_base
        return self.profile.address_base if self.profile else 0

    def _order(self, settings: PointSettings, words: int) -> tuple[int, ...]:
        def chosen(field: str) -> Order:
            for place in (settings, self.device, self.profile):
                order: Order | None = getattr(place, field, None)
                if order is not None:
                    return order
            return "big"

        word = chosen("word_order")
        if settings.type == "string":
            word = "big"  # text runs through the registers in order, whatever numbers do
        return byte_order(
            words, word=word, dword=settings.dword_order or word, byte=chosen("byte_order")
        )

    def _check_shape(self, settings: PointSettings) -> None:
        field = f"points.{settings.name}"
        if settings.table in ("coil", "discrete") and settings.type != "bool":
            raise self.error(f"{field}.type", f"a {settings.table} is one bit", 'allowed: "bool"')
        if settings.bit is not None and (
            settings.type != "bool" or settings.table in ("coil", "discrete")
        ):
            raise self.error(f"{field}.bit", 'only for type = "bool" in a register')
        if settings.length is not None:
            most = _LENGTH_MAX.get(settings.type, 0)
            if settings.length > most:
                allowed = f"allowed: 1 to {most}" if most else "only for " + ", ".join(_SIZED)
                raise self.error(f"{field}.length", f"wrong for type {settings.type}", allowed)
        elif settings.type == "string":
            raise self.error(f"{field}.length", "missing", "a string needs its length in registers")
        if settings.dword_order and settings.type not in ("int64", "uint64", "float64"):
            raise self.error(f"{field}.dword_order", "only for 64-bit types")
        for name, types in (("enum", ("enum",)), ("bits", ("bits",))):
            if getattr(settings, name) and settings.type not in types:
                raise self.error(f"{field}.{name}", f'only for type = "{types[0]}"')
        self._check_scale(settings, field)

    def _check_scale(self, settings: PointSettings, field: str) -> None:
        scaled = settings.scale is not None or settings.offset is not None
        if settings.sf is not None and scaled:
            raise self.error(f"{field}.sf", "excludes scale and offset", "keep one of them")
        for name in ("scale", "offset", "min", "max"):
            if not math.isfinite(getattr(settings, name) or 0):
                raise self.error(f"{field}.{name}", "is no number", "allowed: finite numbers")
        for name in ("scale", "offset"):
            if abs(getattr(settings, name) or 0) > SCALE_MAX:
                allowed = f"allowed: {-SCALE_MAX:g} to {SCALE_MAX:g}"
                raise self.error(f"{field}.{name}", "is beyond any unit", allowed)
        if settings.scale == 0:
            raise self.error(f"{field}.scale", "0 would make every value equal")
        if settings.sf is not None and settings.type not in INTEGERS:
            raise self.error(f"{field}.sf", "only for integer types", "allowed: int16 … uint64")
        numeric = settings.type in INTEGERS or settings.type in FLOATS or settings.type == "bcd"
        if not numeric and (scaled or settings.min is not None or settings.max is not None):
            raise self.error(f"{field}.scale", f"type {settings.type} has no scale and no range")
        if settings.min is not None and settings.max is not None and settings.min > settings.max:
            raise self.error(f"{field}.min", f"is above max ({settings.max})")

    def _symbols(self, settings: PointSettings, words: int) -> tuple[tuple[int, str], ...]:
        kind = "enum" if settings.enum else "bits"
        most = (1 << 16 * words) - 1 if kind == "enum" else 16 * words - 1
        found: dict[int, str] = {}
        for text, label in (settings.enum or settings.bits).items():
            field = f"points.{settings.name}.{kind}.{text}"
            try:
                number = int(text, 0)
            except ValueError:
                number = -1
            if not 0 <= number <= most:
                raise self.error(field, "is no key here", f"allowed: whole numbers 0 to {most}")
            # Several numbers may have one name; of bits, each name is a series.
            if number in found or (kind == "bits" and label in found.values()):
                raise self.error(field, f"{label!r} ({number}) is there twice")
            found[number] = label
        return tuple(sorted(found.items()))

    def _invalid(self, settings: PointSettings, words: int) -> frozenset[int | str]:
        if settings.invalid == "sunspec":
            pattern = SUNSPEC_INVALID.get(settings.type)
            if settings.type in ("enum", "bits"):
                pattern = (1 << 16 * words) - 1
            return frozenset() if pattern is None else frozenset({pattern})
        markers: set[int | str] = set()
        for marker in settings.invalid:
            field = f"points.{settings.name}.invalid"
            if isinstance(marker, str) != (settings.type == "string"):
                raise self.error(field, f"{marker!r} cannot occur in a {settings.type}")
            if isinstance(marker, str):
                markers.add(marker)
            elif settings.type in FLOATS:
                markers |= self._float_patterns(marker, settings.type, words, field)
            elif isinstance(marker, float):
                raise self.error(field, f"{marker} is no whole number", "give the raw number")
            else:
                markers.add(self._pattern(marker, words, field))
        return frozenset(markers)

    def _float_patterns(self, marker: float, kind: str, words: int, field: str) -> set[int]:
        """Return the registers of a marker given as a number (-9999.9) or as them (0x7F7FFFFF)."""
        try:
            found = {int.from_bytes(struct.pack(FLOATS[kind], marker), "big")}
        except OverflowError:
            found = set()
        if isinstance(marker, int) and 0 <= marker < 1 << 16 * words:
            found.add(marker)
        if not found:
            raise self.error(field, f"{marker} cannot occur in a {kind}")
        return found

    def _pattern(self, marker: int, words: int, field: str) -> int:
        """Return the unsigned bit pattern of a marker given signed or unsigned."""
        width = 16 * words
        if not -(1 << width - 1) <= marker < 1 << width:
            raise self.error(field, f"{marker} does not fit in {width} bits")
        return marker & (1 << width) - 1

    def _check_sf(self, point: Point, by_name: Mapping[str, Point]) -> None:
        if point.sf is None:
            return
        field = f"points.{point.name}.sf"
        sf = by_name.get(point.sf)
        if sf is None:
            raise self.error(field, f"no point is called {point.sf!r}", _known(by_name))
        if sf.type != "int16" or sf.sf is not None or sf.scale != 1 or sf.offset:
            raise self.error(field, f"{sf.name} is no exponent", "it must be a plain int16")
        if sf.is_bit_table:
            raise self.error(field, f"{sf.name} is one bit", "it must be a register")

    def _atomic(self, by_name: Mapping[str, Point], limits: Limits) -> tuple[frozenset[str], ...]:
        """Join the sets of `atomic_with`, and check that each fits into one request."""
        sets: list[set[str]] = []
        for settings in self.settings.values():
            joined = {settings.name, *settings.atomic_with}
            for name in sorted(name for name in joined if name not in by_name):
                field = f"points.{settings.name}.atomic_with"
                raise self.error(field, f"no point is called {name!r}", _known(by_name))
            if len(joined) > 1:
                apart = [other for other in sets if not other & joined]
                for other in sets:
                    joined |= other if other & joined else set()
                sets = [*apart, joined]
        for point in by_name.values():
            self._check_fits({point.name}, by_name, limits)
        for names in sets:
            self._check_fits(names, by_name, limits)
        return tuple(frozenset(names) for names in sets)

    def _check_fits(self, names: set[str], by_name: Mapping[str, Point], limits: Limits) -> None:
        members = [by_name[name] for name in sorted(names)]
        field = f"points.{members[0].name}"
        if len({member.table for member in members}) > 1:
            raise self.error(f"{field}.atomic_with", "the points are in different tables")
        if len({by_name[name].group for name in names}) > 1:
            raise self.error(f"{field}.atomic_with", "the points are in different groups")
        span = max(m.end for m in members) - min(m.address for m in members)
        most = limits.max_bits if members[0].is_bit_table else limits.max_words
        if span > most:
            problem = f"needs {span} registers in one request"
            raise self.error(field, problem, f"allowed: {most}")

    def _check_keys(self, points: Iterable[Point]) -> None:
        seen: dict[str, str] = {}
        for point in points:
            for key in point.series():
                if key in seen:
                    problem = f"{point.name} and {seen[key]} both make the series {key!r}"
                    raise self.error(f"points.{point.name}", problem)
                seen[key] = point.name

    def _rules(self, by_name: Mapping[str, Point]) -> Iterable[tuple[str, ReportRule]]:
        for settings in self.settings.values():
            deadband, field = settings.deadband, f"points.{settings.name}.deadband"
            if deadband is None:
                deadband, field = self.device.deadband, "deadband"
            age = self.device.max_age if settings.max_age is None else settings.max_age
            if deadband is None:
                continue
            try:
                rule = parse_deadband(deadband)
            except ValueError as error:
                raise self.error(field, str(error)) from error
            rule = ReportRule(absolute=rule.absolute, percent=rule.percent, max_age_s=age)
            for key in by_name[settings.name].series():
                yield key, rule

    def _plausible(self, by_name: Mapping[str, Point]) -> Iterable[tuple[str, PlausibleRule]]:
        for settings in self.settings.values():
            if settings.never_falls or settings.max_step is not None:
                point = by_name[settings.name]
                if point.type not in (*INTEGERS, *FLOATS, "bcd"):
                    field = "never_falls" if settings.never_falls else "max_step"
                    problem = f"type {point.type} is no number"
                    raise self.error(f"points.{point.name}.{field}", problem)
                rule = PlausibleRule(
                    settings.never_falls, settings.max_step, self.groups[point.group]
                )
                yield point.name, rule


def _known(names: Iterable[str]) -> str:
    """Say which names exist, at most a dozen."""
    listed = list(names)
    more = f" and {len(listed) - 12} more" if len(listed) > 12 else ""
    return "known: " + ", ".join(listed[:12]) + more

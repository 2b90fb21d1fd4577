"""When schedules are due: the expressions of EventBridge's rules and of EventBridge Scheduler.

docs.aws.amazon.com/eventbridge/latest/userguide/eb-cron-expressions.html,
docs.aws.amazon.com/scheduler/latest/UserGuide/schedule-types.html: a local time that a change of clocks leaves out is
skipped, one that comes twice counts once, and a day of a rate has 24 hours.
"""

import re
from calendar import monthrange
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from functools import cache
from typing import Protocol
from zoneinfo import ZoneInfo

_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_DAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
_YEARS = (1970, 2199)


class Timetable(Protocol):
    """What an expression says."""

    def after(self, moment: datetime) -> datetime | None:
        """Return the first time after a moment, both in UTC; None where there is none."""


@dataclass(frozen=True)
class Rate:
    """Again and again after the same time."""

    period: timedelta

    def after(self, moment: datetime) -> datetime:
        return moment + self.period


@dataclass(frozen=True)
class Once:
    """At one time."""

    at: datetime

    def after(self, moment: datetime) -> datetime | None:
        return self.at if self.at > moment else None


@dataclass(frozen=True)
class Cron:
    """At the minutes and hours of the days that two functions let through."""

    minutes: frozenset[int]
    hours: frozenset[int]
    months: frozenset[int]
    years: frozenset[int]
    is_day: Callable[[date], bool]
    zone: ZoneInfo

    def after(self, moment: datetime) -> datetime | None:
        return next((time for time in self._from(moment.astimezone(self.zone).date()) if time > moment), None)

    def _from(self, day: date) -> Iterator[datetime]:
        while day.year <= _YEARS[1]:
            if day.year not in self.years:
                day = date(day.year + 1, 1, 1)
                continue
            if day.month in self.months and self.is_day(day):
                for hour in sorted(self.hours):
                    for minute in sorted(self.minutes):
                        local = datetime(day.year, day.month, day.day, hour, minute, tzinfo=self.zone)
                        time = local.astimezone(UTC)
                        if time.astimezone(self.zone).replace(tzinfo=None) == local.replace(tzinfo=None):
                            yield time
            day += timedelta(days=1)


@cache
def timetable(expression: str, zone: str = "UTC") -> Timetable:
    """Return what `rate(…)`, `cron(…)` or `at(…)` says in a time zone. Raises ValueError for anything else."""
    found = re.fullmatch(r"(rate|cron|at)\((.*)\)", expression)
    if not found:
        raise ValueError(f"{expression!r} is none of rate(…), cron(…), at(…)")
    try:
        local = ZoneInfo(zone)
    except (KeyError, OSError, ValueError) as error:  # ZoneInfoNotFoundError is a KeyError
        raise ValueError(f"{zone!r} is no time zone") from error
    kind, text = found.groups()
    if kind == "rate":
        parts = re.fullmatch(r"([1-9][0-9]{0,8}) (minute|hour|day)s?", text)
        if not parts:
            raise ValueError(f"{text!r} is no rate, such as 5 minutes")
        return Rate(timedelta(**{f"{parts[2]}s": int(parts[1])}))
    if kind == "at":
        return Once(datetime.strptime(text, "%Y-%m-%dT%H:%M:%S").replace(tzinfo=local).astimezone(UTC))
    fields = text.split()
    if len(fields) != 6:
        raise ValueError(f"a cron expression has six fields, not {len(fields)}")
    minutes, hours, days, months, weekdays, years = fields
    if (days == "?") == (weekdays == "?"):
        raise ValueError("one of day of month and day of week has to be ?")
    return Cron(
        _numbers(minutes, 0, 59), _numbers(hours, 0, 23), _numbers(months, 1, 12, _MONTHS), _numbers(years, *_YEARS),
        _by_week(weekdays) if days == "?" else _by_month(days), local,
    )  # fmt: skip


def _numbers(text: str, low: int, high: int, names: tuple[str, ...] = ()) -> frozenset[int]:
    """Return the numbers of a field; its names count from `low`."""
    found: set[int] = set()
    for part in text.split(","):
        span, slash, step = part.partition("/")
        first, dash, last = span.partition("-")
        start = low if span == "*" else _number(first, low, names)
        end = _number(last, low, names) if dash else high if slash or span == "*" else start
        every = _number(step, 0, ()) if slash else 1
        if not low <= start <= end <= high or every < 1:
            raise ValueError(f"{part!r} is not from {low} to {high}")
        found |= set(range(start, end + 1, every))
    return frozenset(found)


def _number(text: str, low: int, names: tuple[str, ...]) -> int:
    if text.upper() in names:
        return names.index(text.upper()) + low
    if not text.isascii() or not text.isdigit():
        raise ValueError(f"{text!r} is no number")
    return int(text)


def _last_of(day: date) -> int:
    return monthrange(day.year, day.month)[1]


def _weekday(day: date) -> int:
    """Return 1 for a Sunday and 7 for a Saturday."""
    return day.isoweekday() % 7 + 1


def _by_month(text: str) -> Callable[[date], bool]:
    if text == "L":
        return lambda day: day.day == _last_of(day)
    if text.endswith("W"):
        near = next(iter(_numbers(text[:-1], 1, 31)))
        return lambda day: day.day == _weekday_next_to(day, near)
    wanted = _numbers(text, 1, 31)
    return lambda day: day.day in wanted


def _weekday_next_to(month: date, number: int) -> int:
    """Return the day from Monday to Friday that is next to a day of a month, within the month; 0 without that day."""
    if number > _last_of(month):
        return 0
    weekday = month.replace(day=number).isoweekday()
    if weekday == 6:
        return number - 1 if number > 1 else number + 2
    if weekday == 7:
        return number + 1 if number < _last_of(month) else number - 2
    return number


def _by_week(text: str) -> Callable[[date], bool]:
    if text == "L":
        return lambda day: _weekday(day) == 7
    if found := re.fullmatch(r"(\w+)#([1-5])", text):
        (wanted,), week = _numbers(found[1], 1, 7, _DAYS), int(found[2])
        return lambda day: _weekday(day) == wanted and (day.day - 1) // 7 == week - 1
    if found := re.fullmatch(r"([1-7]|[A-Z]{3})L", text):
        (wanted,) = _numbers(found[1], 1, 7, _DAYS)
        return lambda day: _weekday(day) == wanted and day.day > _last_of(day) - 7
    days = _numbers(text, 1, 7, _DAYS)
    return lambda day: _weekday(day) in days


@dataclass
class Dues:
    """When each of several things is due next, by their names. Used by one thread."""

    _next: dict[str, tuple[Timetable, datetime | None]] = field(default_factory=dict)

    def is_due(
        self, name: str, when: Timetable, now: datetime, first: Callable[[], datetime | None] | None = None
    ) -> bool:
        """Whether it is due, once for each time; one whose timetable is new starts at `first`, else counts from now.

        Times that went by while nobody asked count once.
        """
        known = self._next.get(name)
        if known is None or known[0] != when:
            known = when, first() if first else when.after(now)
        due = known[1]
        if due is None or due > now:
            self._next[name] = known
            return False
        kept_up = due + when.period * ((now - due) // when.period + 1) if isinstance(when, Rate) else when.after(now)
        self._next[name] = when, kept_up
        return True

    def keep(self, names: Iterable[str]) -> None:
        """Forget all others: what is gone, or disabled, starts anew."""
        kept = set(names)
        self._next = {name: known for name, known in self._next.items() if name in kept}

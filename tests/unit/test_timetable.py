"""Schedules are due when AWS says that they are."""

from datetime import UTC, datetime, timedelta

import pytest

from deploy_runner.local_aws.timetable import Dues, timetable


def times(expression: str, count: int = 2, zone: str = "UTC", start: str = "2026-01-01T00:00") -> list[str]:
    moment, found = datetime.fromisoformat(start).replace(tzinfo=UTC), []
    while len(found) < count and (following := timetable(expression, zone).after(moment)):
        found.append(following.strftime("%Y-%m-%dT%H:%M"))
        moment = following
    return found


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("rate(1 minute)", ["2026-01-01T00:01", "2026-01-01T00:02"]),
        ("rate(2 days)", ["2026-01-03T00:00", "2026-01-05T00:00"]),
        ("at(2026-03-04T05:06:07)", ["2026-03-04T05:06"]),
        ("at(2025-03-04T05:06:07)", []),
        ("cron(15 12 * * ? *)", ["2026-01-01T12:15", "2026-01-02T12:15"]),
        ("cron(1/10 * * * ? *)", ["2026-01-01T00:01", "2026-01-01T00:11"]),
        ("cron(0/5 8-17 ? * MON-FRI *)", ["2026-01-01T08:00", "2026-01-01T08:05"]),
        ("cron(0 18 ? * SAT,1 *)", ["2026-01-03T18:00", "2026-01-04T18:00"]),
        ("cron(0 8 1 FEB,mar ? *)", ["2026-02-01T08:00", "2026-03-01T08:00"]),
        ("cron(0 0 L 2 ? *)", ["2026-02-28T00:00", "2027-02-28T00:00"]),
        ("cron(0 0 3W * ? *)", ["2026-01-02T00:00", "2026-02-03T00:00"]),
        ("cron(0 0 ? * 3#2 *)", ["2026-01-13T00:00", "2026-02-10T00:00"]),
        ("cron(0 0 ? * FRIL *)", ["2026-01-30T00:00", "2026-02-27T00:00"]),
        ("cron(0 0 1 1 ? 2025,2030)", ["2030-01-01T00:00"]),
        ("cron(0 0 30 2 ? *)", []),
    ],
)
def test_when_an_expression_is_due(expression: str, expected: list[str]) -> None:
    assert times(expression) == expected


def test_an_hour_that_clocks_leave_out_is_skipped_and_one_that_comes_twice_counts_once() -> None:
    half_past_two, berlin = "cron(30 2 * * ? *)", "Europe/Berlin"
    assert times(half_past_two, 2, berlin, "2026-03-28T00:00") == ["2026-03-28T01:30", "2026-03-30T00:30"]
    assert times(half_past_two, 2, berlin, "2026-10-25T00:00") == ["2026-10-25T00:30", "2026-10-26T01:30"]
    assert times("at(2026-07-01T12:00:00)", 1, berlin) == ["2026-07-01T10:00"]


@pytest.mark.parametrize(
    ("expression", "zone"),
    [
        ("every minute", "UTC"), ("rate(0 minutes)", "UTC"), ("rate(5 weeks)", "UTC"), ("rate(-1 days)", "UTC"),
        ("at(tomorrow)", "UTC"), ("cron(* * * * *)", "UTC"), ("cron(* * * * * *)", "UTC"), ("cron(* * ? * ? *)", "UTC"),
        ("cron(60 * * * ? *)", "UTC"), ("cron(5-1 * * * ? *)", "UTC"), ("cron(*/0 * * * ? *)", "UTC"),
        ("cron(0 0 ? * 3#6 *)", "UTC"), ("cron(0 0 W * ? *)", "UTC"), ("rate(1 minute)", "Nowhere/Town"),
        ("rate(1 minute)", "../etc/passwd"),
    ],
)  # fmt: skip
def test_what_is_no_expression(expression: str, zone: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        timetable(expression, zone)


def test_each_time_counts_once_and_those_missed_together() -> None:
    dues, start, minute = Dues(), datetime(2026, 1, 1, tzinfo=UTC), timetable("rate(1 minute)")
    due = [dues.is_due("a", minute, start + timedelta(seconds=s)) for s in (0, 59, 60, 61, 119, 120, 500, 539, 540)]
    assert due == [False, False, True, False, False, True, True, False, True]
    assert dues.is_due("b", minute, start, first=lambda: start)

    dues.keep(["b"])
    assert not dues.is_due("a", minute, start + timedelta(seconds=900))  # it starts anew
    assert not dues.is_due("b", timetable("rate(2 minutes)"), start + timedelta(seconds=900))  # another timetable

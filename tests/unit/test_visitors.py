"""The demo's client counts every request, and calls nothing answered that was not."""

import threading

from deploy_runner.cli.visitors import AT_ONCE, Visitors
from tests.waiting import LONGEST, until


def asked_for(visitors: Visitors, count: int) -> None:
    until(lambda: visitors.answered + visitors.failed, lambda asked: asked >= count)


def test_it_asks_several_at_once_and_counts_answers_and_failures() -> None:
    together = threading.Barrier(AT_ONCE, timeout=LONGEST)  # passes only where as many ask at the same time
    asked: list[str] = []

    def fetch(url: str) -> None:
        together.wait()
        asked.append(url)
        if len(asked) % 4 == 0:
            raise ConnectionResetError("by peer")

    with Visitors("http://app", fetch) as visitors:
        asked_for(visitors, 3 * AT_ONCE)
        together.abort()  # those that are at it fail, and are counted

    assert visitors.answered + visitors.failed >= len(asked) >= 3 * AT_ONCE
    assert visitors.failures["ConnectionResetError: by peer"] == len(asked) // 4
    assert str(visitors).startswith(f"{visitors.answered} requests answered, {visitors.failed} failed (")


def test_where_nothing_failed_it_says_so() -> None:
    with Visitors("http://app", lambda url: None) as visitors:
        asked_for(visitors, 10)
    assert str(visitors) == f"{visitors.answered} requests answered, 0 failed"


def test_a_service_that_does_not_answer_is_a_failure() -> None:
    with Visitors("http://127.0.0.1:9/") as visitors:
        asked_for(visitors, AT_ONCE)
    assert visitors.answered == 0
    assert "refused" in str(visitors)

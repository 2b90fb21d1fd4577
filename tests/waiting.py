"""Waiting for what is on its way: how long it takes tells how busy the machine is, and nothing of what is tested."""

import time
from collections.abc import Callable
from typing import Any

LONGEST = 120.0  # seconds: many times what anything takes on a machine with nothing else to do


def until[T](
    read: Callable[[], T], good: Callable[[T], object] = bool, seconds: float = LONGEST, pause: float = 0.02
) -> T:
    """Return what was read as soon as it is good; fail with it where it never is."""
    deadline = time.monotonic() + seconds
    while not good(value := read()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {value!r}"
        time.sleep(pause)
    return value


def finished(states: Any, arn: str) -> dict[str, Any]:
    """Return what Step Functions says of an execution once it has ended."""
    return until(lambda: dict(states.describe_execution(executionArn=arn)), lambda said: said["status"] != "RUNNING")

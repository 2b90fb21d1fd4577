"""How many tasks a rolling update may start and stop now: minimumHealthyPercent and maximumPercent.

docs.aws.amazon.com/AmazonECS/latest/APIReference/API_DeploymentConfiguration.html
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Counts:
    """What there is: tasks of the new deployment, and of all older ones."""

    new: int
    new_healthy: int
    old: int
    old_healthy: int


@dataclass(frozen=True)
class Step:
    """What to do now."""

    start: int = 0
    stop_new: int = 0  # more than desired
    stop_old_idle: bool = False  # whether old tasks that are not healthy are free to go
    stop_old: int = 0  # healthy ones
    blocked: bool = False  # whether nothing can ever be done


def limits(desired: int, minimum_percent: int, maximum_percent: int) -> tuple[int, int]:
    """Return how many tasks must stay healthy (rounded up), and how many there may be (rounded down)."""
    return math.ceil(desired * minimum_percent / 100), math.floor(desired * maximum_percent / 100)


def step(desired: int, minimum_percent: int, maximum_percent: int, counts: Counts) -> Step:
    """Return the next step towards `desired` new tasks and no old one."""
    least, most = limits(desired, minimum_percent, maximum_percent)
    most = max(most, min(desired, 1))  # a service of one task with less than 100 percent would have none
    spare = max(counts.new_healthy + counts.old_healthy - least, 0)
    missing = desired - counts.new
    if missing < 0:
        return Step(stop_new=-missing)
    if missing == 0:
        # An old task is not needed any more for each new one that is healthy.
        surplus = counts.new_healthy + counts.old_healthy - desired if desired else counts.old_healthy
        return Step(stop_old_idle=True, stop_old=max(min(surplus, spare, counts.old_healthy), 0))
    start = max(min(missing, most - counts.new - counts.old), 0)
    if start == missing or not counts.old:
        return Step(start)
    stop_old = min(missing - start, spare, counts.old_healthy)
    idle = counts.old > counts.old_healthy
    on_their_way = counts.new > counts.new_healthy
    return Step(start, 0, idle, stop_old, blocked=not (start or stop_old or idle or on_their_way))

"""The longer report on a rollout that failed: for whoever has to mend it, kept with the history."""

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime

from deploy_runner.domain.errors import one_line
from deploy_runner.domain.rollout import (
    Failed,
    Observed,
    Rollout,
    ServiceDeployment,
    StoppedTask,
    kind_of,
    version,
    what_serves,
)

MAX_REPORT = 20_000  # characters; an item of the table has 400 KB


def failure_report(
    rollout: Rollout, seen: Observed, failed: Failed, stopped: Sequence[StoppedTask], log_lines: Sequence[str]
) -> str:
    """Return a page of plain text: stopped tasks by cause, the last log lines, the service's events, its rollouts.

    `log_lines` hold no secrets any more.
    """
    lines = [f"{rollout.service}: {version(rollout.task_definition)}: {failed.why}", what_serves(rollout, seen)]
    kinds = Counter(f"{task.container or 'task'}: {kind_of(task)}" for task in stopped)
    lines += _part("Stopped tasks", [f"{count} × {one_line(what, 300)}" for what, count in kinds.most_common()])
    lines += _part("Last log lines", [one_line(line, 500) for line in log_lines])
    lines += _part(
        "Events of the service", [f"{_time(at)}  {one_line(said, 300)}" for at, said in reversed(seen.events)]
    )
    rollouts = sorted(seen.service_deployments, key=lambda each: each.created_at)[-10:]
    lines += _part("Rollouts", [_rollout(each) for each in rollouts])
    return "\n".join(lines)[:MAX_REPORT] + "\n"


def _rollout(each: ServiceDeployment) -> str:
    what = f"{version(each.task_definition or '')}  {each.status}  {one_line(each.reason, 200)}"
    return f"{_time(each.created_at)}  {what}"


def _part(title: str, lines: Sequence[str]) -> list[str]:
    return ["", f"{title}:", *(f"  {line.rstrip()}" for line in lines)] if lines else []


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")

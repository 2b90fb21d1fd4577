"""How ECS detects that a rollout has failed: its circuit breaker counts tasks, and its alarms are CloudWatch's.

docs.aws.amazon.com/AmazonECS/latest/developerguide/deployment-failure-detection.html
"""

import math
from dataclasses import dataclass
from typing import Any

from moto.cloudwatch.models import cloudwatch_backends
from moto.ecs.exceptions import InvalidParameterException

LEAST, MOST = 3, 200
_LONGEST_BAKE_MINUTES = 5.0


@dataclass(frozen=True)
class Failure:
    """Why a rollout fails, in the words of each place that tells it."""

    said: str  # service event, after "deployment failed: "
    state_reason: str  # rolloutStateReason of the failed deployment
    told: str | None  # reason of the event SERVICE_DEPLOYMENT_FAILED; None: it is not sent
    because: str  # statusReason, after "Service deployment rolled back because "
    rolls_back: bool
    back_reason: str  # rolloutStateReason of the deployment that comes back; {} stands for its id


def threshold(desired: int, configuration: dict[str, Any] | None = None) -> int:
    """Return how many failed tasks trip the circuit breaker, with its `thresholdConfiguration`.

    docs.aws.amazon.com/AmazonECS/latest/developerguide/deployment-circuit-breaker.html: by default half the desired
    count, rounded up, but at least 3 and at most 200.
    """
    kind, value = "BOUNDED_PERCENT", 50
    if configuration:
        kind, value = configuration["type"], configuration["value"]
    if kind == "COUNT":
        return value
    failures = math.ceil(desired * value / 100)
    # A threshold of 0 tasks would be met before any task has failed.
    return max(failures, 1) if kind == "UNBOUNDED_PERCENT" else max(LEAST, min(MOST, failures))


class CircuitBreaker:
    """Counts the failed tasks of one rollout."""

    def __init__(self, configuration: dict[str, Any]) -> None:
        """Take a deploymentConfiguration."""
        self._settings = configuration.get("deploymentCircuitBreaker") or {}
        self._failures = 0
        self.status = "MONITORING" if self._settings.get("enable") else "DISABLED"

    def task_failed(self) -> None:
        """Count a task that did not start, did not stay, or was not healthy."""
        self._failures += 1

    def task_is_good(self) -> None:
        """Start again at 0 once a task is healthy, unless `resetOnHealthyTask` is false."""
        if self.status != "TRIGGERED" and self._settings.get("resetOnHealthyTask", True):
            self._failures = 0

    def failure(self, desired: int) -> Failure | None:
        """Return why the rollout fails, once the count is at the threshold for the latest desired count."""
        if self.status != "MONITORING" or self._failures < self._threshold(desired):
            return None
        self.status = "TRIGGERED"
        # The texts are those of real rollouts, as people quote them in issues and notes; the reason of the event is
        # that of the example in .../developerguide/ecs_service_deployment_events.html, which has "task" in singular.
        return Failure(
            "tasks failed to start.", "ECS deployment circuit breaker: tasks failed to start.",
            "ECS deployment circuit breaker: task failed to start.", "the circuit breaker threshold was exceeded.",
            bool(self._settings.get("rollback")), "ECS deployment circuit breaker: rolling back to deploymentId {}.",
        )  # fmt: skip

    def ends(self) -> None:
        """Count no more."""
        if self.status == "MONITORING":
            self.status = "MONITORING_COMPLETE"

    def describe(self, desired: int) -> dict[str, Any]:
        """Return it as DescribeServiceDeployments has it."""
        counts = self._failures if self.status != "DISABLED" else 0
        return {"status": self.status, "failureCount": counts, "threshold": self._threshold(desired)}

    def _threshold(self, desired: int) -> int:
        return threshold(desired, self._settings.get("thresholdConfiguration"))


class Alarms:
    """Watches the CloudWatch alarms of one rollout, until the end of its bake time.

    docs.aws.amazon.com/AmazonECS/latest/developerguide/deployment-alarm-failure.html. With an alarm that was in ALARM
    at the start ECS watches none of them, so that a rollout can mend what the last one broke.
    """

    def __init__(self, configuration: dict[str, Any], account: str, region: str) -> None:
        """Take a deploymentConfiguration."""
        self._settings = configuration.get("alarms") or {}
        self._account, self._region = account, region
        self.names: list[str] = self._settings.get("alarmNames") or []
        self.triggered: list[str] = []
        self.status = "MONITORING" if self._settings.get("enable") and not self._in_alarm() else "DISABLED"

    def failure(self) -> Failure | None:
        """Return why the rollout fails, once an alarm is in ALARM."""
        if self.status != "MONITORING":
            return None
        self.triggered = self._in_alarm()
        if not self.triggered:
            return None
        self.status = "TRIGGERED"
        # "deployment failed: alarm detected." is quoted from a real service; the others are not documented, and follow
        # those of the circuit breaker.
        return Failure(
            "alarm detected.", "ECS deployment failed: alarm detected.", "ECS deployment failed: alarm detected.",
            f"of alarm(s) in ALARM state: {', '.join(self.triggered)}.", bool(self._settings.get("rollback")),
            "ECS deployment alarm detected: rolling back to deploymentId {}.",
        )  # fmt: skip

    def bake_minutes(self) -> float:
        """Return how long to watch once all tasks run: ECS computes it from the alarms, and it is under five minutes.

        How it does is not documented; here it is the longest time that one of them looks back.
        """
        if self.status != "MONITORING":
            return 0.0
        seconds = [float(a.period or 60) * float(a.evaluation_periods or 1) for a in self._alarms()]
        return min(max(seconds, default=60.0) / 60, _LONGEST_BAKE_MINUTES)

    def ends(self) -> None:
        """Watch no more."""
        if self.status == "MONITORING":
            self.status = "MONITORING_COMPLETE"

    def describe(self) -> dict[str, Any]:
        """Return it as DescribeServiceDeployments has it."""
        described: dict[str, Any] = {"status": self.status}
        if self.names:
            described |= {"alarmNames": self.names, "triggeredAlarmNames": self.triggered}
        return described

    def _alarms(self) -> list[Any]:
        known = cloudwatch_backends[self._account][self._region].alarms
        return [known[name] for name in self.names if name in known]

    def _in_alarm(self) -> list[str]:
        return [alarm.name for alarm in self._alarms() if alarm.state_value == "ALARM"]


def check(configuration: dict[str, Any]) -> None:
    """Refuse what API_DeploymentConfiguration and API_ThresholdConfiguration rule out.

    Raises InvalidParameterException.
    """
    least, most = configuration["minimumHealthyPercent"], configuration["maximumPercent"]
    if least < 0 or most < 0:
        raise InvalidParameterException("maximumPercent and minimumHealthyPercent must not be negative.")
    if (least, most) == (100, 100):
        raise InvalidParameterException(
            "Both maximumPercent and minimumHealthyPercent cannot be 100 as this will block deployments."
        )
    if most < least or most == 0:
        raise InvalidParameterException("maximumPercent must be greater than minimumHealthyPercent.")
    limit = (configuration.get("deploymentCircuitBreaker") or {}).get("thresholdConfiguration")
    if limit and not 1 <= limit["value"] <= (math.inf if limit["type"] == "COUNT" else 100):
        raise InvalidParameterException(
            "The value of thresholdConfiguration must be between 1 and 100 for a percentage, and at least 1 for COUNT."
        )

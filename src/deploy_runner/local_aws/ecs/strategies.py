"""The strategies that shift traffic: BLUE_GREEN, LINEAR and CANARY, as a walk through their lifecycle stages.

docs.aws.amazon.com/AmazonECS/latest/developerguide/blue-green-deployment-how-it-works.html,
.../deployment-type-linear.html and .../canary-deployment.html. Green is the new deployment, blue the one that serves.
All minutes (bake times, time-outs of hooks) are `Backend.minute` seconds long.
"""

import time
from collections.abc import Iterator
from typing import Any

from moto.ecs.exceptions import InvalidParameterException

from deploy_runner.local_aws.ecs import hooks
from deploy_runner.local_aws.ecs.failure_detection import Failure
from deploy_runner.local_aws.ecs.rollouts import Deployment, ServiceDeployment

STRATEGIES = ("ROLLING", "BLUE_GREEN", "LINEAR", "CANARY")


def check(configuration: dict[str, Any], given: dict[str, Any], load_balancers: list[dict[str, Any]]) -> None:
    """Refuse what no strategy can be, where `given` was asked for and `configuration` would be the whole.

    API_DeploymentConfiguration. Raises InvalidParameterException.
    """
    strategy = configuration["strategy"]
    if strategy not in STRATEGIES:
        raise InvalidParameterException(f"Invalid strategy {strategy}. Valid values are: {', '.join(STRATEGIES)}")
    hooks.check(configuration.get("lifecycleHooks") or [])
    _between(configuration["bakeTimeInMinutes"], 0, 1440, "bakeTimeInMinutes")
    for name, of in (("canaryConfiguration", "CANARY"), ("linearConfiguration", "LINEAR")):
        if given.get(name) and strategy != of:
            raise InvalidParameterException(f"{name} is only valid when the deployment strategy is {of}.")
    canary, linear = _canary(configuration), _linear(configuration)
    _between(canary[0], 0.1, 100, "canaryPercent")
    _between(canary[1], 0, 1440, "canaryBakeTimeInMinutes")
    _between(linear[0], 3, 100, "stepPercent")
    _between(linear[1], 0, 1440, "stepBakeTimeInMinutes")
    if strategy != "ROLLING" and any(not balancer.get("advancedConfiguration") for balancer in load_balancers):
        raise InvalidParameterException(
            "advancedConfiguration field is required for all loadBalancers when using a non-ROLLING deployment strategy"
        )


def _between(value: float, least: float, most: float, name: str) -> None:
    if not least <= value <= most:
        raise InvalidParameterException(f"{name} must be between {least} and {most}, not {value}.")


def _canary(configuration: dict[str, Any]) -> tuple[float, float]:
    settings = configuration.get("canaryConfiguration") or {}
    return settings.get("canaryPercent", 5.0), settings.get("canaryBakeTimeInMinutes", 10)


def _linear(configuration: dict[str, Any]) -> tuple[float, float]:
    settings = configuration.get("linearConfiguration") or {}
    return settings.get("stepPercent", 10.0), settings.get("stepBakeTimeInMinutes", 6)


def shifts(configuration: dict[str, Any]) -> list[tuple[float, float]]:
    """Return the steps of the production traffic: percent for green, and minutes to wait then; the last is 100, 0."""
    if configuration["strategy"] == "CANARY":
        percent, minutes = _canary(configuration)
        return [(percent, minutes), (100.0, 0)] if percent < 100 else [(100.0, 0)]
    if configuration["strategy"] == "LINEAR":
        percent, minutes = _linear(configuration)
        count = int(-(-100 // percent))  # rounded up
        return [(round(percent * n, 1), minutes) for n in range(1, count)] + [(100.0, 0)]
    return [(100.0, 0)]


class _Failed(Exception):
    """The rollout has to go back; the text is what follows "because"."""


class Shift:
    """One rollout on its way through the stages; `step` is called by the scheduler, with the service's lock held."""

    def __init__(self, service: Any, rollout: ServiceDeployment) -> None:
        """Start with all production traffic on blue, if there is one."""
        self._service, self._rollout, self._green = service, rollout, rollout.target
        self._others: list[Deployment] = [d for d in service.deployments if d is not self._green]
        completed = service.completed
        self._blue: Deployment | None = completed if completed in self._others else next(iter(self._others), None)
        self._shifted: list[str] = []  # stages that a rollback has to take back
        self._test(0, 0)
        self._produce(0)
        self._walk = self._there()

    def step(self) -> None:
        """Go on until something has to be waited for."""
        try:
            next(self._walk, None)
        except _Failed as failed:
            because = str(failed)
            breaker = (self._rollout.configuration.get("deploymentCircuitBreaker") or {}).get("enable")
            text = f"Service deployment rolled back because {because}"
            self._service.fail(
                self._rollout,
                Failure(text, text, text if breaker else None, because, True, "ECS deployment {} in progress."),
            )

    def goes_back(self) -> None:
        """Take the way back: the rollout has failed, or someone stopped it."""
        self._rollout.hooks = []
        self._walk = self._back()

    # --- the way there ----------------------------------------------------------------------------------------------

    def _there(self) -> Iterator[None]:
        service, green = self._service, self._green
        if sum(bool(d.alive()) for d in self._others) > 1:
            # An earlier rollout was on its way: of what it left only blue is kept.
            yield from self._stage("RECONCILE_SERVICE")
            for other in self._others:
                other.desired = other.desired if other is self._blue else 0
        yield from self._stage("PRE_SCALE_UP")
        self._rollout.lifecycle_stage = "SCALE_UP"
        while not service.serves(green, service.desired_count):
            green.desired = service.desired_count
            yield
        yield from self._stage("POST_SCALE_UP")
        self._test(100, 0)
        self._shifted.append("TEST_TRAFFIC_SHIFT")
        yield from self._stage("TEST_TRAFFIC_SHIFT")
        yield from self._stage("POST_TEST_TRAFFIC_SHIFT")
        for percent, minutes in shifts(self._rollout.configuration):
            yield from self._stage("PRE_PRODUCTION_TRAFFIC_SHIFT")
            self._produce(percent)
            self._shifted.append("PRODUCTION_TRAFFIC_SHIFT")
            yield from self._stage("PRODUCTION_TRAFFIC_SHIFT")
            yield from self._wait(minutes)
        yield from self._stage("POST_PRODUCTION_TRAFFIC_SHIFT")
        self._rollout.lifecycle_stage = "BAKE_TIME"
        yield from self._wait(
            max(self._rollout.configuration["bakeTimeInMinutes"], self._rollout.alarms.bake_minutes())
        )
        yield from self._clean_up(green, self._others)

    # --- and the way back -------------------------------------------------------------------------------------------

    def _back(self) -> Iterator[None]:
        """Give blue its traffic back; hooks of these two stages are asked again: "Lifecycle hooks during rollback"."""
        service, back = self._service, self._rollout.back
        assert back is not None
        if "PRODUCTION_TRAFFIC_SHIFT" in self._shifted:
            self._produce(0)
            yield from self._stage("PRODUCTION_TRAFFIC_SHIFT")
        if "TEST_TRAFFIC_SHIFT" in self._shifted:
            self._test(0, 100)
            yield from self._stage("TEST_TRAFFIC_SHIFT")
        while not service.serves(back, service.desired_count):
            back.desired = service.desired_count
            yield
        yield from self._clean_up(back, [d for d in service.deployments if d is not back])

    def _clean_up(self, keeps: Deployment, others: list[Deployment]) -> Iterator[None]:
        self._rollout.lifecycle_stage = "CLEAN_UP"
        keeps.weight = 100.0
        for other in others:
            other.desired, other.weight = 0, 0.0
        while any(other.alive() for other in others) or not self._service.serves(keeps, self._service.desired_count):
            keeps.desired = self._service.desired_count
            yield
        self._service.complete(self._rollout)

    # --- what both are made of --------------------------------------------------------------------------------------

    def _stage(self, name: str) -> Iterator[None]:
        """Be at a stage, until all of its hooks say that it may go on; they run side by side."""
        self._rollout.lifecycle_stage = name
        settings = [
            hook for hook in self._rollout.configuration.get("lifecycleHooks") or [] if name in hook["lifecycleStages"]
        ]
        self._rollout.hooks = [hooks.Hook(self._service, hook, self._payload(name)) for hook in settings]
        yield  # so that others see the stage
        while True:
            for hook in self._rollout.hooks:
                hook.step()
            failed = next((hook for hook in self._rollout.hooks if hook.failed), None)
            if failed:
                raise _Failed(f"{name} {failed.why}")
            if all(hook.over for hook in self._rollout.hooks):
                return
            yield

    def _wait(self, minutes: float) -> Iterator[None]:
        until = time.monotonic() + minutes * self._service.minute
        while time.monotonic() < until:
            yield

    def _payload(self, stage: str) -> dict[str, Any]:
        """Return what a hook's function is told; weights are told at the stage that shifts them alone."""
        test = {d.revision.arn: d.test_weight for d in self._both()} if stage == "TEST_TRAFFIC_SHIFT" else {}
        shifting = ("PRE_PRODUCTION_TRAFFIC_SHIFT", "PRODUCTION_TRAFFIC_SHIFT")
        production = {d.revision.arn: d.weight for d in self._both()} if stage in shifting else {}
        return {
            "lifecycleStage": stage, "resourceArn": self._rollout.arn,
            "executionDetails": {
                "serviceArn": self._service.arn, "targetServiceRevisionArn": self._green.revision.arn,
                "testTrafficWeights": test, "productionTrafficWeights": production,
            },
        }  # fmt: skip

    def _both(self) -> list[Deployment]:
        return [d for d in (self._green, self._blue) if d]

    def _produce(self, percent: float) -> None:
        """Give green so much of the production traffic, and blue the rest."""
        for other in self._others:
            other.weight = 0.0
        self._green.weight = percent
        if self._blue:
            self._blue.weight = round(100.0 - percent, 1)

    def _test(self, green: float, blue: float) -> None:
        for other in self._others:
            other.test_weight = 0.0
        self._green.test_weight = green
        if self._blue:
            self._blue.test_weight = blue

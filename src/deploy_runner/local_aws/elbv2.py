"""Elastic Load Balancing that looks: targets by address are really asked, as the target group's health check says.

moto 5.2.5 calls each registered target healthy: it is a mock by design, and no issue upstream asks for more. Who sends
requests to the targets is the service's balancer: ecs/balancer.py.

docs.aws.amazon.com/elasticloadbalancing/latest/application/target-group-health-checks.html
docs.aws.amazon.com/elasticloadbalancing/latest/APIReference/API_TargetHealth.html
"""

import contextlib
import http.client
import socket
import ssl
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from moto.elbv2.exceptions import InvalidTargetError, TargetGroupNotFoundError
from moto.elbv2.models import ELBv2Backend, FakeHealthStatus, FakeTargetGroup, elbv2_backends

from deploy_runner.local_aws.machine import Machine

_FIRST_SECONDS = 0.3  # between looks until a target is healthy for the first time; a load balancer waits an interval
_Found = tuple[str, str | None, str | None]  # state, reason and description
_Reach = Callable[[int], tuple[str, int] | None]  # where this machine reaches a port of the target


class Target:
    """A registered target by address: what DescribeTargetHealth says of it is what its health check found."""

    def __init__(self, group: Any, address: str, port: int, reach: _Reach) -> None:
        self.group, self.address, self.port, self._reach = group, address, port, reach
        self.state: str
        self.reason: str | None
        self.description: str | None
        self.state, self.reason, self.description = _INITIAL
        self.gone_at = float("inf")  # monotonic; known once it drains
        self._over = threading.Event()
        self._lock = threading.Lock()
        threading.Thread(target=self._check, name=f"check {address}", daemon=True).start()

    @property
    def deregistration_delay(self) -> float:
        """How many seconds what it has begun may take."""
        return float(self.group.attributes["deregistration_delay.timeout_seconds"])

    def drain(self) -> None:
        """Deregister it; it is gone after the deregistration delay, or when `end` is called."""
        with self._lock:
            self._over.set()
            self.state, self.reason, self.description = _DRAINING
            self.gone_at = time.monotonic() + self.deregistration_delay

    def end(self) -> None:
        """Have it gone now."""
        self._over.set()
        self.gone_at = 0.0

    def health(self, in_use: bool) -> Any:
        """Return what DescribeTargetHealth says."""
        port = self.group.health_check_port
        health_port = str(self.port) if port == "traffic-port" else port
        found = (self.state, self.reason, self.description) if in_use else _NOT_IN_USE
        return FakeHealthStatus(self.address, self.port, health_port, *found)

    def _check(self) -> None:
        """Look until it is deregistered. The first success makes it healthy, as there; see _FIRST_SECONDS.

        It is never called unhealthy sooner than a load balancer would: failures count once an interval.
        """
        group, passed, failed, pause = self.group, 0, 0, 0.0
        counts_at = time.monotonic() + float(group.health_check_interval_seconds)
        while not self._over.wait(pause):
            problem = _problem(group, self.port, self._reach) if group.health_check_enabled else None
            interval = float(group.health_check_interval_seconds)
            found: _Found | None = None
            if problem is None:
                passed, failed, counts_at = passed + 1, 0, 0.0
                if self.state == "initial" or passed >= int(group.healthy_threshold_count):
                    found = _HEALTHY
            elif time.monotonic() >= counts_at:
                passed, failed, counts_at = 0, failed + 1, time.monotonic() + interval
                if failed >= int(group.unhealthy_threshold_count):
                    found = ("unhealthy", *problem)
            if self.state == "initial" and found is None:
                found = _FIRST_CHECKS
            with self._lock:
                if found and not self._over.is_set():
                    self.state, self.reason, self.description = found
            pause = min(_FIRST_SECONDS, interval) if self.state == "initial" else interval


# State, reason and description: API_TargetHealth; the descriptions are those that the console and the CLI show.
_INITIAL = ("initial", "Elb.RegistrationInProgress", "Target registration is in progress")
_FIRST_CHECKS = ("initial", "Elb.InitialHealthChecking", "Initial health checks in progress")
_HEALTHY = ("healthy", None, None)
_DRAINING = ("draining", "Target.DeregistrationInProgress", "Target deregistration is in progress")
_NOT_IN_USE = (
    "unused", "Target.NotInUse", "Target group is not configured to receive traffic from the load balancer",
)  # fmt: skip
_NOT_REGISTERED = ("unused", "Target.NotRegistered", "Target is not registered to the target group")

_targets: dict[str, dict[tuple[str, int], Target]] = {}  # by the group's ARN


def install(machine: Machine) -> None:
    """Have targets by address looked at."""
    original = FakeTargetGroup.register, FakeTargetGroup.deregister, ELBv2Backend.describe_target_health

    def register_targets(group: Any, targets: list[dict[str, Any]]) -> None:
        if group.target_type != "ip":
            original[0](group, targets)
            return
        for target in targets:
            register(group, target["Id"], int(target.get("Port") or group.port), partial(_address, target["Id"]))

    def deregister_targets(group: Any, targets: list[dict[str, Any]]) -> None:
        if group.target_type != "ip":
            original[1](group, targets)
            return
        for target in targets:
            known = [t for t in _known(group) if _is(t, target)]
            if not known:
                raise InvalidTargetError()
            for found in known:
                found.drain()

    def describe_target_health(backend: Any, arn: str, targets: list[dict[str, Any]]) -> list[Any]:
        group = backend.target_groups.get(arn)
        if group is None:
            raise TargetGroupNotFoundError()
        if group.target_type != "ip":
            return list(original[2](backend, arn, targets))
        in_use = backend._any_listener_using(arn)
        known = _known(group)
        if not targets:
            return [target.health(in_use) for target in known]
        found = []
        for asked in targets:
            unknown = FakeHealthStatus(asked["Id"], asked.get("Port") or group.port, None, *_NOT_REGISTERED)
            found.append(next((t.health(in_use) for t in known if _is(t, asked)), unknown))
        return found

    def close() -> None:
        for targets in list(_targets.values()):
            for target in list(targets.values()):
                target.end()
        _targets.clear()

    _targets.clear()
    FakeTargetGroup.register = register_targets
    FakeTargetGroup.deregister = deregister_targets
    ELBv2Backend.describe_target_health = describe_target_health
    machine.on_stop("target groups", close)


def register(group: Any, address: str, port: int, reach: _Reach) -> Target:
    """Register a target by address with a target group of moto's, and begin to look at it."""
    target = Target(group, address, port, reach)
    before = _targets.setdefault(group.arn, {}).pop((address, port), None)
    if before:
        before.end()
    _targets[group.arn][address, port] = target
    return target


def find_group(arn: str) -> tuple[Any, bool]:
    """Return a target group of moto's, or None, and whether a load balancer uses it."""
    parts = arn.split(":")
    if len(parts) != 6:
        return None, False
    backend = elbv2_backends[parts[4]][parts[3]]
    group = backend.target_groups.get(arn)
    return group, group is not None and bool(backend._any_listener_using(arn))


def _known(group: Any) -> list[Target]:
    targets = _targets.setdefault(group.arn, {})
    for key in [key for key, target in list(targets.items()) if target.gone_at <= time.monotonic()]:
        targets.pop(key, None)  # schedulers register, and others ask, at the same time
    return list(targets.values())


def _address(host: str, port: int) -> tuple[str, int]:
    return host, port


def _is(target: Target, asked: dict[str, Any]) -> bool:
    return target.address == asked["Id"] and target.port == int(asked.get("Port") or target.port)


def _problem(group: Any, traffic_port: int, reach: _Reach) -> tuple[str, str] | None:
    """Return what a look at a target finds wrong, as reason and description, or None."""
    port, seconds = group.health_check_port, float(group.health_check_timeout_seconds)
    address = reach(traffic_port if port == "traffic-port" else int(port))
    failed = ("Target.FailedHealthChecks", "Health checks failed")
    if address is None:
        return failed
    try:
        if group.health_check_protocol not in ("HTTP", "HTTPS"):
            socket.create_connection(address, seconds).close()
            return None
        status = _status(group.health_check_protocol, address, group.health_check_path or "/", seconds)
    except TimeoutError:
        return "Target.Timeout", "Request timed out"
    except (OSError, http.client.HTTPException):
        return failed
    if _matches(status, (getattr(group, "matcher", None) or {}).get("HttpCode") or "200"):
        return None
    return "Target.ResponseCodeMismatch", f"Health checks failed with these codes: [{status}]"


def _status(protocol: str, address: tuple[str, int], path: str, seconds: float) -> int:
    connection: http.client.HTTPConnection
    if protocol == "HTTPS":
        trusting = ssl.create_default_context()  # a load balancer does not look at the target's certificate either
        trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
        connection = http.client.HTTPSConnection(*address, timeout=seconds, context=trusting)
    else:
        connection = http.client.HTTPConnection(*address, timeout=seconds)
    with contextlib.closing(connection):
        connection.request("GET", path, headers={"User-Agent": "ELB-HealthChecker/2.0", "Connection": "close"})
        return connection.getresponse().status


def _matches(status: int, codes: str) -> bool:
    """Tell whether a status is among codes as `200,202` or `200-299`: API_Matcher."""
    for code in codes.split(","):
        first, _, last = code.partition("-")
        if int(first) <= status <= int(last or first):
            return True
    return False

"""A service's load balancer: no request is dropped by any rollout, and a target group's health check decides."""

import fcntl
import http.client
import json
import os
import signal
import socket
import struct
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest

from deploy_runner.local_aws.ecs.targets import weights
from deploy_runner.local_aws.machine import ACCOUNT_ID
from tests.local_aws.ecs_running import Ecs, container
from tests.waiting import until

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("local_aws_in_process")]


def web(page: str, before: str = "true", **more: Any) -> dict[str, Any]:
    """A server with a page, one that takes two seconds, and one that takes a minute."""
    slow = "; ".join(
        f"printf '#!/bin/sh\\nsleep {seconds}; echo; echo {page}\\n' > /www/cgi-bin/{name}"
        for name, seconds in (("slow", 2), ("slowest", 60))
    )
    script = f"mkdir -p /www/cgi-bin; {slow}; chmod +x /www/cgi-bin/*; echo {page} > /www/index.html; {before}"
    return container(
        "web", f"trap 'exit 0' TERM; {script}; httpd -f -p 8080 -h /www & wait",
        portMappings=[{"containerPort": 8080}], **more,
    )  # fmt: skip


def crashing() -> dict[str, Any]:
    return container("web", "exit 1", portMappings=[{"containerPort": 8080}])


class Visits:
    """What a client that asks all the time got."""

    def __init__(self, url: str) -> None:
        self.seen: Counter[str] = Counter()
        self.slowest = 0.0
        self._url, self._over = url, threading.Event()
        self._threads = [threading.Thread(target=visit) for visit in (self._plain, self._kept_alive, self._slow)]

    def ask(self, answer: Any) -> None:
        began = time.monotonic()
        try:
            page = answer()
        except (OSError, http.client.HTTPException) as error:
            page = f"dropped: {error!r}"
        self.seen[page] += 1
        self.slowest = max(self.slowest, time.monotonic() - began)

    def get(self, path: str) -> str:
        with urllib.request.urlopen(self._url + path, timeout=10) as answer:
            return str(answer.read().decode().strip())

    def _plain(self) -> None:
        while not self._over.is_set():
            self.ask(lambda: self.get("/"))

    def _kept_alive(self) -> None:
        connection = http.client.HTTPConnection(urlsplit(self._url).netloc, timeout=10)
        connection.connect()
        first = connection.sock

        def again() -> str:
            assert connection.sock is first, "the client's connection was closed"
            connection.request("GET", "/")
            answer = connection.getresponse()
            return str(answer.read().decode().strip()) if answer.status == 200 else f"dropped: {answer.status}"

        while not self._over.is_set():
            self.ask(again)
        connection.close()

    def _slow(self) -> None:
        while not self._over.is_set():
            self.ask(lambda: self.get("/cgi-bin/slow"))

    @property
    def dropped(self) -> dict[str, int]:
        return {page: count for page, count in self.seen.items() if page.startswith("dropped")}


@contextmanager
def visiting(url: str) -> Iterator[Visits]:
    visits = Visits(url)
    for thread in visits._threads:
        thread.start()
    try:
        yield visits
    finally:
        visits._over.set()
        for thread in visits._threads:
            thread.join()


def rolled_out(ecs: Ecs, name: str, definition: str) -> str:
    ecs.api.update_service(cluster="tests", service=name, taskDefinition=definition)
    return str(ecs.rolled_out(name)["status"])


def url(ecs: Ecs, name: str) -> str:
    return str(until(lambda: ecs.machine.service_urls.get((ACCOUNT_ID, "tests", name)), bool))


def test_twenty_rollouts_good_and_bad_drop_no_request(ecs: Ecs) -> None:
    check = {"command": ["CMD-SHELL", "wget -qO- http://127.0.0.1:8080/"], "interval": 5}
    good = [ecs.register("many", web(page, healthCheck=check)) for page in ("one", "two")]
    bad = ecs.register("many", crashing())
    ecs.serve("many", good[0], 2)
    assert ecs.rolled_out("many")["status"] == "SUCCESSFUL"

    next_good = cycle(reversed(good))
    with visiting(url(ecs, "many")) as visits:
        ended = [rolled_out(ecs, "many", bad if i % 4 == 3 else next(next_good)) for i in range(20)]

    assert Counter(ended) == {"SUCCESSFUL": 15, "ROLLBACK_SUCCESSFUL": 5}
    assert visits.dropped == {}
    assert visits.seen["one"] > 100
    assert visits.seen["two"] > 100


def test_the_bridge_keeps_its_address_as_containers_come_and_go(ecs: Ecs) -> None:
    bridge = ecs.machine.engine.bridge
    if bridge is None:
        pytest.skip("Docker sees to it itself")

    def address() -> bytes:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            return fcntl.ioctl(control, 0x8927, struct.pack("40s", bridge.encode()))[18:24]  # SIOCGIFHWADDR

    stays = ecs.start(ecs.register("stays", container("main", "trap 'exit 0' TERM; sleep 100 & wait")))
    until(lambda: ecs.task(stays), lambda task: task["lastStatus"] == "RUNNING")
    before = address()

    # Each has a port with an address of its own, the lowest of which a bridge takes by itself.
    others = [ecs.start(ecs.register("goes", container("main", "sleep 1"))) for _ in range(8)]
    until(lambda: [ecs.task(arn)["lastStatus"] for arn in others], lambda seen: "RUNNING" in seen)
    assert address() == before
    for arn in others:
        ecs.ended(arn)
        assert address() == before
    ecs.api.stop_task(cluster="tests", task=stays)


def test_a_task_that_somebody_stops_drains_too(ecs: Ecs) -> None:
    ecs.serve("somebody", ecs.register("somebody", web("page")), 2)
    assert ecs.rolled_out("somebody")["status"] == "SUCCESSFUL"

    with visiting(url(ecs, "somebody")) as visits:
        task, _ = ecs.api.list_tasks(cluster="tests", serviceName="somebody")["taskArns"]
        ecs.api.stop_task(cluster="tests", task=task)
        ecs.ended(task)

    assert visits.dropped == {}
    assert visits.seen.keys() == {"page"}


def test_a_service_without_tasks_answers_503_at_the_address_that_it_keeps(ecs: Ecs) -> None:
    ecs.serve("zero", ecs.register("zero", web("there")), 1)
    assert ecs.rolled_out("zero")["status"] == "SUCCESSFUL"
    address = url(ecs, "zero")
    assert ecs.page("zero") == "there"

    ecs.api.update_service(cluster="tests", service="zero", desiredCount=0)
    until(lambda: ecs.service("zero"), lambda service: service["runningCount"] == 0)

    until(lambda: status(address), lambda code: code == 503)

    # AND it is back once a task is
    ecs.api.update_service(cluster="tests", service="zero", desiredCount=1)
    until(lambda: status(address), lambda code: code == 200)
    assert url(ecs, "zero") == address

    # AND it is gone with its service
    ecs.api.delete_service(cluster="tests", service="zero", force=True)
    until(lambda: ecs.service("zero"), lambda service: service["status"] == "INACTIVE")
    assert (ACCOUNT_ID, "tests", "zero") not in ecs.machine.service_urls
    until(lambda: status(address), lambda code: code == 0)


def status(address: str) -> int:
    """The status of an answer; 0 where nothing listens."""
    try:
        with urllib.request.urlopen(address, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def test_a_balancer_that_is_killed_comes_back_at_the_same_address(ecs: Ecs) -> None:
    ecs.serve("killed", ecs.register("killed", web("there")), 1)
    assert ecs.rolled_out("killed")["status"] == "SUCCESSFUL"
    address = url(ecs, "killed")
    (pid,) = [pid for pid, line in processes() if line.startswith("haproxy ") and f"-{urlsplit(address).port}." in line]

    os.kill(pid, signal.SIGKILL)

    until(lambda: status(address), lambda code: code == 200)


def processes() -> list[tuple[int, str]]:
    lines = subprocess.run(["ps", "-ewwo", "pid,args"], capture_output=True, text=True, check=True).stdout.splitlines()
    return [(int(pid), line) for pid, _, line in (line.strip().partition(" ") for line in lines[1:])]


# --- target groups ----------------------------------------------------------------------------------------------------


class Group:
    """A target group."""

    def __init__(self, ecs: Ecs, name: str, *, used: bool = True, **settings: Any) -> None:
        self.elb = ecs.client("elbv2")
        ec2 = ecs.client("ec2")
        vpc = ec2.describe_vpcs()["Vpcs"][0]["VpcId"]
        settings = {"Protocol": "HTTP", "Port": 80, "VpcId": vpc, "TargetType": "ip"} | settings
        self.arn: str = self.elb.create_target_group(Name=name, **settings)["TargetGroups"][0]["TargetGroupArn"]
        if used:
            subnets = [subnet["SubnetId"] for subnet in ec2.describe_subnets()["Subnets"][:2]]
            balancer = self.elb.create_load_balancer(Name=name, Subnets=subnets)["LoadBalancers"][0]["LoadBalancerArn"]
            forward = [{"Type": "forward", "TargetGroupArn": self.arn}]
            self.elb.create_listener(LoadBalancerArn=balancer, Protocol="HTTP", Port=80, DefaultActions=forward)

    def health(self, *targets: Any) -> list[tuple[str, int, str, str | None, str | None]]:
        said = self.elb.describe_target_health(TargetGroupArn=self.arn, Targets=list(targets))
        return [
            (
                d["Target"]["Id"], d["Target"]["Port"], d["TargetHealth"]["State"], d["TargetHealth"].get("Reason"),
                d["TargetHealth"].get("Description"),
            )
            for d in said["TargetHealthDescriptions"]
        ]  # fmt: skip


def create(ecs: Ecs, name: str, definition: str, group: Group, count: int = 1, port: int = 8080, **more: Any) -> None:
    ecs.api.create_service(
        cluster="tests", serviceName=name, taskDefinition=definition, desiredCount=count, launchType="FARGATE",
        networkConfiguration=ecs.network,
        loadBalancers=[{"targetGroupArn": group.arn, "containerName": "web", "containerPort": port}],
        deploymentConfiguration={"deploymentCircuitBreaker": {"enable": True, "rollback": True}}, **more,
    )  # fmt: skip


def said(ecs: Ecs, name: str) -> list[str]:
    return [event["message"] for event in reversed(ecs.service(name)["events"])]


def test_a_target_group_tells_the_truth_and_its_failing_check_rolls_back(ecs: Ecs) -> None:
    group = Group(
        ecs, "truth", HealthCheckPath="/ready", HealthCheckIntervalSeconds=5, HealthCheckTimeoutSeconds=2,
        Matcher={"HttpCode": "200-204"},
    )  # fmt: skip
    ready = "echo ok > /www/ready"
    good = ecs.register("truth", web("good", ready))
    # What answers but is not ready is no better than what does not answer.
    sick = ecs.register("truth", web("sick", "mkdir /www/ready; printf 'A:*\\n/ready:a:b\\n' > /etc/httpd.conf"))
    create(ecs, "truth", good, group, 3)
    assert ecs.rolled_out("truth")["status"] == "SUCCESSFUL"
    arns = ecs.api.list_tasks(cluster="tests", serviceName="truth")["taskArns"]
    addresses = {ecs.task(arn)["containers"][0]["networkInterfaces"][0]["privateIpv4Address"] for arn in arns}
    assert set(group.health()) == {(address, 8080, "healthy", None, None) for address in addresses}
    registered = [line.split() for line in said(ecs, "truth") if f" targets in (target-group {group.arn})" in line]
    assert sum(int(words[3]) for words in registered if words[2] == "registered") == 3

    with visiting(url(ecs, "truth")) as visits:
        ecs.api.update_service(cluster="tests", service="truth", taskDefinition=sick)
        until(group.health, lambda seen: {t[2:4] for t in seen} >= {("initial", "Elb.InitialHealthChecking")})
        rollout = ecs.rolled_out("truth")

    assert rollout["status"] == "ROLLBACK_SUCCESSFUL"
    assert "circuit breaker" in rollout["statusReason"]
    assert visits.dropped == {}
    assert visits.seen["sick"] == 0
    stopped = ecs.api.list_tasks(cluster="tests", serviceName="truth", desiredStatus="STOPPED")["taskArns"]
    failed = f"Task failed ELB health checks in (target-group {group.arn})"
    until(lambda: [ecs.task(arn).get("stoppedReason") for arn in stopped], lambda reasons: reasons.count(failed) >= 3)
    unhealthy = [line for line in said(ecs, "truth") if "is unhealthy in" in line]
    assert unhealthy[0].endswith(
        f"(port 8080) is unhealthy in (target-group {group.arn}) "
        "due to (reason Health checks failed with these codes: [401])"
    )
    until(group.health, lambda seen: set(seen) == {(address, 8080, "healthy", None, None) for address in addresses})


def test_a_target_drains_before_its_task_is_stopped_but_no_longer_than_the_deregistration_delay(ecs: Ecs) -> None:
    group = Group(ecs, "draining", HealthCheckPath="/")
    delay = [{"Key": "deregistration_delay.timeout_seconds", "Value": "4"}]
    group.elb.modify_target_group_attributes(TargetGroupArn=group.arn, Attributes=delay)
    create(ecs, "draining", ecs.register("draining", web("drained")), group)
    assert ecs.rolled_out("draining")["status"] == "SUCCESSFUL"
    address = url(ecs, "draining")
    (task,) = ecs.api.list_tasks(cluster="tests", serviceName="draining")["taskArns"]
    answers: list[str] = []

    def ask(path: str) -> None:
        try:
            with urllib.request.urlopen(address + path, timeout=20) as answer:
                answers.append(answer.read().decode().strip())
        except OSError as error:
            answers.append(str(error))

    asking = [threading.Thread(target=ask, args=(path,)) for path in ("/cgi-bin/slow", "/cgi-bin/slowest")]
    for thread in asking:
        thread.start()
    time.sleep(0.5)  # both are on their way
    ecs.api.update_service(cluster="tests", service="draining", desiredCount=0)

    draining = until(group.health, lambda seen: seen and seen[0][2] == "draining")
    assert draining[0][3:] == ("Target.DeregistrationInProgress", "Target deregistration is in progress")
    assert ecs.task(task)["lastStatus"] in ("RUNNING", "DEACTIVATING")
    for thread in asking:
        thread.join()

    # THEN what ends in time is answered, and what takes longer is cut
    assert answers[0] == "drained"
    assert "502" in answers[1]
    until(group.health, lambda seen: seen == [])
    lines = said(ecs, "draining")
    assert f"(service draining) deregistered 1 targets in (target-group {group.arn})" in lines
    assert "(service draining) has begun draining connections on 1 tasks." in lines
    gone = group.health({"Id": draining[0][0], "Port": 8080})
    assert gone[0][2:4] == ("unused", "Target.NotRegistered")


def test_a_task_has_the_grace_period_to_become_healthy(ecs: Ecs) -> None:
    group = Group(ecs, "grace", HealthCheckIntervalSeconds=5, HealthCheckTimeoutSeconds=2)
    late = ecs.register("grace", web("late", "sleep 60 & wait"))
    create(ecs, "grace", late, group, healthCheckGracePeriodSeconds=60)

    unhealthy = until(group.health, lambda seen: seen and seen[0][2] == "unhealthy")
    assert unhealthy[0][3:] == ("Target.FailedHealthChecks", "Health checks failed")
    until(lambda: said(ecs, "grace"), lambda lines: any("is unhealthy in" in line for line in lines))
    (task,) = ecs.api.list_tasks(cluster="tests", serviceName="grace")["taskArns"]
    assert ecs.task(task)["desiredStatus"] == "RUNNING"

    # AND without it the task is stopped
    ecs.api.update_service(cluster="tests", service="grace", healthCheckGracePeriodSeconds=0)
    stopped = f"Task failed ELB health checks in (target-group {group.arn})"
    until(lambda: ecs.task(task), lambda seen: seen.get("stoppedReason") == stopped)
    ecs.api.delete_service(cluster="tests", service="grace", force=True)


def test_what_ecs_refuses_of_a_load_balancer(ecs: Ecs) -> None:
    definition = ecs.register("refused", web("never"))
    refused = ecs.api.exceptions.InvalidParameterException
    unused, instances = Group(ecs, "unused", used=False), Group(ecs, "instances", TargetType="instance")
    used = Group(ecs, "used")

    with pytest.raises(refused, match=f"with targetGroupArn {unused.arn} does not have an associated load balancer"):
        create(ecs, "refused", definition, unused)
    with pytest.raises(refused, match="target type instance, which is incompatible with the awsvpc network mode"):
        create(ecs, "refused", definition, instances)
    with pytest.raises(refused, match="The container web did not have a container port 81 defined"):
        create(ecs, "refused", definition, used, port=81)
    with pytest.raises(refused, match="The container web does not exist in the task definition"):
        create(ecs, "refused", ecs.register("other", container("other", "true")), used)
    used.arn = used.arn[:-1] + "x"
    with pytest.raises(refused, match="Unable to assume role and validate the specified targetGroupArn"):
        create(ecs, "refused", definition, used)


def test_a_template_has_target_group_load_balancer_listener_and_service(ecs: Ecs) -> None:
    vpc = ecs.client("ec2").describe_vpcs()["Vpcs"][0]["VpcId"]
    subnets = [subnet["SubnetId"] for subnet in ecs.client("ec2").describe_subnets()["Subnets"][:2]]
    elb = "AWS::ElasticLoadBalancingV2::"
    group = {
        "VpcId": vpc, "Protocol": "HTTP", "Port": "8080", "TargetType": "ip", "HealthCheckIntervalSeconds": "10",
        "TargetGroupAttributes": [{"Key": "deregistration_delay.timeout_seconds", "Value": "7"}],
    }  # fmt: skip
    forward = {"Type": "forward", "ForwardConfig": {"TargetGroups": [{"TargetGroupArn": {"Ref": "Group"}}]}}
    service = {
        "Cluster": "tests", "ServiceName": "formed", "TaskDefinition": ecs.register("formed", web("formed")),
        "LaunchType": "FARGATE", "DesiredCount": 1, "HealthCheckGracePeriodSeconds": "60",
        "NetworkConfiguration": {"AwsvpcConfiguration": {"Subnets": [ecs.subnet]}},
        "LoadBalancers": [
            {"TargetGroupArn": {"Ref": "Group"}, "ContainerName": "web", "ContainerPort": "8080"}
        ],
    }  # fmt: skip
    resources = {
        "Group": {"Type": f"{elb}TargetGroup", "Properties": group},
        "Balancer": {"Type": f"{elb}LoadBalancer", "Properties": {"Subnets": subnets}},
        "Listener": {
            "Type": f"{elb}Listener",
            "Properties": {
                "LoadBalancerArn": {"Ref": "Balancer"}, "Port": 80, "Protocol": "HTTP", "DefaultActions": [forward],
            },
        },
        "Service": {"Type": "AWS::ECS::Service", "DependsOn": "Listener", "Properties": service},
    }  # fmt: skip
    outputs = {"Group": {"Value": {"Ref": "Group"}}, "Name": {"Value": {"Fn::GetAtt": ["Balancer", "DNSName"]}}}
    formation = ecs.client("cloudformation")

    def stack() -> dict[str, Any]:
        return dict(formation.describe_stacks(StackName="balanced")["Stacks"][0])

    def settled(seen: dict[str, Any]) -> bool:
        return not seen["StackStatus"].endswith("_IN_PROGRESS")

    body = {"Resources": resources, "Outputs": outputs}
    formation.create_stack(StackName="balanced", TemplateBody=json.dumps(body))
    made = until(stack, settled)

    assert made["StackStatus"] == "CREATE_COMPLETE"
    arn = next(output["OutputValue"] for output in made["Outputs"] if output["OutputKey"] == "Group")
    elbv2 = ecs.client("elbv2")
    health = elbv2.describe_target_health(TargetGroupArn=arn)["TargetHealthDescriptions"]
    assert [target["TargetHealth"]["State"] for target in health] == ["healthy"]
    attributes = elbv2.describe_target_group_attributes(TargetGroupArn=arn)["Attributes"]
    assert {"Key": "deregistration_delay.timeout_seconds", "Value": "7"} in attributes
    assert ecs.page("formed") == "formed"

    # AND all of it goes with the stack
    formation.delete_stack(StackName="balanced")
    until(lambda: ecs.service("formed"), lambda seen: seen["status"] == "INACTIVE")
    until(
        lambda: [g["TargetGroupArn"] for g in elbv2.describe_target_groups()["TargetGroups"]],
        lambda arns: arn not in arns,
    )


# --- weights ----------------------------------------------------------------------------------------------------------


def target(name: str, deployment: Any, state: str = "healthy") -> Any:
    return SimpleNamespace(task=SimpleNamespace(id=name), deployment=deployment, state=state)


def test_requests_are_split_by_the_weights_of_deployments_whatever_the_number_of_their_tasks() -> None:
    blue, green, plain = SimpleNamespace(weight=90.0), SimpleNamespace(weight=10.0), SimpleNamespace(weight=None)

    split = weights([target("b1", blue), target("b2", blue), target("g1", green), target("g2", green, "initial")])
    assert split["b1"] == split["b2"]
    assert (split["b1"] + split["b2"]) / sum(split.values()) == pytest.approx(0.9, abs=0.01)
    assert "g2" not in split

    # AND without weights every task has its part, and without healthy tasks all that run
    assert len(set(weights([target("a", plain), target("b", SimpleNamespace(weight=None))]).values())) == 1
    assert weights([target("a", plain, "initial"), target("b", plain, "draining")]).keys() == {"a"}
    blue.weight, green.weight = 0.0, 100.0
    assert weights([target("b1", blue), target("g1", green, "initial")]) == {"g1": 256}

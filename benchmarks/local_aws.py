"""What local AWS itself costs: calls per second, memory, start-up and the time of a task, beside what does without it.

Beside it run moto's own server, of the version that is inside ours, and the container engine alone. All is measured in
one run, in turns, so that a busy machine slows all alike. Run it with `make bench`.
"""

import http.client
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import docker
from rich.console import Console
from rich.table import Table

OURS, MOTO = 4646, 4650
ROUNDS, CALLS, THREADS, TASKS = 5, 60, 8, 5
BUSYBOX = "public.ecr.aws/docker/library/busybox:stable"
STARTS = {
    "local AWS": [sys.executable, "-m", "deploy_runner.cli.main", "local", "up", "--port", str(OURS)],
    "moto": [str(Path(sys.executable).with_name("moto_server")), "-H", "127.0.0.1", "-p", str(MOTO)],
}
PORTS = {"local AWS": OURS, "moto": MOTO}


@dataclass(frozen=True)
class Request:
    """A call as it goes over the wire, without a client's own time in it. Nobody here checks the signature."""

    what: str
    service: str
    headers: dict[str, str]
    body: str

    def send(self, port: int, access_key: str = "local", token: str = "") -> None:
        """Make the call. Raises AssertionError if it is refused."""
        scope = f"{access_key}/20260101/us-east-1/{self.service}/aws4_request"
        signed = {"Authorization": f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=0"}
        signed |= {"X-Amz-Security-Token": token} if token else {}
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("POST", "/", self.body, self.headers | signed)
        answer = connection.getresponse()
        said = answer.read()
        connection.close()
        assert answer.status == 200, said


def json_call(service: str, target: str, body: dict[str, Any], version: str = "1.1") -> Request:
    """Return a call of a service that speaks JSON."""
    headers = {"X-Amz-Target": target, "Content-Type": f"application/x-amz-json-{version}"}
    return Request(f"{service} {target.rpartition('.')[2]}", service, headers, json.dumps(body))


REQUESTS = [
    Request(
        "sts GetCallerIdentity", "sts", {"Content-Type": "application/x-www-form-urlencoded"},
        "Action=GetCallerIdentity&Version=2011-06-15",
    ),
    json_call("dynamodb", "DynamoDB_20120810.GetItem", {"TableName": "t", "Key": {"k": {"S": "1"}}}, "1.0"),
    json_call("ecs", "AmazonEC2ContainerServiceV20141113.DescribeTaskDefinition", {"taskDefinition": "f"}),
]  # fmt: skip


@contextmanager
def running(name: str, folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], float]]:
    """Start a server; gives its process, and the seconds until it had answered a call."""
    began = time.monotonic()
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(STARTS[name], stdout=log, stderr=subprocess.STDOUT)
    try:
        while True:
            assert process.poll() is None, (folder / f"{name}.log").read_text()
            try:
                REQUESTS[0].send(PORTS[name])
                break
            except OSError:
                time.sleep(0.02)
        yield process, time.monotonic() - began
    finally:
        process.terminate()
        process.wait(60)


def client(name: str, service: str, **credentials: str) -> Any:
    """Return boto3's client of a server."""
    keys = credentials or {"aws_access_key_id": "local", "aws_secret_access_key": "local"}
    endpoint = f"http://127.0.0.1:{PORTS[name]}"
    return boto3.client(service, region_name="us-east-1", endpoint_url=endpoint, **keys)  # type: ignore[call-overload]


def prepare(name: str) -> dict[str, str]:
    """Make what the calls ask for, and a role; returns its credentials."""
    schema = {"KeySchema": [{"AttributeName": "k", "KeyType": "HASH"}], "BillingMode": "PAY_PER_REQUEST"}
    attributes = [{"AttributeName": "k", "AttributeType": "S"}]
    client(name, "dynamodb").create_table(TableName="t", AttributeDefinitions=attributes, **schema)
    client(name, "dynamodb").put_item(TableName="t", Item={"k": {"S": "1"}})
    container = {"name": "main", "image": BUSYBOX, "command": ["true"]}
    client(name, "ecs").register_task_definition(
        family="f", requiresCompatibilities=["FARGATE"], networkMode="awsvpc", cpu="256", memory="512",
        containerDefinitions=[container],
    )  # fmt: skip
    everyone = {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"AWS": "*"}}
    trust = json.dumps({"Version": "2012-10-17", "Statement": [everyone]})
    role = client(name, "iam").create_role(RoleName="r", AssumeRolePolicyDocument=trust)["Role"]
    anything = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
    client(name, "iam").put_role_policy(RoleName="r", PolicyName="p", PolicyDocument=json.dumps(anything))
    session = client(name, "sts").assume_role(RoleArn=role["Arn"], RoleSessionName="bench")["Credentials"]
    return {"access_key": session["AccessKeyId"], "token": session["SessionToken"]}


def per_second(request: Request, port: int, threads: int, **credentials: str) -> float:
    """Return how many calls are answered in a second."""
    began = time.monotonic()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda _: request.send(port, **credentials), range(CALLS)))
    return CALLS / (time.monotonic() - began)


def megabytes(root: int) -> float:
    """Return the memory of a process and all below it."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    tree = {root}
    while more := {pid for pid, parent in parents.items() if parent in tree} - tree:
        tree |= more
    pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in tree)
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def task_seconds() -> float:
    """Return the seconds from RunTask until DescribeTasks says that the task has stopped."""
    ecs, subnets = client("local AWS", "ecs"), client("local AWS", "ec2").describe_subnets()["Subnets"]
    network = {"awsvpcConfiguration": {"subnets": [subnets[0]["SubnetId"]]}}
    began = time.monotonic()
    started = ecs.run_task(cluster="bench", taskDefinition="f", launchType="FARGATE", networkConfiguration=network)
    arn = started["tasks"][0]["taskArn"]
    while True:
        (task,) = ecs.describe_tasks(cluster="bench", tasks=[arn])["tasks"]
        if task["lastStatus"] == "STOPPED":
            assert task["containers"][0]["exitCode"] == 0, task
            return time.monotonic() - began
        time.sleep(0.01)


def engine_seconds(engine: docker.DockerClient) -> float:
    """Return the seconds of the same container, run by the engine without us."""
    began = time.monotonic()
    container = engine.containers.run(BUSYBOX, ["true"], network=f"deploy-runner-{OURS}", detach=True)
    assert container.wait()["StatusCode"] == 0
    seconds = time.monotonic() - began
    container.remove(force=True)
    return seconds


def median(measure: Callable[[], float], times: int) -> float:
    """Return the median of some measurements."""
    return statistics.median(measure() for _ in range(times))


def main() -> None:
    """Measure, and print a table."""
    table = Table(title="What local AWS costs", title_justify="left")
    for heading in ("what", "unit", "local AWS", "without it", "ratio", "which is"):
        table.add_column(heading, justify="left" if heading in ("what", "unit", "which is") else "right")

    def row(what: str, unit: str, ours: float, theirs: float, which: str, digits: int = 0) -> None:
        table.add_row(what, unit, f"{ours:.{digits}f}", f"{theirs:.{digits}f}", f"{ours / theirs:.2f}", which)

    with tempfile.TemporaryDirectory(prefix="deploy-runner-bench-") as folder:
        with running("local AWS", Path(folder)):
            pass  # makes the base images, and fills the caches of Podman and of the file system
        with running("moto", Path(folder)) as (moto, moto_up), running("local AWS", Path(folder)) as (local, local_up):
            row("start-up, to the first answer", "s", local_up, moto_up, "moto_server", 1)
            row("memory at rest", "MB", megabytes(local.pid), megabytes(moto.pid), "moto_server")
            role = prepare("local AWS")
            prepare("moto")
            for threads in (1, THREADS):
                for request in REQUESTS:
                    measured: dict[str, list[float]] = {"ours": [], "role": [], "moto": []}
                    for _ in range(ROUNDS):
                        measured["moto"].append(per_second(request, MOTO, threads))
                        measured["ours"].append(per_second(request, OURS, threads))
                        measured["role"].append(per_second(request, OURS, threads, **role))
                    ours, as_role, theirs = (statistics.median(measured[each]) for each in ("ours", "role", "moto"))
                    many = f", {threads} at a time" if threads > 1 else ""
                    row(f"{request.what}{many}", "1/s", ours, theirs, "moto_server")
                    row(f"{request.what}{many}, as a role", "1/s", as_role, theirs, "moto_server, IAM not enforced")
            client("local AWS", "ecs").create_cluster(clusterName="bench")
            with urllib.request.urlopen(f"http://127.0.0.1:{OURS}/_local/env") as answer:
                engine = docker.from_env(environment=os.environ | json.loads(answer.read()))
            with_us = median(task_seconds, TASKS)
            row("a task that runs `true`", "s", with_us, median(lambda: engine_seconds(engine), TASKS), "the engine", 2)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()

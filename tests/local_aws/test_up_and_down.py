"""`deploy-runner local up` comes up, says where things are, and leaves nothing behind, however it ends."""

import contextlib
import io
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
import uuid
import zipfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import docker
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError
from docker.errors import DockerException
from requests.exceptions import RequestException

from deploy_runner.cli.local import LONGEST_END_SECONDS
from deploy_runner.local_aws import leftovers, server
from deploy_runner.local_aws.base_images import cache_dir
from deploy_runner.local_aws.leftovers import (
    end_containers_below,
    remove_empty_namespaces,
    remove_namespaces,
    remove_rules,
)
from tests.held import reading, what_was_read
from tests.left_behind import left_behind
from tests.waiting import LONGEST, until

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("up_and_down")]

PORT = 4640
GUARD = 2 * LONGEST_END_SECONDS
NETWORK = f"deploy-runner-{PORT}"
BUSYBOX = "public.ecr.aws/docker/library/busybox:stable"


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "deploy_runner.cli.main", "local", *arguments]


def say(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=LONGEST, check=False)


@pytest.fixture
def up(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    process = start(tmp_path / "said")
    yield process
    if process.poll() is None:
        process.terminate()
        process.wait(GUARD)


def start(said: Path, port: int = PORT, given: Sequence[str] = ()) -> subprocess.Popen[bytes]:
    with said.open("wb") as output:
        process = subprocess.Popen(given or command("up", "--port", str(port)), stdout=output, stderr=subprocess.STDOUT)
    until(lambda: (said.read_text(), process.poll()), lambda now: "Ctrl-C" in now[0] or now[1] is not None)
    assert process.poll() is None, said.read_text()
    return process


def run_a_container() -> None:
    """What a crash of ours leaves behind unless it is cleaned up."""
    exports = json.loads(say("env", "--port", str(PORT), "--format", "json").stdout)
    client = docker.from_env(environment=os.environ | exports)
    client.containers.run(
        BUSYBOX, ["sleep", "4640"], detach=True, network=NETWORK,
        labels={"deploy-runner.local": NETWORK},
    )  # fmt: skip


def run_a_service() -> None:
    """What has a load balancer besides."""
    session: Any = boto3.Session("local", "local", region_name="us-east-1")
    ecs, ec2 = (session.client(name, endpoint_url=f"http://127.0.0.1:{PORT}") for name in ("ecs", "ec2"))
    ecs.create_cluster(clusterName="c")
    image = "public.ecr.aws/docker/library/busybox:stable"
    web = {"name": "web", "image": image, "command": ["sleep", "4640"], "portMappings": [{"containerPort": 80}]}
    ecs.register_task_definition(
        family="f", containerDefinitions=[web], cpu="256", memory="512", networkMode="awsvpc",
        requiresCompatibilities=["FARGATE"],
    )  # fmt: skip
    subnets = [ec2.describe_subnets()["Subnets"][0]["SubnetId"]]
    ecs.create_service(
        cluster="c", serviceName="s", taskDefinition="f", desiredCount=1, launchType="FARGATE",
        networkConfiguration={"awsvpcConfiguration": {"subnets": subnets}},
    )  # fmt: skip
    until(lambda: left_behind(PORT), lambda left: balancers() and any("sleep 4640" in line for line in left))


def balancers() -> list[str]:
    return [line for line in left_behind(PORT) if ": haproxy " in line]


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_its_answers_are_read_where_a_test_starts_it_as_a_program(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    with reading(report):
        process = start(tmp_path / "said")
    session = boto3.Session("local", "local", region_name="us-east-1")
    session.client("ecs", endpoint_url=f"http://127.0.0.1:{PORT}").list_clusters()
    process.terminate()
    assert process.wait(GUARD) == 0

    assert what_was_read(report) == []
    assert ["ecs", "ListClusters"] in json.loads(report.read_text())["called"]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_in_order_and_leaves_nothing(up: subprocess.Popen[bytes], how: signal.Signals, tmp_path: Path) -> None:
    run_a_container()
    run_a_service()

    for _ in range(200):  # as by someone who cannot wait
        up.send_signal(how)
        time.sleep(0.002)

    assert up.wait(GUARD) == 0, (tmp_path / "said").read_text()
    assert left_behind(PORT) == []
    assert not [port for port in (PORT, PORT + 1, PORT + 2) if answers(port)]


def test_a_container_engine_that_hangs_is_ended_too_and_what_it_ran(
    up: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    run_a_container()
    run_a_service()
    services = [pid for pid in children(up.pid) if b"system\0service" in command_line(pid)]
    if not services:
        pytest.skip("only the engine that local AWS starts is its own to end")
    os.kill(services[0], signal.SIGSTOP)

    up.terminate()

    assert up.wait(GUARD) == 0, (tmp_path / "said").read_text()
    assert "Podman does not help" in (tmp_path / "said").read_text()
    assert left_behind(PORT) == []


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc")
@pytest.mark.parametrize("look", ["that finds it", "that misses it"])
def test_a_monitor_that_goes_on_meanwhile_is_ended_too(
    look: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one does that waits for Podman's word: once Podman is ended it goes on, as another process, and runs runc."""
    script = """
        until [ -e "$1/go-on" ]; do sleep 0.01; done
        ln -s /bin/sh "$1/runc"
        ("$1/runc" -c "while :; do sleep 1; done" 46401 "$1" & touch "$1/went-on"; wait) &
    """
    ours, others = folders = [tmp_path / "ours", tmp_path / "others"]
    is_helper, kill = leftovers._is_helper, os.kill

    def it_goes_on() -> None:
        (ours / "go-on").touch()
        until(lambda: (ours / "went-on").exists())

    def looks(process: Path, folder: Path) -> bool:
        if int(process.name) == monitors[0].pid:
            it_goes_on()
            monitors[0].wait()
        return is_helper(process, folder)

    with contextlib.ExitStack() as after:
        monitors = []
        for folder in folders:
            folder.mkdir()
            after.callback((folder / "go-on").touch)
            monitors.append(subprocess.Popen(["conmon", "-c", script, "-b", str(folder)], executable="/bin/sh"))
            after.callback(monitors[-1].wait)
            after.callback(monitors[-1].kill)
        if look == "that finds it":
            monkeypatch.setattr(os, "kill", lambda *given: (it_goes_on(), kill(*given)))
        else:
            monkeypatch.setattr(leftovers, "_is_helper", looks)

        end_containers_below(ours, LONGEST)

        (left,) = until(lambda: processes_with(b" 46401 "), lambda left: len(left) == 1)
        assert bytes(others) in left


def test_what_hangs_at_the_end_is_named_and_does_not_stay(tmp_path: Path) -> None:
    program = tmp_path / "up.py"
    program.write_text(
        "import threading\n"
        "from deploy_runner.cli import local, main\n"
        "from deploy_runner.local_aws.machine import Machine\n"
        "def it_hangs(machine, stop=Machine.stop):\n"
        "    stop(machine)\n"
        "    threading.Event().wait()\n"
        "Machine.stop, local.LONGEST_END_SECONDS = it_hangs, 10\n"
        f"main.main(['local', 'up', '--port', '{PORT}'])\n"
    )
    process = start(tmp_path / "said", given=[sys.executable, str(program)])
    process.terminate()
    assert process.wait(GUARD) == 1
    assert "in it_hangs" in (tmp_path / "said").read_text()
    assert left_behind(PORT) == []


def processes_with(words: bytes) -> list[bytes]:
    """The command lines in which these words are."""
    pids = map(int, filter(str.isdigit, os.listdir("/proc")))
    return [line for line in map(command_line, pids) if words in line.replace(b"\0", b" ")]


def command_line(pid: int) -> bytes:
    with contextlib.suppress(OSError):  # it may have ended
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def children(pid: int) -> list[int]:
    """The processes that any thread of a process has started."""
    return [int(child) for of in Path(f"/proc/{pid}/task").glob("*/children") for child in of.read_text().split()]


def test_the_next_start_on_any_port_removes_what_a_killed_one_left(up: subprocess.Popen[bytes], tmp_path: Path) -> None:
    run_a_container()
    run_a_service()
    up.kill()
    up.wait()
    until(lambda: not balancers())  # they end with us, whatever ends us
    assert left_behind(PORT) != [], "a container outlives its engine's client, or this test shows nothing"

    other = start(tmp_path / "other", PORT + 4)
    try:
        assert left_behind(PORT) == []
    finally:
        other.terminate()
        other.wait(GUARD)


AS_ROOT = pytest.mark.skipif(
    os.geteuid() != 0 or not (shutil.which("ip") and shutil.which("iptables")), reason="needs root, ip and iptables"
)
OTHERS_RULES = """\
nat -N NETAVARK-AAAA
nat -N NETAVARK-HOSTPORT-SETMARK
nat -A NETAVARK-HOSTPORT-SETMARK -j MARK --set-mark 1
nat -A POSTROUTING -s 10.82.33.0/24 -j NETAVARK-AAAA
nat -A POSTROUTING -s 10.82.32.0/24 -j MASQUERADE
filter -A INPUT -s 10.82.32.0/24 -j DROP"""
OUR_RULES = """\
nat -N NETAVARK-BBBB
nat -N NETAVARK-DN-BBBB
nat -A POSTROUTING -s 10.82.32.0/24 -j NETAVARK-BBBB
nat -A NETAVARK-BBBB -d 10.82.32.0/24 -j ACCEPT
nat -A NETAVARK-BBBB ! -d 224.0.0.0/4 -j MASQUERADE
nat -A NETAVARK-DN-BBBB -s 10.82.32.0/24 -j NETAVARK-HOSTPORT-SETMARK
filter -N NETAVARK_FORWARD
filter -A NETAVARK_FORWARD -d 10.82.32.0/24 -j ACCEPT"""
NOBODYS = {b"-N NETAVARK-DN-BBBB", b"-N NETAVARK_FORWARD"}  # chains without a rule, which netavark uses again


@AS_ROOT
def test_only_the_rules_of_the_network_are_removed_from_the_firewall() -> None:
    def in_a_network_of_its_own() -> tuple[set[bytes], set[bytes]]:
        os.unshare(os.CLONE_NEWNET)  # of this thread alone
        odd = ["filter", "-A", "INPUT", "-m", "comment", "--comment", b"it\xe9s\n'", "-j", "DROP"]
        for rule in (odd, *map(str.split, OTHERS_RULES.splitlines())):
            iptables(*rule)
        before = firewall()
        for rule in map(str.split, OUR_RULES.splitlines()):
            iptables(*rule)
        remove_rules("10.82.32.1/24")
        return before, firewall()

    with ThreadPoolExecutor(1) as alone:
        before, after = alone.submit(in_a_network_of_its_own).result()
    assert len(before) > 10
    assert after - NOBODYS == before


def iptables(table: str | bytes, *arguments: str | bytes) -> bytes:
    return subprocess.run(["iptables", "-t", table, *arguments], capture_output=True, check=True).stdout


def firewall() -> set[bytes]:
    return {line for table in ("nat", "filter") for line in iptables(table, "-S").split(b"\n")}


@AS_ROOT
def test_network_namespaces_that_nobody_will_use_go_and_no_other(tmp_path: Path) -> None:
    kinds = ("netns", "netns", "netns", "other")
    unused, used, connected, another = (tmp_path / f"{kind}-{uuid.uuid4()}" for kind in kinds)
    with contextlib.ExitStack() as after:
        for name in (unused, used, connected, another):
            after.callback(subprocess.run, ["umount", "--lazy", str(name)], capture_output=True, check=False)
            name.touch()
            subprocess.run(["unshare", f"--net={name}", "true"], check=True)
        inside = subprocess.Popen(["nsenter", f"--net={used}", "sleep", "4640"])
        after.callback(inside.kill)
        until(lambda: os.stat(f"/proc/{inside.pid}/ns/net").st_ino == used.stat().st_ino)
        for step in ("link add near type veth peer name far", "addr add 10.82.32.7/24 dev near", "link set near up"):
            subprocess.run(["nsenter", f"--net={connected}", "ip", *step.split()], check=True)

        remove_empty_namespaces(tmp_path, older_than=3600)
        assert sorted(tmp_path.iterdir()) == sorted([unused, used, connected, another])
        remove_empty_namespaces(tmp_path, older_than=0)
        assert sorted(tmp_path.iterdir()) == sorted([used, connected, another])
        remove_namespaces("10.82.33.1/24", tmp_path)
        assert sorted(tmp_path.iterdir()) == sorted([used, connected, another])
        remove_namespaces("10.82.32.1/24", tmp_path)
        assert sorted(tmp_path.iterdir()) == sorted([used, another])


def test_whatever_the_moment_of_a_kill_nothing_is_left_after_the_next_start_and_end(tmp_path: Path) -> None:
    seed = int(os.environ.get("SEED", time.time_ns()))
    print(f"SEED={seed}")
    moments = random.Random(seed)  # noqa: S311
    for number in range(10):
        said = tmp_path / f"said-{number}"
        port = moments.choice((PORT, PORT + 4))
        if number % 2:
            process = start(said, port)
            busy = threading.Thread(target=keep_busy, args=(port,), daemon=True)
            busy.start()
            kill_after(process, moments.uniform(0, 3))
            busy.join(LONGEST)
            assert not busy.is_alive()
        else:  # while it starts
            with said.open("wb") as output:
                process = subprocess.Popen(command("up", "--port", str(port)), stdout=output, stderr=subprocess.STDOUT)
            kill_after(process, moments.uniform(0, 3))

        # The next start is of this process, which has imported what takes most of the time.
        again = moments.choice((PORT, PORT + 4))
        server.start(again, cache_dir() / f"local-{again}", ["registry"]).stop()

        assert left_behind(port) == [], f"killed on {port}, started again on {again}; moment {number} of SEED={seed}"
        assert left_behind(again) == []


def kill_after(process: subprocess.Popen[bytes], seconds: float) -> None:
    time.sleep(seconds)
    process.kill()
    process.wait()


def keep_busy(port: int) -> None:
    """Start what outlives a client until there is nobody to ask: tasks, a service, a build, a function."""
    session = boto3.Session("local", "local", region_name="us-east-1")

    def aws(service: str) -> Any:
        once = Config(retries={"max_attempts": 0})
        return session.client(service, endpoint_url=f"http://127.0.0.1:{port}", config=once)  # type: ignore[call-overload]

    with contextlib.suppress(BotoCoreError, DockerException, RequestException, OSError):
        ecs, network = aws("ecs"), {"subnets": [aws("ec2").describe_subnets()["Subnets"][0]["SubnetId"]]}
        ecs.create_cluster(clusterName="c")
        ecs.register_task_definition(
            family="f", requiresCompatibilities=["FARGATE"], networkMode="awsvpc", cpu="256", memory="512",
            containerDefinitions=[{"name": "main", "image": BUSYBOX, "command": ["sh", "-c", f"sleep {port}"]}],
        )  # fmt: skip
        awsvpc = {"launchType": "FARGATE", "networkConfiguration": {"awsvpcConfiguration": network}}
        ecs.create_service(cluster="c", serviceName="s", taskDefinition="f", desiredCount=2, **awsvpc)
        role = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "sts:AssumeRole"}]}
        role["Statement"][0]["Principal"] = {"Service": "lambda.amazonaws.com"}  # type: ignore[index]
        arn = aws("iam").create_role(RoleName="f", AssumeRolePolicyDocument=json.dumps(role))["Role"]["Arn"]
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w") as zipped:
            zipped.writestr("f.py", "import time\ndef f(*_):\n    time.sleep(900)\n")
        aws("lambda").create_function(
            FunctionName="f", Role=arn, Handler="f.f", Runtime="python3.13", Timeout=900,
            Code={"ZipFile": archive.getvalue()},
        )  # fmt: skip
        aws("lambda").invoke(FunctionName="f", InvocationType="Event")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/_local/env") as answer:
            build = docker.from_env(environment=os.environ | json.loads(answer.read()))
        while True:
            ecs.run_task(cluster="c", taskDefinition="f", **awsvpc)
            build.images.build(fileobj=io.BytesIO(f"FROM {BUSYBOX}\nRUN sleep 0.3; date".encode()), nocache=True)


def test_it_starts_over_where_the_engines_records_are_broken(up: subprocess.Popen[bytes], tmp_path: Path) -> None:
    up.terminate()
    up.wait(GUARD)
    (cache_dir() / f"local-{PORT}" / "engine" / "root" / "libpod" / "bolt_state.db").write_bytes(b"broken")

    again = start(tmp_path / "again")

    again.terminate()
    assert again.wait(GUARD) == 0
    assert left_behind(PORT) == []


def test_eval_of_the_exports_fails_where_there_are_none() -> None:
    exports = say("env", "--port", str(PORT + 8)).stdout
    assert subprocess.run(["sh", "-c", 'eval "$1" && echo went on', "sh", exports], check=False).returncode != 0


def test_the_exports_point_a_shell_at_it(up: subprocess.Popen[bytes]) -> None:
    script = say("env", "--port", str(PORT)).stdout
    shell = subprocess.run(
        ["sh", "-c", f'{script}\nprintf %s "$AWS_ENDPOINT_URL $AWS_DEFAULT_REGION"'], capture_output=True, text=True
    )
    assert shell.stdout == f"http://127.0.0.1:{PORT} us-east-1"
    assert say("services", "--port", str(PORT)).stdout.startswith("There is no service")
    assert say("services", "--port", str(PORT), "--format", "json").stdout.strip() == "[]"


def test_a_second_one_on_the_same_port_is_told_what_to_do(up: subprocess.Popen[bytes]) -> None:
    second = say("up", "--port", str(PORT))
    assert second.returncode == 3
    assert "--port" in second.stderr
    assert "Traceback" not in second.stderr
    with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/_local/health") as response:
        assert response.status == 200


def test_a_port_that_something_else_has_is_named() -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", PORT + 2))
        other.listen()
        refused = say("up", "--port", str(PORT))
    assert refused.returncode == 3
    assert f"the image registry needs the port {PORT + 2}" in refused.stderr
    assert "--port" in refused.stderr


def test_without_a_container_engine_the_remedy_is_named(tmp_path: Path) -> None:
    nothing = {"PATH": str(tmp_path), "HOME": str(tmp_path), "DOCKER_HOST": "unix:///nowhere.sock"}
    refused = subprocess.run(
        command("up", "--port", str(PORT)), capture_output=True, text=True, env=nothing, timeout=LONGEST, check=False
    )
    assert refused.returncode == 3
    assert "Docker or Podman" in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize("verb", ["env", "services"])
def test_without_local_aws_the_remedy_is_named(verb: str) -> None:
    refused = say(verb, "--port", str(PORT + 8))
    assert refused.returncode == 3
    assert "deploy-runner local up --port" in refused.stderr


@pytest.mark.parametrize("port", ["80", "65535", "x", "-1", "٤٥٦٦"])
def test_a_port_that_cannot_be_is_refused(port: str) -> None:
    refused = say("up", f"--port={port}")
    assert refused.returncode == 2
    assert "1024 to 65533" in refused.stderr

"""`deploy-runner local up` comes up, says where things are, and leaves nothing behind, however it ends."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from deploy_runner.local_aws.base_images import cache_dir
from tests.left_behind import left_behind

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("up_and_down")]

PORT = 4640
NETWORK = f"deploy-runner-{PORT}"


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "deploy_runner.cli.main", "local", *arguments]


def say(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def up(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    process = start(tmp_path / "said")
    yield process
    if process.poll() is None:
        process.terminate()
        process.wait(30)


def start(said: Path, port: int = PORT) -> subprocess.Popen[bytes]:
    with said.open("wb") as output:
        process = subprocess.Popen(command("up", "--port", str(port)), stdout=output, stderr=subprocess.STDOUT)
    deadline = time.monotonic() + 60
    while "Ctrl-C" not in said.read_text():
        assert process.poll() is None, said.read_text()
        assert time.monotonic() < deadline, said.read_text()
        time.sleep(0.05)
    return process


def run_a_container() -> None:
    """What a crash of ours leaves behind unless it is cleaned up."""
    exports = json.loads(say("env", "--port", str(PORT), "--format", "json").stdout)
    client = docker.from_env(environment=os.environ | exports)
    client.containers.run(
        "public.ecr.aws/docker/library/busybox:stable", ["sleep", "4640"], detach=True, network=NETWORK,
        labels={"deploy-runner.local": NETWORK},
    )  # fmt: skip


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_in_order_and_leaves_nothing(up: subprocess.Popen[bytes], how: signal.Signals) -> None:
    run_a_container()

    up.send_signal(how)

    assert up.wait(30) == 0
    assert left_behind(PORT) == []
    assert not [port for port in (PORT, PORT + 1, PORT + 2) if answers(port)]


def test_the_next_start_on_any_port_removes_what_a_killed_one_left(up: subprocess.Popen[bytes], tmp_path: Path) -> None:
    run_a_container()
    up.kill()
    up.wait()
    assert left_behind(PORT) != [], "a container outlives its engine's client, or this test shows nothing"

    other = start(tmp_path / "other", PORT + 4)
    try:
        assert left_behind(PORT) == []
    finally:
        other.terminate()
        other.wait(30)


def test_it_starts_over_where_the_engines_records_are_broken(up: subprocess.Popen[bytes], tmp_path: Path) -> None:
    up.terminate()
    up.wait(30)
    (cache_dir() / f"local-{PORT}" / "engine" / "root" / "libpod" / "bolt_state.db").write_bytes(b"broken")

    again = start(tmp_path / "again")

    again.terminate()
    assert again.wait(30) == 0
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
        command("up", "--port", str(PORT)), capture_output=True, text=True, env=nothing, timeout=60, check=False
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

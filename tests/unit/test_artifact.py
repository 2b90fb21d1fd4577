"""What Lambda gets runs from the artifact alone, with nothing of the checkout and of the environment that built it."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.unit.conftest import ENVIRONMENT

ROOT = Path(__file__).parents[2]
SITE = Path(sys.prefix) / "lib" / f"python3.{sys.version_info.minor}" / "site-packages"
VERBS = ("validate_request", "report_status", "deploy_service", "watch_rollout")
# docs.aws.amazon.com/lambda/latest/dg/lambda-python.html: what the runtime brings
RUNTIME = ("boto3", "botocore", "s3transfer", "jmespath", "dateutil", "urllib3", "six.py")
MAX_BYTES = 40_000_000
EVENT = {
    "execution": {
        "arn": "arn:aws:states:us-east-1:123456789012:execution:deploy-app:d-1",
        "name": "d-1",
        "started_at": "2026-01-01T00:00:00.000Z",
    }
}

CONTEXT = """
class Context:
    function_name, memory_limit_in_mb, aws_request_id = "f", 512, "r"
    invoked_function_arn = "arn:aws:lambda:us-east-1:123456789012:function:f"
"""


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The artifact as `sam build` makes it, for this machine's architecture."""
    target = tmp_path_factory.mktemp("artifact")
    architecture = {"aarch64": "arm64", "arm64": "arm64"}.get(platform.machine(), "x86_64")
    command = ["make", "-s", "build-ValidateRequestFunction"]
    built = tmp_path_factory.mktemp("built") / "lambda"  # from scratch, and in nobody's way
    command += [f"ARTIFACTS_DIR={target}", f"LAMBDA_ARCHITECTURE={architecture}", f"ARTIFACT={built}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return target


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with boto3 and what it needs, as Lambda's runtime has it, and nothing else."""
    folder = tmp_path_factory.mktemp("runtime")
    for name in RUNTIME:
        (folder / name).symlink_to(SITE / name)
    return folder


def run(paths: list[Path], program: str, **environment: str) -> Any:
    """Run a program in a bare interpreter that finds only these folders; return the JSON of its last line."""
    head = f"import sys\nsys.path += {[str(path) for path in paths]}\n"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-B", "-c", head + program],
        env={"PATH": os.environ["PATH"], **ENVIRONMENT, **environment},
        capture_output=True, text=True, check=False, cwd="/",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def invoke(artifact: Path, runtime: Path, verb: str, event: object, **environment: str) -> dict[str, str]:
    """Call a handler; return its result, or the error as the Lambda runtime names it."""
    program = f"""{CONTEXT}
import json, logging
from functions.{verb}.handler import lambda_handler
try:
    said = {{"result": lambda_handler(json.loads({json.dumps(json.dumps(event))}), Context())}}
except Exception as error:
    said = {{"errorType": type(error).__name__, "errorMessage": str(error)}}
print()
print(json.dumps(said))
"""
    return run([artifact, runtime], program, **environment)


def test_a_malformed_request_is_refused_by_the_artifact_alone(artifact: Path, runtime: Path) -> None:
    said = invoke(artifact, runtime, "validate_request", {**EVENT, "request": ["not", "a", "request"]})
    assert said["errorType"] == "RequestMalformed"
    assert "must be a JSON object" in said["errorMessage"]


def test_the_packaged_allowlist_is_read(artifact: Path, runtime: Path) -> None:
    request = {"app": "billing", "environment": "dev", "ref": "main"}
    said = invoke(artifact, runtime, "validate_request", {**EVENT, "request": request})
    assert said["errorType"] == "AppNotAllowed"
    assert "apps.yaml" in said["errorMessage"]


@pytest.mark.parametrize(
    "verb",
    ["acquire_lock", "clean_up", "deploy_service", "finish_deployment", "report_status", "sweep", "watch_rollout"],
)
def test_aws_that_does_not_answer_is_an_error_to_try_again(artifact: Path, runtime: Path, verb: str) -> None:
    target = {"role_arn": "arn:aws:iam::123456789012:role/r", "region": "us-east-1", "cluster": "dev", "services": []}
    deployment = {"id": "d", "app": "a", "environment": "e", "target": target, "timeouts": {"rollout": 60}}
    deployment |= {"execution_arn": "x", "started_at": "t", "queue": "latest"}
    outcome = {"verdict": "FAILED", "error": "E", "cause": "c"}
    event = {"step": "register", "deployment": deployment, "task_token": "t", **EVENT, "rollouts": [], "wanted": ["l"]}
    event |= {"given_up": [], "execution_arn": "arn:d", "outcome": outcome}
    event |= {"step": "outcome", "deployment": None} if verb == "report_status" else {}
    said = invoke(artifact, runtime, verb, event, AWS_ENDPOINT_URL="http://127.0.0.1:9")
    assert said["errorType"] == "AwsUnavailable"


def test_it_signs_as_the_github_app_with_its_own_libraries(artifact: Path) -> None:
    """The compiled parts are for this interpreter; they load."""
    program = """
import json
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives import serialization as s
key = rsa.generate_private_key(65537, 2048)
pem = key.private_bytes(s.Encoding.PEM, s.PrivateFormat.TraditionalOpenSSL, s.NoEncryption()).decode()
from deploy_runner.github.app_auth import AppAuth
print(json.dumps(AppAuth("1001", pem, "https://api.github.example").jwt().count(".")))
"""
    assert run([artifact], program) == 2


def test_it_holds_the_functions_and_what_they_share_and_nothing_else(artifact: Path) -> None:
    assert {path.name for path in (artifact / "deploy_runner").iterdir()} == {"__init__.py", "domain", "github", "aws"}
    top = {path.name for path in artifact.iterdir()}
    assert {"functions", "deploy_runner", "apps.yaml", "yaml", "jwt", "aws_lambda_powertools"} <= top
    assert not {"boto3", "botocore", "moto", "aws_xray_sdk", "bin", "tests", ".complete"} & top
    assert not [path for path in artifact.rglob("*") if path.name == "__pycache__" or path.suffix in (".pem", ".key")]
    size = sum(path.stat().st_size for path in artifact.rglob("*") if path.is_file())
    assert size < MAX_BYTES


def test_importing_a_handler_loads_nothing_heavy(artifact: Path, runtime: Path) -> None:
    """Clients and cryptography load when they are needed. How much is loaded is counted, since times differ."""
    heavy = "('boto3', 'botocore.session', 'jwt', 'cryptography', 'aws_xray_sdk', 'pydantic')"
    counted = "import json, sys\nbefore = len(sys.modules)\nimport {module}\n"
    tell = f"print(json.dumps([len(sys.modules) - before, [name for name in {heavy} if name in sys.modules]]))"

    def measure(module: str) -> tuple[int, list[str]]:
        modules, loaded = run([artifact, runtime], counted.format(module=module) + tell)
        return modules, loaded

    boto3, _ = measure("boto3")
    for verb in VERBS:
        modules, loaded = measure(f"functions.{verb}.handler")
        assert loaded == []
        assert modules < boto3, f"{verb}: {modules} modules, where boto3 is {boto3}"

"""Tokens of the GitHub App are for one repository, with what was asked for alone, and are kept under an hour."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest

from deploy_runner.domain.errors import DeployRunnerError
from deploy_runner.github.app_auth import AppAuth
from deploy_runner.github.errors import (
    GitHubNotFound,
    GitHubRefused,
    GitHubRepositoryMismatch,
    GitHubUnavailable,
)
from tests.unit.local_github import NAME, Running, running, scripted

CHECKOUT = Path(__file__).parents[2]
READ = {"contents": "read"}


@pytest.fixture(scope="module")
def github(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("github")) as github:
        github.make(NAME, 1001)
        github.make("lightwave-media/other", 1002)
        github.make("lightwave-media/not-installed", 1003)
        github.state.find("lightwave-media", "not-installed").installed = False
        yield github


def scope_of(github: Running, token: str) -> tuple[dict[str, str], frozenset[int]]:
    given = github.state.tokens[token]
    return given.permissions, given.repository_ids


@pytest.mark.parametrize("repository_id", [1001, None])
def test_a_token_is_for_one_repository_with_what_was_asked_for(github: Running, repository_id: int | None) -> None:
    token = github.auth().token(NAME, READ, repository_id)
    assert scope_of(github, token) == ({"contents": "read", "metadata": "read"}, frozenset({1001}))


def test_a_token_is_kept_under_an_hour_for_the_same_question_alone(github: Running) -> None:
    now = time.time()
    auth = AppAuth("1001", github.state.private_key_pem, github.api, clock=lambda: now)
    first = auth.token(NAME, READ, 1001)
    assert auth.token(NAME.upper(), dict(READ), 1001) == first
    assert auth.token(NAME, {"checks": "write"}, 1001) != first
    assert auth.token("lightwave-media/other", READ) != first
    now += 3290
    assert auth.token(NAME, READ, 1001) == first
    now += 20
    with pytest.raises(GitHubRefused, match="time that the assertion was issued"):
        auth.token(NAME, READ, 1001)


def test_a_name_that_belongs_to_another_id_is_refused(github: Running) -> None:
    for wrong in (1002, 999, 1003):
        with pytest.raises(GitHubRepositoryMismatch, match=f"with the id {wrong}"):
            github.auth().token(NAME, READ, wrong)


def test_where_the_app_is_not_installed_there_is_no_token(github: Running) -> None:
    for name in ("lightwave-media/not-installed", "lightwave-media/gone"):
        with pytest.raises(GitHubNotFound, match="install the GitHub App"):
            github.auth().token(name, READ)


def test_a_permission_that_was_not_granted_is_named(github: Running) -> None:
    with pytest.raises(GitHubRefused, match="must be granted contents: write"):
        github.auth().token(NAME, {"contents": "write"}, 1001)


def test_a_wrong_key_app_or_clock_is_said_without_the_key(github: Running, tmp_path: Path) -> None:
    key = github.state.private_key_pem
    with running(tmp_path / "another") as another:
        wrong_key = AppAuth(1001, another.state.private_key_pem, github.api)
    cases = [
        (wrong_key, "could not be decoded"),
        (AppAuth(7, key, github.api), "Integration not found"),
        (AppAuth(1001, key, github.api, clock=lambda: time.time() + 300), "iat|exp"),
        (AppAuth(1001, key, github.api, clock=lambda: time.time() - 3600), "exp"),
        (AppAuth(1001, key[:200], github.api), "PEM"),
        (AppAuth(1001, "", github.api), "PEM"),
    ]
    for auth, text in cases:
        with pytest.raises(GitHubRefused, match=text) as caught:
            auth.token(NAME, READ, 1001)
        assert key[100:130] not in repr(caught.value)
        assert key[100:130] not in repr(auth)


def test_the_apps_own_token_lasts_ten_minutes_from_a_minute_ago(github: Running) -> None:
    claims = jwt.decode(github.auth().jwt(), github.state.public_key, algorithms=["RS256"])
    assert claims["iss"] == "1001"
    assert claims["exp"] - claims["iat"] == 600
    assert abs(claims["iat"] + 60 - time.time()) < 5


GRANTED = {
    "token": "ghs_x", "expires_at": "2099-01-01T00:00:00Z", "permissions": {"contents": "read"},
    "repositories": [{"id": 1001, "full_name": NAME}],
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"repositories": [*GRANTED["repositories"], {"id": 2, "full_name": "a/b"}]}, GitHubRepositoryMismatch),
        ({"repositories": [{"id": 1001, "full_name": "lightwave-media/renamed"}]}, GitHubRepositoryMismatch),
        ({"repositories": []}, GitHubRepositoryMismatch),
        ({"permissions": {"contents": "read", "administration": "write"}}, GitHubRefused),
        ({"token": "two words"}, GitHubUnavailable),
        ({"token": None}, GitHubUnavailable),
        ({"expires_at": "soon"}, GitHubUnavailable),
        ({"repositories": None}, GitHubUnavailable),
    ],
)
def test_a_token_for_more_or_for_something_else_is_thrown_away(
    github: Running, change: dict[str, Any], error: type[DeployRunnerError]
) -> None:
    with scripted((200, {}, {"id": 5}), (201, {}, GRANTED | change)) as server, pytest.raises(error) as caught:
        AppAuth(1001, github.state.private_key_pem, server.url).token(NAME, READ, 1001)
    assert "ghs_x" not in str(caught.value)


def test_what_the_clone_container_shares_runs_on_its_python() -> None:
    """Debian bookworm has Python 3.11: ruff knows what later syntax is."""
    shared = ["domain/errors.py", "github/__init__.py", "github/api.py", "github/app_auth.py", "github/errors.py"]
    files = [f"src/deploy_runner/{name}" for name in shared] + ["runners/docker-builder/clone.py"]
    command = [
        sys.executable,
        "-m",
        "ruff",
        "check",
        "--isolated",
        "--target-version",
        "py311",
        "--select",
        "F",
        *files,
    ]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_clone_container_gets_every_module_that_its_program_needs() -> None:
    """What the Dockerfile copies imports on its own, with nothing else of ours and no boto3."""
    dockerfile = (CHECKOUT / "runners/docker-builder/Dockerfile").read_text().replace("\\\n", " ")
    copied = {
        f"{line.split()[-1].removeprefix('/opt/deploy-runner/')}{Path(source).name}": source
        for line in dockerfile.splitlines() if line.startswith("COPY ") for source in line.split()[1:-1]
    }  # fmt: skip
    program = "import sys\n" + "".join(
        f"assert {name!r} in {set(copied)!r}\n"
        for name in ("clone.py", "deploy_runner/__init__.py", "deploy_runner/domain/errors.py")
    )
    program += (
        "sys.path.insert(0, 'src'); sys.path.insert(0, 'runners/docker-builder'); import clone, jwt\n"
        "ours = {m.__file__ for n, m in sys.modules.items() if n.startswith('deploy_runner')}\n"
        f"left = [f for f in ours if not any(f.endswith(c) for c in {list(copied.values())!r})]\n"
        "assert not left, left\nassert 'boto3' not in sys.modules and 'yaml' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

"""The local GitHub answers as GitHub's published description says, and our client asks as it says."""

import os
import re
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest

from deploy_runner.local_aws.github import PRIVATE_KEY_SECRET
from deploy_runner.local_aws.github.app import _ROUTES
from tests.local_aws import light
from tests.local_aws.openapi import HeldToDescription, operation, problems
from tests.unit.local_github import NAME, Clone, Running, running

OTHER = "lightwave-media/other"


@pytest.fixture(scope="module")
def held() -> HeldToDescription:
    return HeldToDescription(lambda *_: [])


@pytest.fixture(scope="module")
def github(tmp_path_factory: pytest.TempPathFactory, held: HeldToDescription) -> Iterator[Running]:
    def layer(app: Any) -> Any:
        held.app = app
        return held

    with running(tmp_path_factory.mktemp("github"), layer) as github:
        yield github


@pytest.fixture(scope="module")
def clone(github: Running) -> Clone:
    clone = github.make(NAME, 1001)
    clone.commit("first", Dockerfile="FROM scratch")
    clone.git("tag", "light")
    clone.git("tag", "-a", "annotated", "-m", "a release")
    clone.push("HEAD:refs/heads/main", "HEAD:refs/heads/feature/one", "--tags")
    github.make(OTHER, 1002)
    return clone


@pytest.fixture(autouse=True)
def nothing_broken(held: HeldToDescription) -> Iterator[None]:
    held.broken.clear()
    yield
    assert held.broken == []


def head(clone: Clone) -> str:
    return clone.git("rev-parse", "HEAD")


def template(route: str) -> str:
    """Return our route in the description's words."""
    return re.sub(r"<(?:\w+:)?\w+>", "{}", route.removeprefix("/api/v3"))


def test_every_endpoint_is_githubs_and_answers_as_described(
    github: Running, clone: Clone, held: HeldToDescription
) -> None:
    sha, repo, app = head(clone), f"/repos/{NAME}", github.auth().jwt()
    older = sha
    newer = clone.commit("newer")
    clone.push("HEAD:refs/heads/feature/one")
    tag = clone.git("rev-parse", "annotated")

    def call(method: str, path: str, body: Any = None, token: str | None = None) -> Any:
        status, said, _ = github.call(method, path, body, token)
        assert status < 300, (method, path, said)
        return said

    call("GET", "/app", token=app)
    installation = call("GET", f"{repo}/installation", token=app)
    wanted = {"repository_ids": [1001], "permissions": {"contents": "read", "deployments": "write"}}
    call("POST", f"/app/installations/{installation['id']}/access_tokens", wanted, app)
    for path in ("", "/branches", "/branches/main", "/branches/feature/one", "/tags", f"/git/tags/{tag}"):
        call("GET", repo + path)
    for path in ("heads/main", "heads/feature/one", "tags/light", "tags/annotated"):
        call("GET", f"{repo}/git/ref/{path}")
    call("GET", f"{repo}/git/matching-refs/heads/feature")
    call("GET", f"{repo}/git/commits/{sha}")
    for ref in (sha, sha[:8], "main", "feature/one", "heads/main", "tags/annotated"):
        assert call("GET", f"{repo}/commits/{ref}")["sha"] in (older, newer)
    for basehead, status in (
        (f"main...{older}", "identical"), (f"main...{newer}", "ahead"), (f"feature/one...{older}", "behind"),
    ):  # fmt: skip
        assert call("GET", f"{repo}/compare/{basehead}")["status"] == status

    run = call("POST", f"{repo}/check-runs", {"name": "test", "head_sha": sha})
    output = {"title": "t", "summary": "s", "text": "x"}
    call("PATCH", f"{repo}/check-runs/{run['id']}", {"status": "completed", "conclusion": "success", "output": output})
    call("GET", f"{repo}/check-runs/{run['id']}")
    for query in ("", "?filter=latest&check_name=test&per_page=1", "?filter=all&status=completed"):
        assert call("GET", f"{repo}/commits/{sha}/check-runs{query}")["total_count"] == 1
    call("POST", f"{repo}/statuses/{sha}", {"state": "success", "context": "ci", "target_url": "https://x.example"})
    call("POST", f"{repo}/statuses/{sha}", {"state": "pending"})
    assert call("GET", f"{repo}/commits/{sha}/status")["state"] == "pending"
    made = call("POST", f"/_local{repo}/actions/runs", {"head_sha": sha, "triggering_actor": "joel"})
    assert call("GET", f"{repo}/actions/runs/{made['id']}")["triggering_actor"]["login"] == "joel"

    body = {"ref": "main", "environment": "dev", "required_contexts": [], "auto_merge": False, "payload": {"a": 1}}
    deployment = call("POST", f"{repo}/deployments", body)
    path = f"{repo}/deployments/{deployment['id']}"
    call("POST", f"{path}/statuses", {"state": "queued", "description": "d", "log_url": "https://x.example"})
    query = f"?sha={sha}&environment=dev&task=deploy&ref=main"
    for listed in (path, f"{path}/statuses", f"{repo}/deployments{query}"):
        assert call("GET", listed)
    call("POST", f"{repo}/dispatches", {"event_type": "deploy", "client_payload": {"app": "cineos"}})
    (dispatch,) = call("GET", f"/_local{repo}/dispatches")
    assert (dispatch["event_type"], dispatch["client_payload"]) == ("deploy", {"app": "cineos"})
    call("GET", "/repositories/1001")

    ours = {(method, template(route)) for method, route, _, _ in _ROUTES if "/_local/" not in route}
    done = {(method, re.sub(r"\{\w+\}", "{}", path)) for method, path, status in held.done if status < 300}
    assert ours - done == {("GET", "/repositories/{}")}  # which is not described


def test_our_client_asks_for_what_is_described(github: Running, clone: Clone, held: HeldToDescription) -> None:
    client, sha = github.client(), head(clone)
    client.get_repository(NAME)
    for ref in ("main", "annotated", sha, "nope"):
        client.resolve_ref(NAME, ref)
    assert list(client.branches_containing(NAME, sha, client.list_branches(NAME)))
    client.tags_of(NAME, sha)
    client.checks(NAME, sha)
    client.workflow_run(NAME, 1)
    made = client.create_deployment(NAME, sha, "dev", deployment_id="d-1", description="x")
    client.set_deployment_status(NAME, made, "success", description="x", log_url="https://x.example")
    client.create_check_run(
        NAME,
        sha,
        "deploy",
        conclusion="success",
        title="t",
        summary="s",
        details_url="https://x.example",
        external_id="1",
    )
    client.create_check_run(NAME, sha, "deploy", conclusion=None, title="t", summary="s")


def test_the_description_would_notice(github: Running, clone: Clone) -> None:
    """The layer itself: what is not as described is told."""
    _, repository, _ = github.call("GET", f"/repos/{NAME}")
    pointer = "/components/schemas/full-repository"
    assert problems(pointer, repository) == []
    assert problems(pointer, {k: v for k, v in repository.items() if k != "default_branch"})
    assert problems(pointer, repository | {"id": "1001"})
    assert problems(pointer, repository | {"created_at": "yesterday"})
    assert problems(pointer, repository | {"license": None, "homepage": None}) == []
    assert problems(pointer, repository | {"name": None})
    found = operation("GET", "/repos/a/b/commits/feature/x/check-runs")
    assert found is not None
    assert found[0] == "/repos/{owner}/{repo}/commits/{ref}/check-runs"


# --- who may what --------------------------------------------------------------------------------------------------


def token(github: Running, **permissions: str) -> str:
    return github.auth().token(NAME, permissions, 1001)


def test_a_token_reaches_its_repository_alone(github: Running, clone: Clone) -> None:
    mine = token(github, contents="read")
    assert github.call("GET", f"/repos/{NAME}/branches", token=mine)[0] == 200
    for path in (f"/repos/{OTHER}", f"/repos/{OTHER}/branches", "/repositories/1002", "/repos/lightwave-media/none"):
        status, body, _ = github.call("GET", path, token=mine)
        assert (status, body["message"], body["status"]) == (404, "Not Found", "404")
        assert body["documentation_url"].startswith("https://docs.github.com/")


@pytest.mark.parametrize(
    ("permission", "method", "path", "body"),
    [
        ({"contents": "read"}, "GET", "/commits/main/check-runs", None),
        ({"checks": "read"}, "POST", "/check-runs", {"name": "x", "head_sha": "main"}),
        ({"checks": "write"}, "GET", "/git/ref/heads/main", None),
        ({"checks": "write"}, "GET", "/commits/main/status", None),
        ({"contents": "read"}, "POST", "/dispatches", {"event_type": "x"}),
        ({"contents": "read"}, "POST", "/deployments", {"ref": "main"}),
        ({"deployments": "write"}, "GET", "/actions/runs/1", None),
    ],
)
def test_a_token_may_only_what_it_was_made_for(
    github: Running, clone: Clone, permission: dict[str, str], method: str, path: str, body: Any
) -> None:
    status, said, _ = github.call(method, f"/repos/{NAME}{path}", body, token(github, **permission))
    assert (status, said["message"]) == (403, "Resource not accessible by integration")


def test_nobody_wrong_and_expired_tokens_are_refused(github: Running, clone: Clone) -> None:
    assert github.call("GET", f"/repos/{NAME}", token="")[0] == 404
    for wrong in ("ghs_wrong", "x.y.z", "ghp_0"):
        assert github.call("GET", f"/repos/{NAME}", token=wrong)[0] == 401
    mine = token(github, contents="read")
    given = github.state.tokens[mine]
    github.state.tokens[mine] = type(given)(given.permissions, given.repository_ids, time.time() - 1)
    status, body, _ = github.call("GET", f"/repos/{NAME}", token=mine)
    assert (status, body["message"]) == (401, "Bad credentials")


@pytest.mark.parametrize(
    ("change", "algorithm", "message"),
    [
        ({"exp": 700}, "RS256", "too far in the future"),
        ({"exp": -5}, "RS256", "Expiration time"),
        ({"iat": 120}, "RS256", "Issued at"),
        ({"iss": "9"}, "RS256", "Integration not found"),
        ({"iss": None}, "RS256", "could not be decoded"),
        ({}, "HS256", "could not be decoded"),
        ({}, "none", "could not be decoded"),
    ],
)
def test_an_apps_token_is_verified(github: Running, change: dict[str, Any], algorithm: str, message: str) -> None:
    now = int(time.time())
    claims = {"iat": now - 60, "exp": now + 540, "iss": "1001"}
    claims |= {key: now + value if key in ("iat", "exp") else value for key, value in change.items()}
    key = {"RS256": github.state.private_key_pem, "HS256": "a" * 64, "none": None}[algorithm]
    forged = jwt.encode({k: v for k, v in claims.items() if v is not None}, key, algorithm=algorithm)
    status, body, _ = github.call("GET", "/app", token=forged)
    assert (status, message in body["message"]) == (401, True), body


def test_what_is_sent_is_validated(github: Running, clone: Clone, held: HeldToDescription) -> None:
    sha, repo = head(clone), f"/repos/{NAME}"
    cases: list[tuple[str, Any, int]] = [
        (f"{repo}/check-runs", {"head_sha": sha}, 422),
        (f"{repo}/check-runs", {"name": 1, "head_sha": sha}, 422),
        (f"{repo}/check-runs", {"name": "x", "head_sha": "f" * 40}, 422),
        (f"{repo}/check-runs", {"name": "x", "head_sha": sha, "conclusion": "great"}, 422),
        (f"{repo}/check-runs", {"name": "x", "head_sha": sha, "output": {"title": "t"}}, 422),
        (f"{repo}/check-runs", [], 400),
        (f"{repo}/statuses/{sha}", {"state": "great"}, 422),
        (f"{repo}/deployments", {"ref": "nope"}, 422),
        (f"{repo}/deployments/99/statuses", {"state": "success"}, 404),
        (f"{repo}/dispatches", {"event_type": ""}, 422),
        (f"{repo}/dispatches", {"event_type": "x", "client_payload": {str(n): n for n in range(11)}}, 422),
        (f"{repo}/dispatches", {"event_type": "x", "client_payload": {"a": "x" * 66_000}}, 422),
        ("/orgs/lightwave-media/repos", {"name": "cineos"}, 422),
        ("/orgs/lightwave-media/repos", {"name": "another", "id": 1001}, 422),
        ("/orgs/lightwave-media/repos", {"name": ".."}, 422),
        ("/nothing/here", {}, 404),
    ]
    for path, body, expected in cases:
        status, said, _ = github.call("POST", path, body)
        assert (status, said["status"]) == (expected, str(expected)), (path, body, said)
        assert said["message"]
    # Some of these operations are described without the answer to a commit that is not there, or to no object.
    held.broken[:] = [b for b in held.broken if "no such answer is described" not in b]


def test_a_failing_check_stops_a_deployment_that_does_not_say_otherwise(github: Running, clone: Clone) -> None:
    clone.git("checkout", "-q", "--detach", "main")
    sha = clone.commit("red")
    clone.push("HEAD:refs/heads/red")
    github.call("POST", f"/repos/{NAME}/statuses/{sha}", {"state": "failure"})
    assert github.call("POST", f"/repos/{NAME}/deployments", {"ref": "red"})[0] == 409
    body = {"ref": "red", "required_contexts": [], "auto_merge": False}
    assert github.call("POST", f"/repos/{NAME}/deployments", body)[0] == 201


def test_a_success_ends_the_earlier_deployments_of_the_environment(github: Running, clone: Clone) -> None:
    ids = []
    for _ in range(2):
        body = {"ref": "main", "environment": "qa", "required_contexts": [], "auto_merge": False}
        ids.append(github.call("POST", f"/repos/{NAME}/deployments", body)[1]["id"])
        github.call("POST", f"/repos/{NAME}/deployments/{ids[-1]}/statuses", {"state": "success"})
    states = [github.call("GET", f"/repos/{NAME}/deployments/{n}/statuses")[1][0]["state"] for n in ids]
    assert states == ["inactive", "success"]


def test_lists_come_in_pages(github: Running, clone: Clone) -> None:
    clone.push(*(f"HEAD:refs/heads/p{number}" for number in range(4)))
    seen: list[str] = []
    path = f"/repos/{NAME}/branches?per_page=2"
    while path:
        _, page, headers = github.call("GET", path)
        assert 1 <= len(page) <= 2
        seen += [branch["name"] for branch in page]
        found = re.search(r'<([^>]+)>; rel="next"', headers.get("Link", ""))
        path = found.group(1).removeprefix(github.api) if found else ""
    assert len(seen) == len(set(seen)) >= 6


# --- git -----------------------------------------------------------------------------------------------------------


def git(*arguments: str, cwd: Path | None = None) -> "subprocess.CompletedProcess[str]":
    env = {
        "PATH": "/usr/bin:/bin:/usr/local/bin",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "HOME": "/",
    }
    return subprocess.run(["git", *arguments], cwd=cwd, env=env, capture_output=True, text=True, check=False)


def address(github: Running, secret: str, name: str = NAME) -> str:
    return f"{github.url.replace('://', f'://x-access-token:{secret}@')}/{name}.git"


def test_git_reads_with_a_token_for_reading_and_does_not_write(github: Running, clone: Clone) -> None:
    reader = token(github, contents="read")
    assert "refs/heads/main" in git("ls-remote", address(github, reader)).stdout
    pushed = git("push", address(github, reader), "HEAD:refs/heads/evil", cwd=clone.folder)
    assert "denied to deploy-runner[bot]" in pushed.stderr
    assert "Repository not found" in git("ls-remote", address(github, reader, OTHER)).stderr
    assert git("ls-remote", address(github, token(github, checks="read"))).returncode
    assert git("ls-remote", address(github, "ghs_wrong")).returncode
    assert git("ls-remote", f"{github.url}/{NAME}.git").returncode
    for path in (
        "HEAD",
        "config",
        "objects/info/packs",
        "info/refs?service=git-upload-archive",
        "info/refs",
        "../x/HEAD",
    ):
        request = urllib.request.Request(f"{github.url}/{NAME}.git/{path}")
        request.add_header("Authorization", f"Bearer {github.state.developer_token}")
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(request, timeout=5)


def test_git_gives_any_commit_by_its_sha(github: Running, clone: Clone, tmp_path: Path) -> None:
    clone.git("checkout", "-q", "--detach", "main")
    sha = clone.commit("on no branch soon", **{f"file{n}": "x" * 5000 for n in range(50)})
    clone.push("HEAD:refs/heads/gone")
    clone.push(":refs/heads/gone")
    git("init", "-q", str(tmp_path / "x"))
    fetched = git("fetch", "-q", "--depth=1", address(github, token(github, contents="read")), sha, cwd=tmp_path / "x")
    assert fetched.returncode == 0, fetched.stderr


def test_a_large_push_arrives_whole(github: Running, clone: Clone, tmp_path: Path) -> None:
    """Above http.postBuffer git sends chunks of unknown length."""
    clone.git("checkout", "-q", "--detach", "main")
    (clone.folder / "large").write_bytes(os.urandom(3_000_000))
    sha = clone.commit("large")
    clone.push("HEAD:refs/heads/large")
    fresh = git("clone", "-q", "--branch=large", address(github, github.state.developer_token), str(tmp_path / "y"))
    assert fresh.returncode == 0, fresh.stderr
    assert git("rev-parse", "HEAD", cwd=tmp_path / "y").stdout.strip() == sha


def test_the_first_branch_that_is_pushed_is_the_default(github: Running) -> None:
    clone = github.make("lightwave-media/trunk-based", 1500)
    clone.commit("first")
    clone.push("HEAD:refs/heads/trunk")
    assert github.call("GET", "/repos/lightwave-media/trunk-based")[1]["default_branch"] == "trunk"


# --- as a part of local AWS ----------------------------------------------------------------------------------------


@pytest.mark.xdist_group("local_aws_in_process")
def test_local_aws_has_it_with_its_key_in_secrets_manager(tmp_path: Path) -> None:
    machine = light.start(4735, tmp_path, "github")
    try:
        import boto3

        from deploy_runner.github.app_auth import AppAuth
        from deploy_runner.github.errors import GitHubNotFound

        secrets = boto3.client(
            "secretsmanager", endpoint_url=machine.endpoint, region_name=machine.region,
            aws_access_key_id="local", aws_secret_access_key="local",
        )  # fmt: skip
        key = secrets.get_secret_value(SecretId=PRIVATE_KEY_SECRET)["SecretString"]
        assert machine.exports["LOCAL_GITHUB_URL"] == machine.github_url == "http://127.0.0.1:4736"
        assert machine.exports["LOCAL_GITHUB_TOKEN"].startswith("ghp_")
        with pytest.raises(GitHubNotFound):  # it knows the App, and has no such repository
            AppAuth(1001, key, f"{machine.github_url}/api/v3").token(NAME, {"contents": "read"})
    finally:
        machine.stop()

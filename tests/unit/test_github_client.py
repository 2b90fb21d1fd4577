"""What we ask of GitHub and tell it, at the local GitHub; and the facts that the rules of domain/allow.py need."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy_runner.domain.allow import decide
from deploy_runner.domain.apps import load
from deploy_runner.domain.errors import ChecksNotGreen, RefNotAllowed, RequesterNotAllowed
from deploy_runner.domain.request import parse_request
from deploy_runner.github import client as client_module
from deploy_runner.github.client import Branch, Check, GitHub, ResolvedRef
from deploy_runner.github.errors import GitHubNotFound, GitHubRefused, GitHubUnavailable
from deploy_runner.github.facts import RepositoryFacts
from tests.unit.fake_history import FakeHistory, FakeRunning
from tests.unit.local_github import NAME, Clone, Running, running, scripted


@pytest.fixture
def github(tmp_path: Path) -> Iterator[Running]:
    with running(tmp_path) as github:
        yield github


@pytest.fixture
def clone(github: Running) -> Clone:
    clone = github.make(NAME, 1001)
    clone.commit("first", Dockerfile="FROM scratch")
    clone.push("HEAD:refs/heads/main")
    return clone


def facts(github: Running) -> RepositoryFacts:
    return RepositoryFacts(github.client(), NAME)


def head(clone: Clone) -> str:
    return clone.git("rev-parse", "HEAD")


# --- refs ----------------------------------------------------------------------------------------------------------


def test_a_repository_is_told_by_its_id(github: Running, clone: Clone) -> None:
    found = github.client().get_repository(NAME)
    assert (found.id, found.full_name, found.default_branch, found.private) == (1001, NAME, "main", True)
    assert facts(github).repository_id() == 1001
    assert RepositoryFacts(github.client(), "lightwave-media/gone").repository_id() is None
    github.state.find("lightwave-media", "cineos").installed = False
    assert facts(github).repository_id() is None
    with pytest.raises(GitHubNotFound):
        github.client().get_repository(NAME)


def test_a_renamed_repository_is_not_known_by_its_old_name() -> None:
    renamed = {"id": 1001, "full_name": "lightwave-media/new", "default_branch": "main", "private": True}
    with scripted((301, {"Location": "/repositories/1001"}, {}), (200, {}, renamed)) as server:
        assert RepositoryFacts(GitHub(server.url, lambda *_: "t"), NAME).repository_id() is None


def test_branches_tags_and_commits_are_told_apart(github: Running, clone: Clone) -> None:
    first, ask = head(clone), github.client().resolve_ref
    clone.git("tag", "light")
    clone.git("tag", "-a", "annotated", "-m", "a release")
    clone.git("tag", "-a", "nested", "annotated", "-m", "a tag of a tag")
    clone.git("tag", "of-a-tree", "HEAD^{tree}")
    clone.push("--tags", "HEAD:refs/heads/feature/a%b")
    assert ask(NAME, "main") == ResolvedRef("branch", "main", first)
    assert ask(NAME, "feature/a%b") == ResolvedRef("branch", "feature/a%b", first)
    for tag in ("light", "annotated", "nested"):
        assert ask(NAME, tag) == ResolvedRef("tag", tag, first)
    assert ask(NAME, "of-a-tree") is None
    assert ask(NAME, first) == ResolvedRef("commit", first, first)
    for nothing in ("mai", "feature", first[:12], "0" * 40, first.upper(), "heads/main", "HEAD", "main~1"):
        assert ask(NAME, nothing) is None, nothing


def test_a_branch_that_looks_like_a_sha_does_not_hide(github: Running, clone: Clone) -> None:
    name = "a" * 40
    clone.push(f"HEAD:refs/heads/{name}")
    assert github.client().resolve_ref(NAME, name) == ResolvedRef("branch", name, head(clone))


def test_a_branch_named_as_a_tag_does_not_hide_it_from_who_says_which(github: Running, clone: Clone) -> None:
    released, ask = head(clone), github.client().resolve_ref
    clone.git("tag", "v1")
    clone.git("checkout", "-q", "-b", "v1")
    other = clone.commit("on a branch that is called v1 too")
    clone.push("refs/tags/v1", "refs/heads/v1")
    assert ask(NAME, "v1") == ask(NAME, "refs/heads/v1") == ResolvedRef("branch", "v1", other)
    assert ask(NAME, "refs/tags/v1") == ResolvedRef("tag", "v1", released)
    for nothing in ("refs/tags/main", "refs/heads/v2", "refs/pull/1/head", "refs/main"):
        assert ask(NAME, nothing) is None, nothing


def test_an_older_servers_list_of_refs_is_no_ref() -> None:
    refs = [{"ref": "refs/heads/main2", "object": {"type": "commit", "sha": "a" * 40}}]
    with scripted((200, {}, refs)) as server:
        assert GitHub(server.url, lambda *_: "t").resolve_ref(NAME, "main") is None


# --- the history of branches ---------------------------------------------------------------------------------------


def test_only_the_history_of_a_matching_branch_counts(github: Running, clone: Clone) -> None:
    first = head(clone)
    second = clone.commit("second")
    clone.push("HEAD:refs/heads/main")
    clone.git("checkout", "-q", "-b", "topic")
    topic = clone.commit("on a topic")
    clone.push("HEAD:refs/heads/topic")
    clone.git("checkout", "-q", "--orphan", "alone")
    alone = clone.commit("no common history")
    clone.push("HEAD:refs/heads/alone")
    gone = clone.commit("its branch is deleted, as a fork's commit is on none")
    clone.push("HEAD:refs/heads/deleted")
    clone.push(":refs/heads/deleted")
    on = facts(github).branch_containing
    assert on(first, ["main"]) == on(second, ["main"]) == "main"
    assert on(topic, ["main"]) is None
    assert on(topic, ["t*"]) == "topic"
    assert on(topic, ["main", "topic"]) == "topic"
    assert on(alone, ["main"]) is None
    assert on(alone, ["**"]) == "alone"
    assert github.client().resolve_ref(NAME, gone) == ResolvedRef("commit", gone, gone)
    assert on(gone, ["**"]) is None
    assert on(first, ["no-such-branch"]) is None


def test_a_tag_named_as_a_branch_does_not_stand_in_for_it(github: Running, clone: Clone) -> None:
    clone.git("checkout", "-q", "-b", "evil")
    evil = clone.commit("not merged")
    clone.git("tag", "main")
    clone.push("HEAD:refs/heads/evil", "refs/tags/main")
    assert facts(github).branch_containing(evil, ["main"]) is None


def test_many_branches_are_paged_and_the_search_is_bounded(
    github: Running, clone: Clone, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = head(clone)
    newer = clone.commit("newer")
    monkeypatch.setattr(client_module, "PER_PAGE", 4)
    monkeypatch.setattr(client_module, "MAX_COMPARISONS", 3)
    clone.push(*(f"HEAD:refs/heads/b{number}" for number in range(9)))
    assert len(list(github.client().list_branches(NAME))) == 10
    assert facts(github).branch_containing(newer, ["b*"]) == "b0"
    stray = clone.commit("on no branch")
    clone.push(
        "HEAD:refs/heads/x",
    )
    clone.push(":refs/heads/x")
    with pytest.raises(GitHubRefused, match=r"first 3 branches.*Name the branch"):
        facts(github).branch_containing(stray, ["b*"])
    found = facts(github)
    assert found.repository_id() == 1001
    assert found.branch_containing(old, ["**"]) == "main"  # the default branch is tried first


def test_a_branch_at_the_commit_needs_no_comparison() -> None:
    with scripted((500, {}, {})) as server:
        branches = iter([Branch("other", "b" * 40), Branch("main", "a" * 40)])
        found = GitHub(server.url, lambda *_: "t").branches_containing(NAME, "a" * 40, branches)
        assert next(found) == "main"
        assert server.heard == []


def test_tags_are_found_by_the_commit_that_they_stand_for(
    github: Running, clone: Clone, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = head(clone)
    clone.git("tag", "v1")
    clone.git("tag", "-a", "v1.0", "-m", "x")
    second = clone.commit("second")
    for number in range(5):
        clone.git("tag", f"v2.{number}")
    clone.push("--tags")
    monkeypatch.setattr(client_module, "PER_PAGE", 2)
    assert set(github.client().tags_of(NAME, first)) == {"v1", "v1.0"}
    assert len(github.client().tags_of(NAME, second)) == 5
    assert github.client().tags_of(NAME, "0" * 40) == ()


# --- checks and runs -----------------------------------------------------------------------------------------------


def report(github: Running, sha: str, name: str, conclusion: str | None, token: str | None = None) -> None:
    body = {"name": name, "head_sha": sha, **({"conclusion": conclusion} if conclusion else {"status": "in_progress"})}
    status, said, _ = github.call("POST", f"/repos/{NAME}/check-runs", body, token)
    assert status == 201, said


def test_the_latest_check_of_each_name_counts(github: Running, clone: Clone, monkeypatch: pytest.MonkeyPatch) -> None:
    sha = head(clone)
    assert github.client().checks(NAME, sha) == ()
    report(github, sha, "test", "failure")
    report(github, sha, "test", "success")
    report(github, sha, "lint", "success")
    report(github, sha, "lint", None)
    for state in ("success", "pending"):
        github.call("POST", f"/repos/{NAME}/statuses/{sha}", {"state": state, "context": "old/ci"})
    github.call("POST", f"/repos/{NAME}/statuses/{sha}", {"state": "failure", "context": "test"})
    monkeypatch.setattr(client_module, "PER_PAGE", 1)
    assert sorted(github.client().checks(NAME, sha), key=str) == sorted(
        [Check("test", "success"), Check("lint", None), Check("old/ci", None), Check("test", "failure")], key=str
    )


def test_another_app_cannot_overrule_a_check(github: Running, clone: Clone) -> None:
    sha = head(clone)
    report(github, sha, "test", "failure")
    report(github, sha, "test", "success", github.auth().token(NAME, {"checks": "write"}))
    assert sorted(str(check.conclusion) for check in github.client().checks(NAME, sha)) == ["failure", "success"]


def test_a_run_says_who_started_it(github: Running, clone: Clone) -> None:
    body = {"head_sha": head(clone), "triggering_actor": "joel"}
    _, run, _ = github.call("POST", f"/_local/repos/{NAME}/actions/runs", body)
    found = github.client().workflow_run(NAME, run["id"])
    assert found is not None
    assert (found.triggering_actor, found.head_sha, found.event) == ("joel", head(clone), "push")
    assert github.client().workflow_run(NAME, 99) is None


# --- what we tell --------------------------------------------------------------------------------------------------


def test_a_deployment_is_made_once_and_its_statuses_stand_at_github(github: Running, clone: Clone) -> None:
    sha, client = head(clone), github.client()
    report(github, sha, "slow", None)  # no check of GitHub's own stops it: the rules in apps.yaml decide
    made = client.create_deployment(NAME, sha, "prod", deployment_id="d-1", description="x" * 200, production=True)
    assert client.create_deployment(NAME, sha, "prod", deployment_id="d-1") == made
    assert client.create_deployment(NAME, sha, "prod", deployment_id="d-2") != made
    for state in ("queued", "in_progress", "success"):
        client.set_deployment_status(
            NAME,
            made,
            state,
            description="y\n" * 200,
            log_url="https://example.com/log",
            environment_url="https://x.example",
        )
    _, statuses, _ = github.call("GET", f"/repos/{NAME}/deployments/{made}/statuses")
    assert [status["state"] for status in statuses] == ["success", "in_progress", "queued"]
    assert statuses[0]["log_url"] == "https://example.com/log"
    assert len(statuses[0]["description"]) == 140
    _, deployment, _ = github.call("GET", f"/repos/{NAME}/deployments/{made}")
    assert (deployment["sha"], deployment["environment"]) == (sha, "prod")
    assert deployment["creator"]["login"] == "deploy-runner[bot]"


def test_an_unclear_end_of_a_post_makes_no_second_deployment() -> None:
    with scripted((200, {}, []), (502, {}, {}), (201, {}, {"id": 1})) as server:
        with pytest.raises(GitHubUnavailable):
            GitHub(server.url, lambda *_: "t").create_deployment(NAME, "a" * 40, "dev", deployment_id="d-1")
        assert [heard.method for heard in server.heard] == ["GET", "POST"]


def test_a_check_run_carries_the_summary(github: Running, clone: Clone) -> None:
    number = github.client().create_check_run(
        NAME, head(clone), "deploy / prod", conclusion="failure", title="exit 1", summary="z" * 70_000,
        external_id="d-1", details_url="https://example.com",
    )  # fmt: skip
    _, run, _ = github.call("GET", f"/repos/{NAME}/check-runs/{number}")
    assert (run["conclusion"], run["external_id"], len(run["output"]["summary"])) == ("failure", "d-1", 65_535)
    going = github.client().create_check_run(NAME, head(clone), "d", conclusion=None, title="t", summary="s")
    assert github.call("GET", f"/repos/{NAME}/check-runs/{going}")[1]["status"] == "in_progress"


def test_what_was_told_before_is_found_again(github: Running, clone: Clone) -> None:
    sha, client = head(clone), github.client()
    made = client.create_deployment(NAME, sha, "dev", deployment_id="d-1")
    assert client.deployment_state(NAME, made) is None
    for state in ("queued", "failure"):
        client.set_deployment_status(NAME, made, state)
    assert client.deployment_state(NAME, made) == "failure"
    numbers = {
        (name, ours): client.create_check_run(
            NAME, sha, name, conclusion="success", title="t", summary="s", external_id=ours
        )
        for name, ours in (("a: b/c & d", "d-1"), ("a: b/c & d", "d-2"), ("other", "d-3"))
    }
    # filter=latest, the default, would show only the newest of a name
    assert client.find_check_run(NAME, sha, "a: b/c & d", "d-1") == numbers["a: b/c & d", "d-1"]
    assert client.find_check_run(NAME, sha, "a: b/c & d", "d-3") is None


@pytest.mark.parametrize("answer", [[], {"id": None}, "text", None, {"full_name": 1}])
def test_an_answer_of_another_form_is_unavailable(answer: Any) -> None:
    with scripted((200, {}, answer)) as server, pytest.raises(GitHubUnavailable, match="documented form"):
        GitHub(server.url, lambda *_: "t").get_repository(NAME)


# --- the rules, with these facts -----------------------------------------------------------------------------------

APPS = """
version: 1
environments:
  prod:
    {account: "123456789012", region: us-east-1, cluster: prod, refs: {branches: [main], tags: ["v*"]}, checks: [test]}
apps:
  cineos:
    repository: {name: lightwave-media/cineos, id: 1001}
    environments:
      prod: {services: {cineos: [app]}, requesters: [joel]}
"""


def test_the_rules_decide_by_these_facts(github: Running, clone: Clone) -> None:
    allowlist, sha = load(APPS), head(clone)
    _, run, _ = github.call("POST", f"/_local/repos/{NAME}/actions/runs", {"head_sha": sha, "triggering_actor": "joel"})
    source = {"repository": NAME, "run_id": run["id"], "run_url": "https://x.example/1"}

    def ask(ref: str) -> Any:
        request = {"app": "cineos", "environment": "prod", "ref": ref, "source": source}
        return decide(allowlist, parse_request(request), facts(github), FakeHistory(), FakeRunning())

    with pytest.raises(ChecksNotGreen):
        ask(sha)
    report(github, sha, "test", "success")
    assert ask(sha).sha == ask("main").sha == ask("refs/heads/main").sha == sha
    clone.git("checkout", "-q", "-b", "topic")
    topic = clone.commit("not merged")
    clone.push("HEAD:refs/heads/topic")
    for ref in ("topic", topic):
        with pytest.raises(RefNotAllowed):
            ask(ref)
    clone.git("tag", "v9")
    clone.push("v9")
    report(github, topic, "test", "success")
    with pytest.raises(RequesterNotAllowed):
        ask("v9")  # the run is of another commit

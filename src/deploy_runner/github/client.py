"""What we ask of GitHub, and what we tell it: one method a question, each with the least permissions that it needs."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from deploy_runner.domain.errors import one_line
from deploy_runner.github.api import Api, repository_path
from deploy_runner.github.errors import GitHubNotFound, GitHubRefused, GitHubUnavailable

# The permissions of the GitHub App, by what they are for. A token has one row of it.
METADATA = {"metadata": "read"}
CONTENTS = {"contents": "read"}
CHECKS = {"checks": "read", "statuses": "read"}
ACTIONS = {"actions": "read"}
DEPLOYMENTS = {"deployments": "write"}
CHECK_RUNS = {"checks": "write"}

MAX_COMPARISONS = 40  # each takes about 0.2 s, and a Lambda of ours has 60 s
MAX_NESTED_TAGS = 5
MAX_DESCRIPTION = 140  # docs.github.com/en/rest/deployments/statuses
MAX_SUMMARY = 65_535  # docs.github.com/en/rest/checks/runs
PER_PAGE = 100

type TokenFor = Callable[[str, Mapping[str, str]], str]


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository, by GitHub's word."""

    id: int
    full_name: str
    default_branch: str
    private: bool


@dataclass(frozen=True, slots=True)
class ResolvedRef:
    """What a ref is (branch, tag or commit), and the commit's full SHA."""

    kind: str
    name: str
    sha: str


@dataclass(frozen=True, slots=True)
class Branch:
    """A branch and its newest commit."""

    name: str
    sha: str


@dataclass(frozen=True, slots=True)
class Check:
    """A check run or commit status; its conclusion is None while it runs."""

    name: str
    conclusion: str | None


@dataclass(frozen=True, slots=True)
class WorkflowRun:
    """A workflow run, and who started it."""

    id: int
    triggering_actor: str
    head_sha: str
    head_branch: str | None
    event: str


class GitHub:
    """GitHub's API. `token_for(repository, permissions)` gives a token: AppAuth.token, or that with a repository's id.

    Every method may raise GitHubUnavailable (trying later may help) and GitHubRefused.
    """

    def __init__(self, api_url: str, token_for: TokenFor, *, api: Api | None = None) -> None:
        self._api = api or Api(api_url)
        self._token_for = token_for

    # --- what is there --------------------------------------------------------------------------------------------

    def get_repository(self, repository: str) -> Repository:
        """Return a repository. Raises GitHubNotFound."""
        given = self._get(repository, METADATA)
        with _expected(repository):
            return Repository(given["id"], given["full_name"], given["default_branch"], given["private"])

    def resolve_ref(self, repository: str, ref: str) -> ResolvedRef | None:
        """Return what a branch, tag or full SHA stands for, in this order; None where there is none.

        `refs/heads/NAME` is a branch and `refs/tags/NAME` a tag, whatever else bears the name. A full SHA is looked up
        as a branch and tag too, so that one of that name does not go unseen.
        """
        for kind, folder in (("branch", "heads"), ("tag", "tags")):
            if ref.startswith("refs/") and not ref.startswith(f"refs/{folder}/"):
                continue
            name = ref.removeprefix(f"refs/{folder}/")
            found = self._try(repository, CONTENTS, "git", "ref", f"{folder}/{name}")
            # An older server answers with every ref that starts so.
            if isinstance(found, Mapping) and found.get("ref") == f"refs/{folder}/{name}":
                sha = self._peel(repository, found["object"])
                return ResolvedRef(kind, name, sha) if sha else None
        if _is_sha(ref) and self._try(repository, CONTENTS, "git", "commits", ref) is not None:
            return ResolvedRef("commit", ref, ref)
        return None

    def list_branches(self, repository: str) -> Iterator[Branch]:
        """Yield every branch, page by page."""
        for page in self._pages(repository, CONTENTS, "branches"):
            with _expected(repository):
                yield from [Branch(entry["name"], entry["commit"]["sha"]) for entry in page]

    def branches_containing(self, repository: str, sha: str, branches: Iterator[Branch]) -> Iterator[str]:
        """Yield the branches whose history has the commit, asking for one at a time.

        Raises GitHubRefused when the next one would be the 41st. Compares by SHA: a tag may bear a branch's name.
        """
        later = []
        for branch in branches:
            if branch.sha == sha:
                yield branch.name
            else:
                later.append(branch)
        for count, branch in enumerate(later):
            if count == MAX_COMPARISONS:
                rule = f"The commit must be on one of the first {MAX_COMPARISONS} branches that may be deployed"
                raise GitHubRefused(rule, sha, "Name the branch instead of the commit")
            compared = self._try(repository, CONTENTS, "compare", f"{branch.sha}...{sha}", query="?per_page=1")
            # docs.github.com/en/rest/commits/commits#compare-two-commits: seen from the branch, the commit is behind.
            if compared is not None and compared.get("status") in ("behind", "identical"):
                yield branch.name

    def tags_of(self, repository: str, sha: str) -> tuple[str, ...]:
        """Return the names of the tags, light or annotated, that stand for the commit."""
        with _expected(repository):
            return tuple(
                entry["name"]
                for page in self._pages(repository, CONTENTS, "tags")
                for entry in page
                if entry["commit"]["sha"] == sha
            )

    def checks(self, repository: str, sha: str) -> tuple[Check, ...]:
        """Return the check runs and commit statuses of a commit: of each name the latest by each App."""
        runs: dict[tuple[object, str], dict[str, Any]] = {}
        statuses: dict[str, Check] = {}
        with _expected(repository):
            for page in self._pages(repository, CHECKS, "commits", sha, "check-runs", query="filter=latest&"):
                for run in page["check_runs"]:
                    key = ((run.get("app") or {}).get("id"), run["name"])
                    if key not in runs or runs[key]["id"] < run["id"]:
                        runs[key] = run
            for page in self._pages(repository, CHECKS, "commits", sha, "status"):
                for status in page["statuses"]:
                    conclusion = None if status["state"] == "pending" else status["state"]
                    statuses.setdefault(status["context"], Check(status["context"], conclusion))
            ended = [(run, run["conclusion"] if run["status"] == "completed" else None) for run in runs.values()]
            return (*(Check(run["name"], conclusion) for run, conclusion in ended), *statuses.values())

    def workflow_run(self, repository: str, run_id: int) -> WorkflowRun | None:
        """Return a workflow run of the repository, None where there is none."""
        given = self._try(repository, ACTIONS, "actions", "runs", run_id)
        if given is None:
            return None
        with _expected(repository):
            actor = (given.get("triggering_actor") or given["actor"])["login"]
            return WorkflowRun(given["id"], actor, given["head_sha"], given["head_branch"], given["event"])

    # --- what we tell ---------------------------------------------------------------------------------------------

    def create_deployment(
        self, repository: str, sha: str, environment: str, *, deployment_id: str, description: str = "",
        production: bool = False,
    ) -> int:  # fmt: skip
        """Return the number of the GitHub deployment for our deployment; made once, however often it is asked for."""
        path = repository_path(repository, "deployments")
        token = self._token_for(repository, DEPLOYMENTS)
        query = f"?sha={sha}&per_page={PER_PAGE}"
        with _expected(repository):
            for found in self._api.call("GET", path + query, token).data:
                payload = found.get("payload")
                if isinstance(payload, Mapping) and payload.get("deployment_id") == deployment_id:
                    return int(found["id"])
        body = {
            "ref": sha,
            "environment": environment,
            "description": one_line(description, MAX_DESCRIPTION),
            "payload": {"deployment_id": deployment_id},
            "auto_merge": False,
            "required_contexts": [],  # the rules in apps.yaml decide
            "production_environment": production,
        }
        made = self._api.call("POST", path, token, body, repeatable=False).data
        with _expected(repository):
            return int(made["id"])

    def set_deployment_status(
        self, repository: str, github_deployment_id: int, state: str, *, description: str = "", log_url: str = "",
        environment_url: str = "", auto_inactive: bool = True,
    ) -> None:  # fmt: skip
        """Say how far a deployment is: queued, in_progress, success, failure, error or inactive."""
        body = {"state": state, "description": one_line(description, MAX_DESCRIPTION), "auto_inactive": auto_inactive}
        body |= {"log_url": log_url} if log_url else {}
        body |= {"environment_url": environment_url} if environment_url else {}
        self._post(repository, DEPLOYMENTS, body, "deployments", github_deployment_id, "statuses")

    def deployment_state(self, repository: str, github_deployment_id: int) -> str | None:
        """Return the newest state of a deployment, None where none was set."""
        query = f"?per_page={PER_PAGE}"
        with _expected(repository):
            given = self._get(repository, DEPLOYMENTS, "deployments", github_deployment_id, "statuses", query=query)
            return str(given[0]["state"]) if given else None  # the newest comes first

    def find_check_run(self, repository: str, sha: str, name: str, external_id: str) -> int | None:
        """Return the number of our check run on a commit, by the id that we gave it; None where there is none."""
        query = f"check_name={quote(name, safe='')}&filter=all&"
        with _expected(repository):
            for page in self._pages(repository, CHECK_RUNS, "commits", sha, "check-runs", query=query):
                for run in page["check_runs"]:
                    if run.get("external_id") == external_id:
                        return int(run["id"])
        return None

    def create_check_run(
        self, repository: str, sha: str, name: str, *, conclusion: str | None, title: str, summary: str,
        details_url: str = "", external_id: str = "",
    ) -> int:  # fmt: skip
        """Return the number of a new check run with a summary in Markdown; without a conclusion it is in progress."""
        output = {"title": one_line(title, 250), "summary": summary[:MAX_SUMMARY]}
        body: dict[str, Any] = {"name": name, "head_sha": sha, "output": output}
        body |= {"status": "completed", "conclusion": conclusion} if conclusion else {"status": "in_progress"}
        body |= {"details_url": details_url} if details_url else {}
        body |= {"external_id": external_id} if external_id else {}
        with _expected(repository):
            return int(self._post(repository, CHECK_RUNS, body, "check-runs")["id"])

    # --- calls ----------------------------------------------------------------------------------------------------

    def _get(self, repository: str, permissions: Mapping[str, str], *parts: str | int, query: str = "") -> Any:
        path = repository_path(repository, *parts) + query
        return self._api.call("GET", path, self._token_for(repository, permissions)).data

    def _try(self, repository: str, permissions: Mapping[str, str], *parts: str | int, query: str = "") -> Any:
        """Return what is there or None; a repository that is gone still raises GitHubNotFound, by its token."""
        path = repository_path(repository, *parts) + query
        token = self._token_for(repository, permissions)
        try:
            return self._api.call("GET", path, token).data
        except GitHubNotFound:
            return None

    def _pages(
        self, repository: str, permissions: Mapping[str, str], *parts: str | int, query: str = ""
    ) -> Iterator[Any]:
        path = f"{repository_path(repository, *parts)}?{query}per_page={PER_PAGE}"
        return self._api.pages(path, self._token_for(repository, permissions))

    def _post(self, repository: str, permissions: Mapping[str, str], body: object, *parts: str | int) -> Any:
        path = repository_path(repository, *parts)
        return self._api.call("POST", path, self._token_for(repository, permissions), body).data

    def _peel(self, repository: str, target: Mapping[str, Any]) -> str | None:
        """Return the commit behind an annotated tag, None where it stands for something else."""
        for _ in range(MAX_NESTED_TAGS):
            if target["type"] == "commit":
                return str(target["sha"])
            if target["type"] != "tag":
                return None
            target = self._get(repository, CONTENTS, "git", "tags", target["sha"])["object"]
        return None


class _expected:  # noqa: N801 - reads as a verb
    """Turn what a strange answer does to our code into GitHubUnavailable."""

    def __init__(self, repository: str) -> None:
        self.repository = repository

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if isinstance(error, KeyError | TypeError | AttributeError | ValueError):
            rule = f"GitHub's answer about {self.repository} must have the documented form"
            raise GitHubUnavailable(rule, error) from error


def _is_sha(ref: str) -> bool:
    return len(ref) == 40 and all(character in "0123456789abcdef" for character in ref)

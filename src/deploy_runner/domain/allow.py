"""Whether a request may be deployed, and which rule decides. GitHub is asked only for what the rules need, in order."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from deploy_runner.domain.apps import Allowlist, App, Environment, Refs
from deploy_runner.domain.errors import (
    AppNotAllowed,
    ChecksNotGreen,
    EnvironmentFrozen,
    EnvironmentNotAllowed,
    RefNotAllowed,
    RefNotFound,
    RequesterNotAllowed,
    show,
)
from deploy_runner.domain.request import SHA, Request, Source


class ResolvedRef(Protocol):
    """What GitHub says that a ref is: kind is branch, tag or commit."""

    @property
    def kind(self) -> str: ...  # noqa: D102 - the class says it
    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def sha(self) -> str: ...  # noqa: D102


class Check(Protocol):
    """A check run or commit status; its conclusion is None while it runs."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def conclusion(self) -> str | None: ...  # noqa: D102


class Run(Protocol):
    """A workflow run, as GitHub knows it."""

    @property
    def triggering_actor(self) -> str: ...  # noqa: D102
    @property
    def head_sha(self) -> str: ...  # noqa: D102


class Facts(Protocol):
    """What is asked of GitHub about one app's repository."""

    def repository_id(self) -> int | None:
        """Return the numeric id behind the repository's name, None where there is none."""

    def resolve(self, ref: str) -> ResolvedRef | None:
        """Return what a branch, tag or full SHA stands for, None where there is none.

        `refs/heads/NAME` and `refs/tags/NAME` stand for a branch and a tag alone.
        """

    def branch_containing(self, sha: str, globs: Sequence[str]) -> str | None:
        """Return a branch that matches a glob and whose history has the commit, None where there is none."""

    def tags_at(self, sha: str) -> Sequence[str]:
        """Return the tags of the commit."""

    def checks(self, sha: str) -> Sequence[Check]:
        """Return the checks of the commit, the latest of each name."""

    def run(self, run_id: int) -> Run | None:
        """Return a workflow run, None where there is none."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """A request that every rule lets pass: what it is for, and the full SHA."""

    app: App
    environment: Environment
    sha: str
    because: str


def decide(allowlist: Allowlist, request: Request, facts: Facts) -> Accepted:
    """Return the accepted request, or raise the RequestRejected whose rule refused it; `facts` may raise its own."""
    app, environment = allowed_place(allowlist, request)
    check_repository(app, facts.repository_id())
    sha, because = _allowed_commit(app, environment, request.ref, facts)
    if environment.checks:
        check_green(app, environment, sha, facts.checks(sha))
    if environment.requesters is not None:
        source = check_source(app, environment, request.source)
        check_requester(app, environment, sha, source.run_id, facts.run(source.run_id))
    return Accepted(app, environment, sha, because)


def allowed_place(allowlist: Allowlist, request: Request) -> tuple[App, Environment]:
    """Return the app and environment of a request. Needs nothing of GitHub. A freeze stops deployments, not builds."""
    app = allowlist.apps.get(request.app)
    if app is None:
        remedy = "Add it there in a reviewed pull request and deploy the stack, or correct the name"
        raise AppNotAllowed("An app must be listed in apps.yaml", request.app, remedy)
    environment = app.environments.get(request.environment)
    if environment is None:
        remedy = f"Choose one of {', '.join(app.environments)}, or add it to the app in apps.yaml"
        raise EnvironmentNotAllowed(f"{app.name} must have the environment in apps.yaml", request.environment, remedy)
    if environment.freeze is not None and request.action != "build":
        rule = f"{app.name} is frozen in {environment.name}"
        raise EnvironmentFrozen(rule, environment.freeze, "Remove `freeze` from apps.yaml when it is over")
    return app, environment


def check_repository(app: App, repository_id: int | None) -> None:
    """Refuse a repository that is gone, or that someone else made under the same name."""
    if repository_id is None:
        remedy = "Correct apps.yaml, and install the GitHub App on the repository"
        raise AppNotAllowed("GitHub must show us the app's repository", app.repository.name, remedy)
    if repository_id != app.repository.id:
        rule = f"{app.repository.name} must be the repository with the id {app.repository.id}"
        raise AppNotAllowed(rule, repository_id, "If it was made anew on purpose, correct the id in apps.yaml")


def _allowed_commit(app: App, environment: Environment, ref: str, facts: Facts) -> tuple[str, str]:
    """Return the SHA that may be deployed and why."""
    resolved = facts.resolve(ref)
    if resolved is None:
        remedy = "Name a branch, a tag or a full SHA of 40 hex digits that is pushed there"
        raise RefNotFound(f"The ref must be in {app.repository.name}", ref, remedy)
    if not SHA.fullmatch(resolved.sha):
        raise RefNotFound("GitHub must resolve the ref to a full SHA", resolved.sha, "Name another ref")
    name = resolved.name
    if resolved.kind == "commit":
        return resolved.sha, _why_commit_allowed(app, environment, resolved.sha, facts)
    if SHA.fullmatch(name):
        rule = f"A {resolved.kind} must not look like a SHA"
        raise RefNotAllowed(rule, name, f"Rename the {resolved.kind}: it hides the commit")
    globs = environment.refs.branches if resolved.kind == "branch" else environment.refs.tags
    glob = first_match(globs, name)
    if glob is None:
        raise _not_allowed(app, environment, f"{resolved.kind} {name}")
    return resolved.sha, f"{resolved.kind} {name} matches {glob}"


def _why_commit_allowed(app: App, environment: Environment, sha: str, facts: Facts) -> str:
    """Return the allowed branch or tag that holds the commit.

    GitHub resolves a commit of a fork through its parent too: what counts is the history of this repository's branches.
    """
    refs = environment.refs
    branch = facts.branch_containing(sha, refs.branches) if refs.branches else None
    if branch is not None:
        return f"commit is on branch {branch}"
    for tag in facts.tags_at(sha) if refs.tags else ():
        if first_match(refs.tags, tag):
            return f"commit is tag {tag}"
    raise _not_allowed(app, environment, f"commit {sha}, which is on none of them")


def _not_allowed(app: App, environment: Environment, what: str) -> RefNotAllowed:
    remedy = f"Merge it there first, or widen `refs` of {app.name} in apps.yaml"
    return RefNotAllowed(f"{app.name} takes only {describe(environment.refs)} in {environment.name}", what, remedy)


def describe(refs: Refs) -> str:
    """Return what may be deployed, for people."""
    branches = f"branches {', '.join(refs.branches)}" if refs.branches else ""
    tags = f"tags {', '.join(refs.tags)}" if refs.tags else ""
    return " and ".join(part for part in (branches, tags) if part)


def first_match(globs: Sequence[str], name: str) -> str | None:
    """Return the first glob that the whole name matches: `*` stops at a slash, `**` does not, all else is itself."""
    return next((glob for glob in globs if re.fullmatch(_pattern(glob), name)), None)


def _pattern(glob: str) -> str:
    parts = re.split(r"(\*+)", glob)
    return "".join(("[^/]*" if part == "*" else ".*") if part.startswith("*") else re.escape(part) for part in parts)


def check_green(app: App, environment: Environment, sha: str, checks: Sequence[Check]) -> None:
    """Refuse a commit unless every required check concluded with success: skipped is no proof that tests passed."""
    broken = []
    for name in environment.checks:
        conclusions = [check.conclusion for check in checks if check.name == name]
        if not conclusions:
            broken.append(f"{show(name)} is missing")
        elif None in conclusions:
            broken.append(f"{show(name)} is pending")
        elif any(conclusion != "success" for conclusion in conclusions):
            what = next(str(conclusion) for conclusion in conclusions if conclusion != "success")
            broken.append(f"{show(name)} is {show(what)[1:-1]}")
    if broken:
        rule = f"Every check that {app.name} requires in {environment.name} must be success on {sha[:12]}: "
        remedy = "Wait until it is green, or mend the commit"
        raise ChecksNotGreen(rule + ", ".join(broken[:10]), remedy=remedy)


def check_source(app: App, environment: Environment, source: Source | None) -> Source:
    """Return the run that asks; where `requesters` are listed it must be a run of the app's own repository."""
    rule = f"{app.name} in {environment.name} needs a workflow run of {app.repository.name} as `source`"
    if source is None or source.repository.lower() != app.repository.name.lower():
        value = source.repository if source else "no source"
        raise RequesterNotAllowed(rule, value, "Dispatch from a workflow of the app's repository")
    return source


def check_requester(app: App, environment: Environment, sha: str, run_id: int, run: Run | None) -> None:
    """Refuse unless a listed person, by GitHub's word and not the request's, started a run of this very commit."""
    remedy = "Let one of them start it, or add the login to `requesters` in apps.yaml"
    if run is None:
        rule = f"The workflow run in `source` must be in {app.repository.name}"
        raise RequesterNotAllowed(rule, run_id, "Dispatch from a workflow of the app's repository")
    if run.head_sha != sha:
        rule = f"The workflow run in `source` must be of the commit {sha[:12]}"
        raise RequesterNotAllowed(rule, run.head_sha, "Start the workflow on the commit that is to be deployed")
    allowed = environment.requesters or ()
    if run.triggering_actor.lower() not in {login.lower() for login in allowed}:
        rule = f"{app.name} is deployed to {environment.name} only by {', '.join(allowed)}"
        raise RequesterNotAllowed(rule, run.triggering_actor, remedy)

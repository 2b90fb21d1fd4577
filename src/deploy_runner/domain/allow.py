"""Whether a request may be deployed, and which rule decides. GitHub is asked only for what the rules need, in order."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from deploy_runner.domain.apps import Allowlist, App, Environment, Refs
from deploy_runner.domain.errors import (
    AppNotAllowed,
    ChecksNotGreen,
    EnvironmentFrozen,
    EnvironmentNotAllowed,
    NothingToGoBackTo,
    NotPromotable,
    RefNotAllowed,
    RefNotFound,
    RequesterNotAllowed,
    RequestRejected,
    show,
)
from deploy_runner.domain.request import SHA, Request


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


class Good(Protocol):
    """A deployment that succeeded; `revisions` are the ARNs of its task definitions by service."""

    @property
    def deployment(self) -> str: ...  # noqa: D102
    @property
    def started_at(self) -> str: ...  # noqa: D102
    @property
    def sha(self) -> str: ...  # noqa: D102
    @property
    def digest(self) -> str: ...  # noqa: D102
    @property
    def revisions(self) -> Mapping[str, str]: ...  # noqa: D102


class History(Protocol):
    """What is asked of our own history."""

    def last_good(self, app: str, environment: str) -> Good | None:
        """Return what to go back to from what runs now, None where there is nothing.

        That is the newest deployment that succeeded, with another digest, before what runs now was first deployed.
        """

    def named(self, app: str, environment: str, deployment_id: str) -> Good | None:
        """Return this deployment if it was to this app and environment and succeeded, None otherwise."""


class Current(Protocol):
    """What runs in an environment: by which deployment, of which commit, which digest."""

    @property
    def deployment(self) -> str: ...  # noqa: D102
    @property
    def sha(self) -> str: ...  # noqa: D102
    @property
    def digest(self) -> str: ...  # noqa: D102


class Running(Protocol):
    """What is asked of ECS about an environment that is promoted from."""

    def current(self, app: App, environment: Environment) -> Current:
        """Return what all services of the app run there; raises NotPromotable where that is not one thing."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """A request that every rule lets pass: what it is for, and the full SHA.

    `digest` is given where nothing is built, `origin` where an earlier deployment is restored; `emergency` says that a
    freeze was lifted for it.
    """

    app: App
    environment: Environment
    sha: str
    because: str
    digest: str | None = None
    origin: Good | None = None
    emergency: bool = False


def decide(allowlist: Allowlist, request: Request, facts: Facts, history: History, running: Running) -> Accepted:
    """Return the accepted request, or raise the RequestRejected whose rule refused it.

    `facts`, `history` and `running` may raise errors of their own.
    """
    app, environment = allowed_place(allowlist, request)
    check_repository(app, facts.repository_id())
    if request.action == "rollback":
        # Its refs and checks are not asked for: the commit was allowed when it was deployed, and to go back must be
        # possible when the branch is gone, or when what is checked has changed since.
        accepted = _what_ran_before(app, environment, request, history)
    elif request.action == "promote":
        accepted = _what_runs_elsewhere(app, environment, request, facts, history, running)
    else:
        sha, because = _allowed_commit(app, environment, str(request.ref), facts)
        accepted = Accepted(app, environment, sha, because)
    if environment.checks and request.action != "rollback":
        check_green(app, environment, accepted.sha, facts.checks(accepted.sha))
    return _check_who(accepted, request, facts)


def _what_ran_before(app: App, environment: Environment, request: Request, history: History) -> Accepted:
    place = f"{app.name} in {environment.name}"
    if request.deployment is None:
        good = history.last_good(app.name, environment.name)
        if good is None:
            rule = f"For {place}, a deployment of another image must have succeeded before what runs now"
            raise NothingToGoBackTo(rule, None, "Deploy a commit instead")
    else:
        good = history.named(app.name, environment.name, request.deployment)
        if good is None:
            rule = f"`deployment` must be one of {place} that succeeded"
            raise NothingToGoBackTo(rule, request.deployment, "Name another, or none: then it is the last good one")
    missing = [service.name for service in environment.services if service.name not in good.revisions]
    if request.exact and missing:
        rule = f"With `exact`, {good.deployment} must have deployed every service of {place}; it did not deploy "
        raise NothingToGoBackTo(rule + ", ".join(missing)[:200], None, "Go back without `exact`")
    because = f"deployment {good.deployment} of {good.started_at} succeeded"
    return Accepted(app, environment, good.sha, because, good.digest, good)


def _what_runs_elsewhere(
    app: App, environment: Environment, request: Request, facts: Facts, history: History, running: Running
) -> Accepted:
    other = _environment(app, str(request.promote_from))
    current = running.current(app, other)
    # The tags of what runs there are what the owners of that account let them be; our own history says whether this
    # digest is of this commit, and whether its deployment ended well.
    good = history.named(app.name, other.name, current.deployment)
    if good is None or (good.sha, good.digest) != (current.sha, current.digest):
        rule = f"What {app.name} runs in {other.name} must be what a deployment brought there with success"
        raise NotPromotable(rule, current.deployment, f"Deploy it to {other.name} first")
    sha, because = _allowed_commit(app, environment, current.sha, facts)
    return Accepted(app, environment, sha, f"{because}; it runs in {other.name}", current.digest)


def allowed_place(allowlist: Allowlist, request: Request) -> tuple[App, Environment]:
    """Return the app and environment of a request. Needs nothing of GitHub.

    A freeze stops deployments, not builds. Whether it is an emergency is for GitHub to say, later.
    """
    app = allowlist.apps.get(request.app)
    if app is None:
        remedy = "Add it there in a reviewed pull request and deploy the stack, or correct the name"
        raise AppNotAllowed("An app must be listed in apps.yaml", request.app, remedy)
    environment = _environment(app, request.environment)
    if request.promote_from is not None:
        _environment(app, request.promote_from)
    if _is_frozen(environment, request) and not (request.emergency and environment.emergency):
        rule = f"{app.name} is frozen in {environment.name}"
        raise EnvironmentFrozen(rule, environment.freeze, _when_frozen(environment))
    return app, environment


def _environment(app: App, name: str) -> Environment:
    environment = app.environments.get(name)
    if environment is None:
        remedy = f"Choose one of {', '.join(app.environments)}, or add it to the app in apps.yaml"
        raise EnvironmentNotAllowed(f"{app.name} must have the environment in apps.yaml", name, remedy)
    return environment


def _is_frozen(environment: Environment, request: Request) -> bool:
    return environment.freeze is not None and request.action != "build"


def _when_frozen(environment: Environment) -> str:
    if environment.emergency:
        who = ", ".join(environment.emergency)
        return f"Wait until `freeze` is gone from apps.yaml; in an emergency, {who} may start it with `emergency: true`"
    return "Wait until `freeze` is gone from apps.yaml; nobody is listed there in `emergency`"


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


def _check_who(accepted: Accepted, request: Request, facts: Facts) -> Accepted:
    """Return what was accepted, if whoever started the run may deploy there, and may do so now."""
    app, environment = accepted.app, accepted.environment
    # What is put back or promoted is no commit that someone could have started a run of.
    sha = accepted.sha if accepted.digest is None else None
    if environment.requesters is not None:
        rule = f"{app.name} is deployed to {environment.name} only by {', '.join(environment.requesters)}"
        remedy = "Let one of them start it, or add the login to `requesters` in apps.yaml"
        _check_starter(RequesterNotAllowed(rule, None, remedy), environment.requesters, app, request, sha, facts)
    if not _is_frozen(environment, request):
        return accepted
    rule = f"{app.name} is frozen in {environment.name} ({environment.freeze})"
    refusal = EnvironmentFrozen(rule, None, _when_frozen(environment))
    who = _check_starter(refusal, environment.emergency, app, request, sha, facts)
    because = f"{accepted.because}; emergency by {who} in spite of the freeze ({environment.freeze})"
    return replace(accepted, because=because, emergency=True)


def _check_starter(
    refusal: RequestRejected, logins: Sequence[str], app: App, request: Request, sha: str | None, facts: Facts
) -> str:
    """Return who started the run in `source`, by GitHub's word and not the request's.

    Raises an error like `refusal`, with what is wrong, unless it is one of the logins and the run is in the app's own
    repository, and of the commit where one is given.
    """
    source, name = request.source, app.repository.name

    def refused(what: str, value: object) -> RequestRejected:
        return type(refusal)(f"{refusal.rule}: {what}", value, refusal.remedy)

    if source is None or source.repository.lower() != name.lower():
        raise refused(f"`source` must be a workflow run of {name}", source.repository if source else "no source")
    run = facts.run(source.run_id)
    if run is None:
        raise refused(f"the workflow run in `source` must be in {name}", source.run_id)
    if sha is not None and run.head_sha != sha:
        raise refused(f"the workflow run in `source` must be of the commit {sha[:12]}", run.head_sha)
    if run.triggering_actor.lower() not in {login.lower() for login in logins}:
        raise refused("the workflow run in `source` was started by someone else", run.triggering_actor)
    return run.triggering_actor

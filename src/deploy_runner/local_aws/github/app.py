"""The WSGI application: routes, who may call them, and GitHub's way of refusing."""
# ruff: noqa: D103 - each endpoint is the operation of docs.github.com/en/rest at its route

import json
import math
import re
import time
from collections.abc import Callable, Iterable
from typing import Any

import jwt
from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound
from werkzeug.routing import Map, Rule
from werkzeug.wrappers import Request, Response

from deploy_runner.local_aws.github import git_http
from deploy_runner.local_aws.github.bodies import Bodies, Json, time_text
from deploy_runner.local_aws.github.state import (
    APP_ID,
    APP_PERMISSIONS,
    APP_SLUG,
    DEVELOPER,
    INSTALLATION_ID,
    LEVELS,
    Actor,
    Repository,
    State,
)

REPO = "/repos/<owner>/<name>"
DOCUMENTATION = "https://docs.github.com/rest"
CONCLUSIONS = ("action_required", "cancelled", "failure", "neutral", "success", "skipped", "stale", "timed_out")
STATES = ("error", "failure", "inactive", "in_progress", "queued", "pending", "success")
_FULL_SHA = re.compile(r"[0-9a-f]{40}")
_OWNER = re.compile(r"[A-Za-z0-9-]{1,39}")
_NAME = re.compile(r"[A-Za-z0-9._-]{1,100}")


class Problem(HTTPException):  # type: ignore[misc]  # werkzeug is not followed
    """An error as GitHub answers it: docs.github.com/en/rest/using-the-rest-api/troubleshooting-the-rest-api."""

    def __init__(self, status: int, message: str, **more: Any) -> None:
        body = {"message": message, **more, "documentation_url": DOCUMENTATION, "status": str(status)}
        super().__init__(message, Response(json.dumps(body), status, mimetype="application/json"))


def wrong(resource: str, field: str, code: str) -> Problem:
    """Return GitHub's answer to a value that it does not take."""
    return Problem(422, "Validation Failed", errors=[{"resource": resource, "field": field, "code": code}])


class Call:
    """One request, with what its endpoint needs."""

    def __init__(self, state: State, request: Request, actor: Actor) -> None:
        self.state, self.request, self.actor = state, request, actor
        self.bodies = Bodies(request.host_url)

    def body(self) -> Json:
        """Return the JSON object that was sent."""
        try:
            body = json.loads(self.request.get_data() or b"{}")
        except ValueError:
            raise Problem(400, "Problems parsing JSON") from None
        if not isinstance(body, dict):
            raise Problem(400, "Body should be a JSON object")
        return body

    def text(self, body: Json, key: str, *, default: str | None = None) -> str:
        """Return a text of the body."""
        value = body.get(key, default)
        if value is None:
            raise Problem(422, f'Invalid request.\n\n"{key}" wasn\'t supplied.')
        if not isinstance(value, str):
            raise Problem(422, f"Invalid request.\n\nFor 'properties/{key}', {json.dumps(value)[:80]} is not a string.")
        return value

    def answer(self, data: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
        """Return an answer in JSON."""
        return Response(json.dumps(data), status, headers, mimetype="application/json")

    def page(self, items: list[Any], show: Callable[[Any], Json], wrap: Callable[[list[Json]], Any] = list) -> Response:
        """Return one page of a list, with GitHub's Link header."""
        per_page = min(max(self.request.args.get("per_page", 30, int), 1), 100)
        number = max(self.request.args.get("page", 1, int), 1)
        last = max(1, math.ceil(len(items) / per_page))
        shown = [show(item) for item in items[(number - 1) * per_page : number * per_page]]
        headers = {}
        if number < last:
            others = "".join(f"&{k}={v}" for k, v in self.request.args.items() if k not in ("page", "per_page"))
            url = f"{self.request.base_url}?per_page={per_page}{others}&page="
            headers["Link"] = f'<{url}{number + 1}>; rel="next", <{url}{last}>; rel="last"'
        return self.answer(wrap(shown), headers=headers)

    def commit(self, repository: Repository, ref: str) -> str:
        """Return the SHA behind a commit-ish, or refuse as GitHub does."""
        found = repository.commit(ref)
        if found is None:
            raise Problem(422, f"No commit found for SHA: {ref}")
        return found


type Endpoint = Callable[..., Response]
_ROUTES: list[tuple[str, str, Endpoint, tuple[str, str] | None]] = []


def route(method: str, path: str, needs: tuple[str, str] | None = None) -> Callable[[Endpoint], Endpoint]:
    """Register an endpoint; `needs` is the permission and its level."""

    def register(endpoint: Endpoint) -> Endpoint:
        _ROUTES.append((method, f"/api/v3{path}", endpoint, needs))
        return endpoint

    return register


class LocalGitHub:
    """The WSGI application."""

    def __init__(self, state: State) -> None:
        self.state = state
        rules = [Rule(path, methods=[method], endpoint=(endpoint, needs)) for method, path, endpoint, needs in _ROUTES]
        rules += [Rule("/<owner>/<name>/<path:path>", methods=["GET", "POST"], endpoint="git")]
        self._map = Map(rules, merge_slashes=False, strict_slashes=False)

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        request = Request(environ)
        try:
            response = self._answer(request)
        except HTTPException as error:
            response = error.response or Problem(error.code or 500, error.description or error.name).response
        response.headers["X-GitHub-Request-Id"] = "LOCAL"
        answer: Iterable[bytes] = response(environ, start_response)
        return answer

    def _answer(self, request: Request) -> Response:
        adapter = self._map.bind_to_environ(request.environ)
        try:
            endpoint, arguments = adapter.match()
        except (NotFound, MethodNotAllowed):
            raise Problem(404, "Not Found") from None
        if endpoint == "git" and arguments["owner"] == "api":
            raise Problem(404, "Not Found")
        if endpoint == "git":
            return git_http.answer(self.state, request, **arguments)
        function, needs = endpoint
        call = Call(self.state, request, self._actor(request))
        # One at a time: what is asked of git is short, and pushes go past this lock.
        with self.state.lock:
            if "owner" in arguments and "name" in arguments:
                arguments["repository"] = self._visible(
                    call.actor, arguments.pop("owner"), arguments.pop("name"), needs
                )
            response: Response = function(call, **arguments)
            return response

    def _visible(self, actor: Actor, owner: str, name: str, needs: tuple[str, str] | None) -> Repository:
        repository = self.state.find(owner, name)
        if repository is None:
            raise Problem(404, "Not Found")
        if needs is not None:
            if not actor.sees(repository):
                raise Problem(404, "Not Found")
            if not actor.may(repository, *needs):
                raise Problem(403, "Resource not accessible by integration")
        return repository

    def _actor(self, request: Request) -> Actor:
        given = request.headers.get("Authorization", "")
        if not given:
            return Actor("nobody")
        secret = given.partition(" ")[2].strip()
        if request.authorization is not None and request.authorization.type == "basic":
            secret = request.authorization.password or ""
        if secret.count(".") == 2:
            return self._app(secret)
        actor = self.state.actor(secret)
        if actor is None:
            raise Problem(401, "Bad credentials")
        return actor

    def _app(self, token: str) -> Actor:
        """Verify an App's own token, by the rules of docs.github.com's page on generating one."""
        try:
            claims = jwt.decode(
                token, self.state.public_key, algorithms=["RS256"], options={"require": ["iat", "exp", "iss"]}, leeway=0
            )
        except jwt.ImmatureSignatureError:
            what = "an Integer representing the time that the assertion was issued"
            raise Problem(401, f"'Issued at' claim ('iat') must be {what}") from None
        except jwt.ExpiredSignatureError:
            what = "a numeric value representing the future time at which the assertion expires"
            raise Problem(401, f"'Expiration time' claim ('exp') must be {what}") from None
        except jwt.InvalidTokenError:
            raise Problem(401, "A JSON web token could not be decoded") from None
        if str(claims["iss"]) != str(APP_ID):
            raise Problem(401, "Integration not found")
        if claims["exp"] > time.time() + 600:
            raise Problem(401, "'Expiration time' claim ('exp') is too far in the future")
        return Actor("app")


def _only(call: Call, kind: str) -> None:
    if call.actor.kind != kind:
        refusal = {"app": "A JSON web token could not be decoded", "developer": "Requires authentication"}[kind]
        raise Problem(401, refusal)


# --- the App -------------------------------------------------------------------------------------------------------


@route("GET", "/app")
def get_app(call: Call) -> Response:
    _only(call, "app")
    return call.answer(call.bodies.app())


@route("GET", f"{REPO}/installation")
def get_installation(call: Call, repository: Repository) -> Response:
    _only(call, "app")
    if not repository.installed:
        raise Problem(404, "Not Found")
    return call.answer(call.bodies.installation("selected", repository.owner))


@route("POST", "/app/installations/<int:number>/access_tokens")
def create_token(call: Call, number: int) -> Response:
    _only(call, "app")
    if number != INSTALLATION_ID:
        raise Problem(404, "Not Found")
    body = call.body()
    permissions = body.get("permissions", APP_PERMISSIONS)
    if not isinstance(permissions, dict) or any(level not in LEVELS for level in permissions.values()):
        raise wrong("InstallationToken", "permissions", "invalid")
    for permission, level in permissions.items():
        if LEVELS.get(APP_PERMISSIONS.get(permission, ""), 0) < LEVELS[level]:
            raise Problem(422, "The permissions requested are not granted to this installation.")
    installed = {r.id: r for r in call.state.repositories.values() if r.installed}
    chosen = dict(installed)
    if "repository_ids" in body or "repositories" in body:
        names = {str(name).lower() for name in body.get("repositories", [])}
        ids = set(body.get("repository_ids", [])) | {r.id for r in installed.values() if r.name.lower() in names}
        if ids - set(installed) or not ids or (names and not any(r.name.lower() in names for r in installed.values())):
            message = (
                "There is at least one repository that does not exist or is not accessible to the parent installation."
            )
            raise Problem(422, message)
        chosen = {number: installed[number] for number in ids}
    granted = {"metadata": "read"} | permissions
    secret, token = call.state.mint(granted, frozenset(chosen))
    return call.answer(
        {
            "token": secret,
            "expires_at": time_text(token.expires_at),
            "permissions": granted,
            "repository_selection": "selected" if {"repository_ids", "repositories"} & set(body) else "all",
            "repositories": [call.bodies.repository(repository) for repository in chosen.values()],
        },
        201,
    )


# --- repositories and git ------------------------------------------------------------------------------------------


@route("POST", "/orgs/<org>/repos")
def create_repository(call: Call, org: str) -> Response:
    """Create a repository. Its `id` may be given, which GitHub itself does not allow, so that apps.yaml can name it."""
    _only(call, "developer")
    body = call.body()
    name = call.text(body, "name")
    if (
        not re.fullmatch(r"[A-Za-z0-9._-]{1,100}", name)
        or name in (".", "..")
        or not re.fullmatch(r"[A-Za-z0-9-]{1,39}", org)
    ):
        raise wrong("Repository", "name", "custom")
    if call.state.find(org, name):
        taken = {"resource": "Repository", "code": "custom", "field": "name"}
        taken["message"] = "name already exists on this account"
        raise Problem(422, "Repository creation failed.", errors=[taken])
    number = body["id"] if "id" in body else call.state.next_id()
    if not isinstance(number, int) or isinstance(number, bool) or number < 1 or call.state.by_id(number):
        raise wrong("Repository", "id", "invalid")
    repository = call.state.create(org, name, number, bool(body.get("private", False)), body.get("description"))
    return call.answer(call.bodies.repository(repository), 201)


@route("GET", REPO, ("metadata", "read"))
def get_repository(call: Call, repository: Repository) -> Response:
    return call.answer(call.bodies.repository(repository))


@route("GET", "/repositories/<int:number>")
def get_repository_by_id(call: Call, number: int) -> Response:
    repository = call.state.by_id(number)
    if repository is None or not call.actor.sees(repository):
        raise Problem(404, "Not Found")
    return call.answer(call.bodies.repository(repository))


@route("GET", f"{REPO}/branches", ("contents", "read"))
def list_branches(call: Call, repository: Repository) -> Response:
    return call.page(repository.refs("heads"), lambda ref: call.bodies.short_branch(repository, ref[0], ref[2]))


@route("GET", f"{REPO}/branches/<path:branch>", ("contents", "read"))
def get_branch(call: Call, repository: Repository, branch: str) -> Response:
    found = repository.ref(f"heads/{branch}")
    if found is None:
        raise Problem(404, "Branch not found")
    return call.answer(call.bodies.branch(repository, branch, found[1]))


@route("GET", f"{REPO}/tags", ("contents", "read"))
def list_tags(call: Call, repository: Repository) -> Response:
    return call.page(repository.tags()[::-1], lambda tag: call.bodies.tag(repository, *tag))


@route("GET", f"{REPO}/git/ref/<path:ref>", ("contents", "read"))
def get_ref(call: Call, repository: Repository, ref: str) -> Response:
    found = repository.ref(ref)
    if found is None:
        raise Problem(404, "Not Found")
    return call.answer(call.bodies.git_ref(repository, ref, *found))


@route("GET", f"{REPO}/git/matching-refs/<path:ref>", ("contents", "read"))
def matching_refs(call: Call, repository: Repository, ref: str) -> Response:
    folder, _, start = ref.partition("/")
    found = [(f"{folder}/{name}", kind, sha) for name, kind, sha in repository.refs(folder) if name.startswith(start)]
    return call.page(found, lambda one: call.bodies.git_ref(repository, *one))


@route("GET", f"{REPO}/git/tags/<sha>", ("contents", "read"))
def get_tag(call: Call, repository: Repository, sha: str) -> Response:
    found = call.bodies.tag_object(repository, sha) if _FULL_SHA.fullmatch(sha) else None
    if found is None:
        raise Problem(404, "Not Found")
    return call.answer(found)


@route("GET", f"{REPO}/git/commits/<sha>", ("contents", "read"))
def get_git_commit(call: Call, repository: Repository, sha: str) -> Response:
    if not _FULL_SHA.fullmatch(sha) or repository.git("cat-file", "-t", sha) != "commit":
        raise Problem(404, "Not Found")
    return call.answer(call.bodies.git_commit(repository, sha))


@route("GET", f"{REPO}/commits/<path:ref>", ("contents", "read"))
def get_commit(call: Call, repository: Repository, ref: str) -> Response:
    return call.answer(call.bodies.commit(repository, call.commit(repository, ref)))


@route("GET", f"{REPO}/compare/<path:basehead>", ("contents", "read"))
def compare(call: Call, repository: Repository, basehead: str) -> Response:
    base, _, head = basehead.partition("...")
    shas = [repository.commit(ref) for ref in (base, head)]
    if not shas[0] or not shas[1]:
        raise Problem(404, "Not Found")
    merge_base = repository.git("merge-base", shas[0], shas[1])
    if not merge_base:
        raise Problem(404, f"No common ancestor between {base} and {head}.")
    return call.answer(call.bodies.comparison(repository, shas[0], shas[1], merge_base))


# --- checks, statuses, workflow runs -------------------------------------------------------------------------------


@route("POST", f"{REPO}/check-runs", ("checks", "write"))
def create_check_run(call: Call, repository: Repository) -> Response:
    body = call.body()
    name, sha = call.text(body, "name"), call.text(body, "head_sha")
    if not _FULL_SHA.fullmatch(sha) or repository.commit(sha) is None:
        raise Problem(422, f"No commit found for SHA: {sha}")
    run: Json = {
        "id": call.state.next_id(), "name": name, "head_sha": sha, "status": "queued", "conclusion": None,
        "details_url": None, "external_id": "", "started_at": time_text(time.time()), "completed_at": None,
        "output": {}, "app_slug": APP_SLUG if call.actor.kind == "installation" else "github-actions",
    }  # fmt: skip
    _update_check_run(call, run, body)
    repository.check_runs.append(run)
    return call.answer(call.bodies.check_run(repository, run), 201)


@route("PATCH", f"{REPO}/check-runs/<int:number>", ("checks", "write"))
def update_check_run(call: Call, repository: Repository, number: int) -> Response:
    run = _one(repository.check_runs, number)
    if call.actor.kind == "installation" and run["app_slug"] != APP_SLUG:
        raise Problem(403, "Invalid app_id - check run can only be modified by the GitHub App that created it.")
    _update_check_run(call, run, call.body())
    return call.answer(call.bodies.check_run(repository, run))


def _update_check_run(call: Call, run: Json, body: Json) -> None:
    conclusion, status = body.get("conclusion"), body.get("status", run["status"])
    if conclusion is not None and conclusion not in CONCLUSIONS:
        raise wrong("CheckRun", "conclusion", "invalid")
    status = "completed" if conclusion else status
    if status not in ("queued", "in_progress", "completed", "waiting", "requested", "pending"):
        raise wrong("CheckRun", "status", "invalid")
    if status == "completed" and not (conclusion or run["conclusion"]):
        raise Problem(422, 'Invalid request.\n\n"conclusion" wasn\'t supplied.')
    output = body.get("output", {})
    if output and not output.get("summary"):
        raise Problem(422, 'Invalid request.\n\n"summary" wasn\'t supplied.')
    if len(str(output.get("summary", ""))) > 65535:
        raise Problem(422, "Invalid request.\n\nOnly 65535 characters are allowed; more were supplied.")
    run |= {"status": status, "output": output or run["output"]}
    run |= {key: call.text(body, key) for key in ("details_url", "external_id") if key in body}
    if status == "completed":
        run |= {"conclusion": conclusion or run["conclusion"], "completed_at": time_text(time.time())}


@route("GET", f"{REPO}/check-runs/<int:number>", ("checks", "read"))
def get_check_run(call: Call, repository: Repository, number: int) -> Response:
    return call.answer(call.bodies.check_run(repository, _one(repository.check_runs, number)))


@route("GET", f"{REPO}/commits/<path:ref>/check-runs", ("checks", "read"))
def list_check_runs(call: Call, repository: Repository, ref: str) -> Response:
    sha = call.commit(repository, ref)
    runs = [run for run in reversed(repository.check_runs) if run["head_sha"] == sha]
    for field, argument in (("name", "check_name"), ("status", "status")):
        if wanted := call.request.args.get(argument):
            runs = [run for run in runs if run[field] == wanted]
    if call.request.args.get("filter", "latest") == "latest":
        latest: dict[tuple[str, str], Json] = {}
        for run in runs:
            latest.setdefault((run["app_slug"], run["name"]), run)
        runs = list(latest.values())
    total = len(runs)
    show: Callable[[Any], Json] = lambda run: call.bodies.check_run(repository, run)  # noqa: E731
    return call.page(runs, show, lambda shown: {"total_count": total, "check_runs": shown})


@route("POST", f"{REPO}/statuses/<sha>", ("statuses", "write"))
def create_status(call: Call, repository: Repository, sha: str) -> Response:
    body = call.body()
    if not _FULL_SHA.fullmatch(sha) or repository.commit(sha) is None:
        raise Problem(422, f"No commit found for SHA: {sha}")
    if call.text(body, "state") not in ("error", "failure", "pending", "success"):
        raise wrong("Status", "state", "custom")
    now = time_text(time.time())
    status = {
        "id": call.state.next_id(), "sha": sha, "state": body["state"], "description": body.get("description"),
        "target_url": body.get("target_url"), "context": call.text(body, "context", default="default"),
        "created_at": now, "updated_at": now, "creator": call.actor.login,
    }  # fmt: skip
    repository.statuses.append(status)
    return call.answer(call.bodies.status(repository, status), 201)


@route("GET", f"{REPO}/commits/<path:ref>/status", ("statuses", "read"))
def get_combined_status(call: Call, repository: Repository, ref: str) -> Response:
    sha = call.commit(repository, ref)
    latest = _latest_statuses(repository, sha)
    whole = call.bodies.combined_status(repository, sha, latest)
    shown = {status["id"]: status for status in whole["statuses"]}
    return call.page(latest, lambda status: shown[status["id"]], lambda page: {**whole, "statuses": page})


def _latest_statuses(repository: Repository, sha: str) -> list[Json]:
    latest: dict[str, Json] = {}
    for status in reversed(repository.statuses):
        if status["sha"] == sha:
            latest.setdefault(status["context"], status)
    return list(latest.values())


@route("GET", f"{REPO}/actions/runs/<int:number>", ("actions", "read"))
def get_workflow_run(call: Call, repository: Repository, number: int) -> Response:
    if number not in repository.workflow_runs:
        raise Problem(404, "Not Found")
    return call.answer(call.bodies.workflow_run(repository, repository.workflow_runs[number]))


# --- deployments and dispatches ------------------------------------------------------------------------------------


@route("POST", f"{REPO}/deployments", ("deployments", "write"))
def create_deployment(call: Call, repository: Repository) -> Response:
    body = call.body()
    ref = call.text(body, "ref")
    sha = repository.commit(ref)
    if sha is None:
        raise Problem(422, f"No ref found for: {ref}")
    broken = [s["context"] for s in _latest_statuses(repository, sha) if s["state"] != "success"]
    broken += [r["name"] for r in repository.check_runs if r["head_sha"] == sha and r["conclusion"] != "success"]
    required = body.get("required_contexts")
    if broken and (required is None or set(required) & set(broken)):
        raise Problem(409, f"Conflict: Commit status checks failed for {ref}.")
    now, environment = time_text(time.time()), call.text(body, "environment", default="production")
    deployment: Json = {
        "id": call.state.next_id(), "sha": sha, "ref": ref, "task": call.text(body, "task", default="deploy"),
        "payload": body.get("payload", {}), "environment": environment, "original_environment": environment,
        "description": body.get("description") or None, "creator": call.actor.login, "created_at": now,
        "updated_at": now, "transient_environment": bool(body.get("transient_environment", False)),
        "production_environment": bool(body.get("production_environment", environment == "production")), "statuses": [],
    }  # fmt: skip
    repository.deployments.append(deployment)
    return call.answer(call.bodies.deployment(repository, deployment), 201)


@route("GET", f"{REPO}/deployments", ("deployments", "read"))
def list_deployments(call: Call, repository: Repository) -> Response:
    found = list(reversed(repository.deployments))
    for field in ("sha", "ref", "task", "environment"):
        if wanted := call.request.args.get(field):
            found = [deployment for deployment in found if deployment[field] == wanted]
    return call.page(found, lambda deployment: call.bodies.deployment(repository, deployment))


@route("GET", f"{REPO}/deployments/<int:number>", ("deployments", "read"))
def get_deployment(call: Call, repository: Repository, number: int) -> Response:
    return call.answer(call.bodies.deployment(repository, _one(repository.deployments, number)))


@route("POST", f"{REPO}/deployments/<int:number>/statuses", ("deployments", "write"))
def create_deployment_status(call: Call, repository: Repository, number: int) -> Response:
    deployment = _one(repository.deployments, number)
    body = call.body()
    if call.text(body, "state") not in STATES:
        raise wrong("DeploymentStatus", "state", "invalid")
    if len(call.text(body, "description", default="")) > 140:
        raise Problem(422, "Validation Failed", errors=["description is too long (maximum is 140 characters)"])
    for field in ("log_url", "target_url", "environment_url"):
        if body.get(field) and not re.match(r"https?://", call.text(body, field)):
            raise wrong("DeploymentStatus", field, "invalid")
    if body["state"] == "success" and body.get("auto_inactive", True):
        for other in repository.deployments:
            ended = other["statuses"] and other["statuses"][-1]["state"] == "success"
            same = other is not deployment and other["environment"] == deployment["environment"]
            if ended and same and not other["transient_environment"] and not other["production_environment"]:
                _add_status(call, other, "inactive", {})
    status = _add_status(call, deployment, body["state"], body)
    return call.answer(call.bodies.deployment_status(repository, deployment, status), 201)


def _add_status(call: Call, deployment: Json, state: str, body: Json) -> Json:
    now = time_text(time.time())
    log_url = body.get("log_url") or body.get("target_url") or ""
    status = {
        "id": call.state.next_id(), "state": state, "description": body.get("description") or "",
        "target_url": log_url, "log_url": log_url, "environment_url": body.get("environment_url") or "",
        "created_at": now, "updated_at": now, "creator": call.actor.login,
    }  # fmt: skip
    deployment["statuses"].append(status)
    deployment["updated_at"] = now
    return status


@route("GET", f"{REPO}/deployments/<int:number>/statuses", ("deployments", "read"))
def list_deployment_statuses(call: Call, repository: Repository, number: int) -> Response:
    deployment = _one(repository.deployments, number)
    newest_first = list(reversed(deployment["statuses"]))
    return call.page(newest_first, lambda status: call.bodies.deployment_status(repository, deployment, status))


@route("POST", f"{REPO}/dispatches", ("contents", "write"))
def create_dispatch(call: Call, repository: Repository) -> Response:
    body = call.body()
    event_type = call.text(body, "event_type")
    payload = body.get("client_payload", {})
    if not 1 <= len(event_type) <= 100:
        raise Problem(422, "Invalid request.\n\nevent_type must be 1 to 100 characters.")
    if not isinstance(payload, dict) or len(payload) > 10 or len(json.dumps(payload)) >= 65_536:
        raise Problem(422, "Invalid request.\n\nNo more than 10 properties are allowed in client_payload, under 64 KB.")
    sender = {"login": call.actor.login, "created_at": time_text(time.time())}
    repository.dispatches.append({"event_type": event_type, "client_payload": payload, "sender": sender})
    return Response(status=204)


def _one(entries: list[Json], number: int) -> Json:
    found = next((entry for entry in entries if entry["id"] == number), None)
    if found is None:
        raise Problem(404, "Not Found")
    return found


# --- what only the local GitHub has --------------------------------------------------------------------------------


@route("GET", f"/_local{REPO}/dispatches", ("contents", "read"))
def list_dispatches(call: Call, repository: Repository) -> Response:
    """Return the repository_dispatch events, the oldest first: no workflow runs here."""
    return call.answer(repository.dispatches)


@route("POST", f"/_local{REPO}/actions/runs", ("actions", "write"))
def create_workflow_run(call: Call, repository: Repository) -> Response:
    """Have a workflow run been made, as a push would."""
    body = call.body()
    sha = call.commit(repository, call.text(body, "head_sha"))
    number, now = call.state.next_id(), time_text(time.time())
    repository.workflow_runs[number] = {
        "id": number, "run_number": len(repository.workflow_runs) + 1, "head_sha": sha,
        "head_branch": call.text(body, "head_branch", default=repository.default_branch),
        "event": call.text(body, "event", default="push"), "status": "completed", "conclusion": "success",
        "triggering_actor": call.text(body, "triggering_actor", default=DEVELOPER), "created_at": now,
        "updated_at": now,
    }  # fmt: skip
    return call.answer(call.bodies.workflow_run(repository, repository.workflow_runs[number]), 201)

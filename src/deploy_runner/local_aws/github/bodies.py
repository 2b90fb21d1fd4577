"""The JSON that GitHub answers with; a test holds it to GitHub's published OpenAPI description."""

import base64
import datetime
from typing import Any
from urllib.parse import quote

from deploy_runner.local_aws.github.state import (
    APP_ID,
    APP_PERMISSIONS,
    APP_SLUG,
    INSTALLATION_ID,
    Repository,
)

type Json = dict[str, Any]

_REPOSITORY_URLS = {
    "archive_url": "/{archive_format}{/ref}", "assignees_url": "/assignees{/user}", "blobs_url": "/git/blobs{/sha}",
    "branches_url": "/branches{/branch}", "collaborators_url": "/collaborators{/collaborator}",
    "comments_url": "/comments{/number}", "commits_url": "/commits{/sha}", "compare_url": "/compare/{base}...{head}",
    "contents_url": "/contents/{+path}", "contributors_url": "/contributors", "deployments_url": "/deployments",
    "downloads_url": "/downloads", "events_url": "/events", "forks_url": "/forks",
    "git_commits_url": "/git/commits{/sha}",
    "git_refs_url": "/git/refs{/sha}", "git_tags_url": "/git/tags{/sha}", "hooks_url": "/hooks",
    "issue_comment_url": "/issues/comments{/number}", "issue_events_url": "/issues/events{/number}",
    "issues_url": "/issues{/number}", "keys_url": "/keys{/key_id}", "labels_url": "/labels{/name}",
    "languages_url": "/languages", "merges_url": "/merges", "milestones_url": "/milestones{/number}",
    "notifications_url": "/notifications{?since,all,participating}", "pulls_url": "/pulls{/number}",
    "releases_url": "/releases{/id}", "stargazers_url": "/stargazers", "statuses_url": "/statuses/{sha}",
    "subscribers_url": "/subscribers", "subscription_url": "/subscription", "tags_url": "/tags", "teams_url": "/teams",
    "trees_url": "/git/trees{/sha}", "url": "",
}  # fmt: skip
_USER_URLS = {
    "url": "", "followers_url": "/followers", "following_url": "/following{/other_user}",
    "gists_url": "/gists{/gist_id}",
    "starred_url": "/starred{/owner}{/repo}", "subscriptions_url": "/subscriptions", "organizations_url": "/orgs",
    "repos_url": "/repos", "events_url": "/events{/privacy}", "received_events_url": "/received_events",
}  # fmt: skip
_COMMIT_FORMAT = "%x00".join(("%H", "%T", "%P", "%an", "%ae", "%aI", "%cn", "%ce", "%cI", "%B"))


def time_text(seconds: float) -> str:
    """Return a time as GitHub writes it."""
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def node_id(kind: str, number: object) -> str:
    """Return an opaque id."""
    return base64.urlsafe_b64encode(f"{kind}:{number}".encode()).decode()


class Bodies:
    """Answers with addresses under `url`, where the client found us."""

    def __init__(self, url: str) -> None:
        self.html = url.rstrip("/")
        self.api = f"{self.html}/api/v3"

    def of(self, repository: Repository, *parts: object) -> str:
        """Return the API's address of something in a repository."""
        return "/".join([f"{self.api}/repos/{repository.full_name}", *(quote(str(part)) for part in parts)])

    def page(self, repository: Repository, *parts: object) -> str:
        """Return a person's address of something in a repository."""
        return "/".join([f"{self.html}/{repository.full_name}", *(quote(str(part)) for part in parts)])

    def user(self, login: str, kind: str = "User") -> Json:
        """Return a user, a bot or an organisation."""
        number = sum(login.encode()) + 10_000
        urls = {key: f"{self.api}/users/{login}{path}" for key, path in _USER_URLS.items()}
        return {
            "login": login, "id": number, "node_id": node_id(kind, number), "gravatar_id": "",
            "avatar_url": f"{self.html}/avatars/{number}", "html_url": f"{self.html}/{login}", "type": kind,
            "site_admin": False, **urls,
        }  # fmt: skip

    def actor(self, login: str) -> Json:
        """Return whoever did something."""
        return self.user(login, "Bot" if login.endswith("[bot]") else "User")

    def minimal_repository(self, repository: Repository) -> Json:
        """Return the part of a repository that other answers hold."""
        base = self.of(repository)
        return {
            "id": repository.id, "node_id": node_id("Repository", repository.id), "name": repository.name,
            "full_name": repository.full_name, "owner": self.user(repository.owner, "Organization"),
            "private": repository.private, "html_url": self.page(repository), "description": repository.description,
            "fork": False, **{key: base + path for key, path in _REPOSITORY_URLS.items()},
        }  # fmt: skip

    def repository(self, repository: Repository) -> Json:
        """Return a whole repository."""
        created = time_text(repository.created_at)
        nothing = ("forks", "forks_count", "open_issues", "open_issues_count", "stargazers_count", "watchers", "size",
                   "watchers_count", "network_count", "subscribers_count")  # fmt: skip
        off = ("has_wiki", "has_pages", "has_projects", "has_discussions", "archived", "disabled", "is_template")
        return {
            **self.minimal_repository(repository), **dict.fromkeys(nothing, 0), **dict.fromkeys(off, False),
            "clone_url": f"{self.page(repository)}.git", "git_url": f"git:{repository.full_name}.git",
            "ssh_url": f"git@127.0.0.1:{repository.full_name}.git", "svn_url": self.page(repository),
            "mirror_url": None, "homepage": None, "language": None, "license": None, "has_issues": True,
            "has_downloads": True, "topics": [], "visibility": "private" if repository.private else "public",
            "default_branch": repository.default_branch, "created_at": created, "updated_at": created,
            "pushed_at": created,
        }  # fmt: skip

    # --- git ------------------------------------------------------------------------------------------------------

    def git_ref(self, repository: Repository, ref: str, kind: str, sha: str) -> Json:
        """Return a ref, as in heads/main."""
        folder = {"commit": "commits", "tag": "tags", "tree": "trees", "blob": "blobs"}[kind]
        return {
            "ref": f"refs/{ref}", "node_id": node_id("Ref", f"{repository.id}:{ref}"),
            "url": self.of(repository, "git", "refs", ref),
            "object": {"sha": sha, "type": kind, "url": self.of(repository, "git", folder, sha)},
        }  # fmt: skip

    def git_commit(self, repository: Repository, sha: str) -> Json:
        """Return a commit as git has it."""
        said = repository.git("show", "-s", f"--format={_COMMIT_FORMAT}", sha) or ""
        full, tree, parents, an, ae, ad, cn, ce, cd, message = said.split("\0")
        return {
            "sha": full, "node_id": node_id("Commit", full), "url": self.of(repository, "git", "commits", full),
            "html_url": self.page(repository, "commit", full), "author": {"name": an, "email": ae, "date": _utc(ad)},
            "committer": {"name": cn, "email": ce, "date": _utc(cd)}, "message": message.strip("\n"),
            "tree": {"sha": tree, "url": self.of(repository, "git", "trees", tree)},
            "parents": [
                {"sha": parent, "url": self.of(repository, "git", "commits", parent),
                 "html_url": self.page(repository, "commit", parent)} for parent in parents.split()
            ],
            "verification": {
                "verified": False, "reason": "unsigned", "signature": None, "payload": None, "verified_at": None
            },
        }  # fmt: skip

    def commit(self, repository: Repository, sha: str) -> Json:
        """Return a commit as GitHub shows it."""
        inner = self.git_commit(repository, sha)
        kept = ("author", "committer", "message", "tree", "url", "verification")
        parents = [{**parent, "url": self.of(repository, "commits", parent["sha"])} for parent in inner["parents"]]
        url = self.of(repository, "commits", inner["sha"])
        return {
            "sha": inner["sha"], "node_id": inner["node_id"], "url": url, "html_url": inner["html_url"],
            "comments_url": f"{url}/comments", "commit": {**{key: inner[key] for key in kept}, "comment_count": 0},
            "author": None, "committer": None, "parents": parents,
        }  # fmt: skip

    def tag_object(self, repository: Repository, sha: str) -> Json | None:
        """Return an annotated tag, None where the SHA is of something else."""
        if repository.git("cat-file", "-t", sha) != "tag":
            return None
        head, _, message = (repository.git("cat-file", "-p", sha) or "").partition("\n\n")
        fields = dict(line.split(" ", 1) for line in head.split("\n"))
        who, _, when = fields["tagger"].rpartition("> ")
        name, _, email = who.partition(" <")
        folder = {"commit": "commits", "tag": "tags", "tree": "trees", "blob": "blobs"}[fields["type"]]
        return {
            "sha": sha, "node_id": node_id("Tag", sha), "url": self.of(repository, "git", "tags", sha),
            "tag": fields["tag"], "message": message,
            "tagger": {"name": name, "email": email, "date": time_text(float(when.split()[0]))},
            "object": {
                "sha": fields["object"], "type": fields["type"],
                "url": self.of(repository, "git", folder, fields["object"]),
            },
        }  # fmt: skip

    def short_branch(self, repository: Repository, name: str, sha: str) -> Json:
        """Return a branch as it is listed."""
        commit = {"sha": sha, "url": self.of(repository, "commits", sha)}
        return {"name": name, "commit": commit, "protected": False}

    def branch(self, repository: Repository, name: str, sha: str) -> Json:
        """Return a whole branch."""
        url = self.of(repository, "branches", name)
        off: Json = {"enforcement_level": "off", "contexts": [], "checks": []}
        return {
            "name": name, "commit": self.commit(repository, sha), "protected": False,
            "_links": {"self": url, "html": self.page(repository, "tree", name)},
            "protection": {"enabled": False, "required_status_checks": off}, "protection_url": f"{url}/protection",
        }  # fmt: skip

    def tag(self, repository: Repository, name: str, sha: str) -> Json:
        """Return a tag as it is listed: by the commit that it stands for."""
        return {
            "name": name, "node_id": node_id("Ref", f"{repository.id}:tags/{name}"),
            "commit": {"sha": sha, "url": self.of(repository, "commits", sha)},
            "zipball_url": self.of(repository, "zipball", "refs", "tags", name),
            "tarball_url": self.of(repository, "tarball", "refs", "tags", name),
        }  # fmt: skip

    def comparison(self, repository: Repository, base: str, head: str, merge_base: str) -> Json:
        """Return how `head` stands to `base`."""
        counts = repository.git("rev-list", "--left-right", "--count", f"{base}...{head}") or "0 0"
        behind, ahead = (int(count) for count in counts.split())
        status = "diverged" if ahead and behind else "ahead" if ahead else "behind" if behind else "identical"
        commits = (repository.git("rev-list", "--reverse", "--max-count=250", f"{base}..{head}") or "").split()
        html = self.page(repository, "compare", f"{base}...{head}")
        return {
            "url": self.of(repository, "compare", f"{base}...{head}"), "html_url": html, "permalink_url": html,
            "diff_url": f"{html}.diff", "patch_url": f"{html}.patch", "status": status, "ahead_by": ahead,
            "behind_by": behind, "total_commits": ahead, "base_commit": self.commit(repository, base),
            "merge_base_commit": self.commit(repository, merge_base),
            "commits": [self.commit(repository, sha) for sha in commits], "files": [],
        }  # fmt: skip

    # --- checks and runs ------------------------------------------------------------------------------------------

    def app(self, slug: str = APP_SLUG) -> Json:
        """Return a GitHub App; checks that the developer reports are GitHub Actions'."""
        number = APP_ID if slug == APP_SLUG else 15368
        created = time_text(1_700_000_000)
        return {
            "id": number, "slug": slug, "node_id": node_id("App", number), "name": slug, "description": None,
            "owner": self.user("local"), "external_url": self.html, "html_url": f"{self.html}/apps/{slug}",
            "created_at": created, "updated_at": created, "permissions": dict(APP_PERMISSIONS), "events": [],
        }  # fmt: skip

    def check_run(self, repository: Repository, run: Json) -> Json:
        """Return a check run."""
        url = self.of(repository, "check-runs", run["id"])
        output = {"title": None, "summary": None, "text": None} | run["output"]
        return {
            **{key: value for key, value in run.items() if key != "app_slug"},
            "node_id": node_id("CheckRun", run["id"]), "url": url, "html_url": self.page(repository, "runs", run["id"]),
            "details_url": run["details_url"] or self.page(repository, "runs", run["id"]),
            "output": {**output, "annotations_count": 0, "annotations_url": f"{url}/annotations"},
            "check_suite": {"id": run["id"]}, "app": self.app(run["app_slug"]), "pull_requests": [],
        }  # fmt: skip

    def status(self, repository: Repository, status: Json) -> Json:
        """Return a commit status."""
        creator = self.actor(status["creator"])
        kept = {key: value for key, value in status.items() if key != "sha"}
        return {
            **kept, "node_id": node_id("Status", status["id"]), "url": self.of(repository, "statuses", status["sha"]),
            "avatar_url": creator["avatar_url"], "creator": creator,
        }  # fmt: skip

    def combined_status(self, repository: Repository, sha: str, statuses: list[Json]) -> Json:
        """Return the latest status of each context."""
        states = {status["state"] for status in statuses}
        worst = (
            "failure"
            if states & {"failure", "error"}
            else "pending"
            if "pending" in states or not states
            else "success"
        )
        shown = [self.status(repository, status) for status in statuses]
        for entry in shown:
            entry.pop("creator")
        return {
            "state": worst, "sha": sha, "total_count": len(shown), "statuses": shown,
            "repository": self.minimal_repository(repository), "commit_url": self.of(repository, "commits", sha),
            "url": self.of(repository, "commits", sha, "status"),
        }  # fmt: skip

    def workflow_run(self, repository: Repository, run: Json) -> Json:
        """Return a workflow run."""
        url = self.of(repository, "actions", "runs", run["id"])
        commit = self.git_commit(repository, run["head_sha"])
        actor = self.actor(run["triggering_actor"])
        head = {
            "id": commit["sha"], "tree_id": commit["tree"]["sha"], "message": commit["message"],
            "timestamp": commit["committer"]["date"], "author": _person(commit["author"]),
            "committer": _person(commit["committer"]),
        }  # fmt: skip
        small = self.minimal_repository(repository)
        return {
            **run, "node_id": node_id("WorkflowRun", run["id"]), "name": "CI", "display_title": commit["message"],
            "run_attempt": 1, "path": ".github/workflows/ci.yml", "workflow_id": 1, "url": url,
            "html_url": self.page(repository, "actions", "runs", run["id"]), "actor": actor, "triggering_actor": actor,
            "head_commit": head, "repository": small, "head_repository": small, "pull_requests": [],
            "jobs_url": f"{url}/jobs", "logs_url": f"{url}/logs", "cancel_url": f"{url}/cancel",
            "rerun_url": f"{url}/rerun", "artifacts_url": f"{url}/artifacts", "run_started_at": run["created_at"],
            "check_suite_url": self.of(repository, "check-suites", run["id"]),
            "workflow_url": self.of(repository, "actions", "workflows", 1),
        }  # fmt: skip

    # --- deployments ----------------------------------------------------------------------------------------------

    def deployment(self, repository: Repository, deployment: Json) -> Json:
        """Return a deployment."""
        url = self.of(repository, "deployments", deployment["id"])
        kept = {key: value for key, value in deployment.items() if key != "statuses"}
        return {
            **kept, "node_id": node_id("Deployment", deployment["id"]), "url": url, "statuses_url": f"{url}/statuses",
            "repository_url": self.of(repository), "creator": self.actor(deployment["creator"]),
        }  # fmt: skip

    def deployment_status(self, repository: Repository, deployment: Json, status: Json) -> Json:
        """Return one status of a deployment."""
        url = self.of(repository, "deployments", deployment["id"])
        return {
            **status, "node_id": node_id("DeploymentStatus", status["id"]), "deployment_url": url,
            "url": f"{url}/statuses/{status['id']}", "repository_url": self.of(repository),
            "environment": deployment["environment"], "creator": self.actor(status["creator"]),
        }  # fmt: skip

    def installation(self, repository_selection: str, owner: str) -> Json:
        """Return our App's installation."""
        created = time_text(1_700_000_000)
        url = f"{self.api}/app/installations/{INSTALLATION_ID}"
        account = self.user(owner, "Organization")
        return {
            "id": INSTALLATION_ID, "account": account, "repository_selection": repository_selection,
            "access_tokens_url": f"{url}/access_tokens", "repositories_url": f"{self.api}/installation/repositories",
            "html_url": f"{self.html}/organizations/{owner}/settings/installations/{INSTALLATION_ID}",
            "app_id": APP_ID, "app_slug": APP_SLUG, "target_id": account["id"], "target_type": "Organization",
            "permissions": dict(APP_PERMISSIONS), "events": [], "created_at": created, "updated_at": created,
            "single_file_name": None, "suspended_by": None, "suspended_at": None,
        }  # fmt: skip


def _utc(timestamp: str) -> str:
    return time_text(datetime.datetime.fromisoformat(timestamp).timestamp())


def _person(author: Json) -> Json:
    return {"name": author["name"], "email": author["email"]}

"""What the local GitHub knows: repositories that are real bare git repositories, tokens, checks, deployments."""

import itertools
import os
import re
import secrets
import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import rsa

APP_ID = 1001
APP_SLUG = "deploy-runner"
INSTALLATION_ID = 1002
DEVELOPER = "developer"
TOKEN_SECONDS = 3600
# What the App was granted when it was installed; the names are those of docs.github.com/en/rest/apps/apps
APP_PERMISSIONS = {
    "actions": "read",
    "checks": "write",
    "contents": "read",
    "deployments": "write",
    "metadata": "read",
    "statuses": "read",
}
LEVELS = {"read": 1, "write": 2, "admin": 3}
_HEX = re.compile(r"[0-9a-f]{7,40}")


@dataclass
class Repository:
    """A repository and what GitHub keeps beside git."""

    id: int
    owner: str
    name: str
    private: bool
    folder: Path
    created_at: float
    description: str | None = None
    installed: bool = True  # whether the App is installed on it
    check_runs: list[dict[str, Any]] = field(default_factory=list)
    statuses: list[dict[str, Any]] = field(default_factory=list)
    deployments: list[dict[str, Any]] = field(default_factory=list)
    workflow_runs: dict[int, dict[str, Any]] = field(default_factory=dict)
    dispatches: list[dict[str, Any]] = field(default_factory=list)

    @property
    def full_name(self) -> str:
        return f"{self.owner}/{self.name}"

    def git(self, *arguments: str) -> str | None:
        """Return what git says in this repository, None where it fails."""
        command = ["git", "--git-dir", str(self.folder), *arguments]
        done = subprocess.run(command, env=git_env(), capture_output=True, check=False)
        return done.stdout.decode(errors="replace").strip("\n") if done.returncode == 0 else None

    @property
    def default_branch(self) -> str:
        return self.git("symbolic-ref", "--short", "HEAD") or "main"

    def refs(self, folder: str) -> list[tuple[str, str, str]]:
        """Return name, type and SHA of every ref under refs/`folder`, by name."""
        said = self.git("for-each-ref", "--format=%(refname)%00%(objecttype)%00%(objectname)", f"refs/{folder}")
        lines = [line.split("\0") for line in (said or "").split("\n") if line]
        return [(name.removeprefix(f"refs/{folder}/"), kind, sha) for name, kind, sha in lines]

    def tags(self) -> list[tuple[str, str]]:
        """Return name and commit of every tag that stands for one, by name."""
        fields = ("refname:lstrip=2", "objecttype", "objectname", "*objecttype", "*objectname")
        said = self.git("for-each-ref", "--format=" + "%00".join(f"%({field})" for field in fields), "refs/tags")
        found = []
        for line in (said or "").split("\n") if said else ():
            name, kind, sha, inner_kind, inner = line.split("\0")
            commit = sha if kind == "commit" else inner if inner_kind == "commit" else self.commit(f"tags/{name}")
            found += [(name, commit)] if commit else []
        return found

    def ref(self, name: str) -> tuple[str, str] | None:
        """Return type and SHA of one ref, as in heads/main."""
        said = self.git("for-each-ref", "--format=%(refname)%00%(objecttype)%00%(objectname)", f"refs/{name}")
        for line in (said or "").split("\n"):
            if line.startswith(f"refs/{name}\0"):
                return line.split("\0")[1], line.split("\0")[2]
        return None

    def commit(self, ref: str) -> str | None:
        """Return the full SHA of what GitHub takes as a commit-ish: a SHA or its start, a branch, a tag, heads/…."""
        if re.fullmatch(r"[0-9a-f]{40}", ref) and (
            found := self.git("rev-parse", "-q", "--verify", f"{ref}^{{commit}}")
        ):
            return found
        for name in (f"heads/{ref}", f"tags/{ref}", ref):
            if self.ref(name):
                return self.git("rev-parse", "-q", "--verify", f"refs/{name}^{{commit}}")
        return self.git("rev-parse", "-q", "--verify", f"{ref}^{{commit}}") if _HEX.fullmatch(ref) else None

    def after_push(self) -> None:
        """Make the first branch that was pushed the default, as GitHub does."""
        branches = self.refs("heads")
        if branches and not self.ref(f"heads/{self.default_branch}"):
            self.git("symbolic-ref", "HEAD", f"refs/heads/{branches[0][0]}")


@dataclass(frozen=True)
class Token:
    """An installation token."""

    permissions: dict[str, str]
    repository_ids: frozenset[int]
    expires_at: float


@dataclass(frozen=True)
class Actor:
    """Who asks. The developer may do everything; an installation what its token says."""

    kind: str  # developer, app, installation or nobody
    permissions: dict[str, str] = field(default_factory=dict)
    repository_ids: frozenset[int] = frozenset()

    @property
    def login(self) -> str:
        return DEVELOPER if self.kind == "developer" else f"{APP_SLUG}[bot]"

    def sees(self, repository: Repository) -> bool:
        return self.kind == "developer" or repository.id in self.repository_ids or (not repository.private)

    def may(self, repository: Repository, permission: str, level: str) -> bool:
        if self.kind == "developer":
            return True
        if repository.id in self.repository_ids:
            return LEVELS.get(self.permissions.get(permission, ""), 0) >= LEVELS[level]
        return not repository.private and level == "read"


class State:
    """Everything that one local GitHub knows; in memory, but for the git repositories in `folder`."""

    def __init__(self, folder: Path, key: "rsa.RSAPrivateKey | None" = None) -> None:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import rsa

        key = key or rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.public_key = key.public_key()
        self.private_key_pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        ).decode()
        self.developer_token = f"ghp_{secrets.token_hex(20)}"
        self.started_at = time.time()
        self.folder = folder
        self.lock = threading.RLock()
        self.repositories: dict[str, Repository] = {}
        self.tokens: dict[str, Token] = {}
        self._ids = itertools.count(5001)

    def next_id(self) -> int:
        return next(self._ids)

    def find(self, owner: str, name: str) -> Repository | None:
        return self.repositories.get(f"{owner}/{name}".lower())

    def by_id(self, repository_id: int) -> Repository | None:
        return next((r for r in self.repositories.values() if r.id == repository_id), None)

    def create(self, owner: str, name: str, repository_id: int, private: bool, description: str | None) -> Repository:
        """Create a repository with an empty git repository that gives out any commit by its SHA, as GitHub does."""
        folder = self.folder / f"{repository_id}.git"
        folder.mkdir(parents=True)
        repository = Repository(repository_id, owner, name, private, folder, time.time(), description)
        subprocess.run(["git", "init", "-q", "--bare", "-b", "main", str(folder)], env=git_env(), check=True)
        for setting in (
            "http.receivepack=true",
            "uploadpack.allowAnySHA1InWant=true",
            "uploadpack.allowFilter=true",
            "receive.hideRefs=refs/pull",
            "gc.auto=0",
            "receive.autogc=false",
            "core.logAllRefUpdates=false",
        ):
            repository.git("config", *setting.split("="))
        self.repositories[repository.full_name.lower()] = repository
        return repository

    def mint(self, permissions: dict[str, str], repository_ids: frozenset[int]) -> tuple[str, Token]:
        secret = f"ghs_{secrets.token_hex(18)}"
        token = Token(permissions, repository_ids, time.time() + TOKEN_SECONDS)
        self.tokens[secret] = token
        return secret, token

    def actor(self, secret: str) -> Actor | None:
        """Return whose secret it is, None where it is nobody's or has expired."""
        if secrets.compare_digest(secret.encode(), self.developer_token.encode()):
            return Actor("developer")
        token = self.tokens.get(secret)
        if token is None or token.expires_at <= time.time():
            return None
        return Actor("installation", token.permissions, token.repository_ids)


def git_env() -> dict[str, str]:
    """Return an environment in which git reads no configuration but the repository's own."""
    kept = {name: os.environ[name] for name in ("PATH", "TMPDIR") if name in os.environ}
    return kept | {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull, "HOME": os.devnull, "LC_ALL": "C.UTF-8"}

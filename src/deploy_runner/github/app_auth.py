"""Tokens of a GitHub App: for one repository, with no more permissions than asked for, kept under an hour.

docs.github.com/en/apps/creating-github-apps/authenticating-with-a-github-app. Runs on Python 3.11 with Debian's
python3-jwt too: the clone container shares it.
"""

import datetime
import re
import time
from collections.abc import Callable, Mapping
from typing import Any

from deploy_runner.github.api import Api, repository_path
from deploy_runner.github.errors import GitHubNotFound, GitHubRefused, GitHubRepositoryMismatch, GitHubUnavailable

JWT_ISSUED = -60  # seconds from now: clocks differ
JWT_EXPIRES = 540  # GitHub takes at most 10 minutes
SPARE = 300  # seconds that a kept token must still be good for


class AppAuth:
    """A GitHub App's identity. Keeps tokens between calls, so make one a process."""

    def __init__(
        self, app_id: str | int, private_key: str, api_url: str, *, clock: Callable[[], float] = time.time,
        api: Api | None = None,
    ) -> None:  # fmt: skip
        self.app_id = str(app_id)
        self._private_key = private_key
        self._api = api or Api(api_url)
        self._clock = clock
        self._installations: dict[str, int] = {}
        self._tokens: dict[tuple[object, ...], tuple[str, float]] = {}
        self._jwt = ("", 0.0)

    def __repr__(self) -> str:
        return f"AppAuth(app_id={self.app_id!r})"

    def token(self, repository: str, permissions: Mapping[str, str], repository_id: int | None = None) -> str:
        """Return an installation token for one repository, as {"contents": "read"} asks.

        With `repository_id` the name must belong to that id, else GitHubRepositoryMismatch. Raises GitHubNotFound where
        the App is not installed, GitHubRefused where it lacks a permission, GitHubUnavailable.
        """
        key = (repository.lower(), repository_id, tuple(sorted(permissions.items())))
        kept = self._tokens.get(key)
        if kept and kept[1] > self._clock():
            return kept[0]
        token, expires = self._mint(repository, permissions, repository_id)
        self._tokens[key] = (token, min(expires, self._clock() + 3600) - SPARE)
        return token

    def jwt(self) -> str:
        """Return a token that proves to be the App itself; kept for some minutes, as signing takes a while."""
        now = int(self._clock())
        if self._jwt[1] > now:
            return self._jwt[0]
        import jwt  # takes 60 ms

        claims = {"iat": now + JWT_ISSUED, "exp": now + JWT_EXPIRES, "iss": self.app_id}
        try:
            self._jwt = (str(jwt.encode(claims, self._private_key, algorithm="RS256")), now + JWT_EXPIRES / 2)
        except Exception:  # what it says may quote the key
            rule = "The GitHub App's private key must be an RSA key in PEM form"
            raise GitHubRefused(rule, remedy="Store the file that GitHub gave you, unchanged, as the secret") from None
        return self._jwt[0]

    def _mint(self, repository: str, permissions: Mapping[str, str], repository_id: int | None) -> tuple[str, float]:
        installation = self._installation(repository)
        which: dict[str, Any] = (
            {"repositories": [repository.partition("/")[2]]}
            if repository_id is None
            else {"repository_ids": [repository_id]}
        )
        path = f"/app/installations/{installation}/access_tokens"
        try:
            given = self._api.call("POST", path, self.jwt(), {**which, "permissions": dict(permissions)}).data
        except GitHubNotFound:
            self._installations.pop(repository.lower(), None)  # installed anew under another number
            raise
        except GitHubRefused as refused:
            if "does not exist or is not accessible" in str(refused):
                raise _mismatch(repository, repository_id) from None
            if "not granted to this installation" in str(refused):
                rule = f"The GitHub App must be granted {', '.join(f'{k}: {v}' for k, v in permissions.items())}"
                raise GitHubRefused(rule, repository, "Grant it in the App's settings, and accept it there") from None
            raise
        try:
            token, expires = given["token"], _seconds(given["expires_at"])
            named = [(str(entry["full_name"]).lower(), entry["id"]) for entry in given["repositories"]]
            granted = dict(given["permissions"])
        except (KeyError, TypeError, ValueError):
            raise GitHubUnavailable("GitHub must say what its token is for, and until when") from None
        if not isinstance(token, str) or not re.fullmatch(r"[!-~]+", token):
            raise GitHubUnavailable("GitHub must give a token that is one printable word")
        if len(named) != 1 or named[0][0] != repository.lower() or repository_id not in (None, named[0][1]):
            raise _mismatch(repository, repository_id)
        if more := [name for name in granted if name not in permissions and name != "metadata"]:
            rule = f"GitHub must give a token with {', '.join(permissions)} alone"
            raise GitHubRefused(rule, ", ".join(more), "Report this: the token was thrown away")
        return token, expires

    def _installation(self, repository: str) -> int:
        """Return the number of the installation that has the repository."""
        known = self._installations.get(repository.lower())
        if known is None:
            known = int(self._api.call("GET", repository_path(repository, "installation"), self.jwt()).data["id"])
            self._installations[repository.lower()] = known
        return known


def _mismatch(repository: str, repository_id: int | None) -> GitHubRepositoryMismatch:
    rule = f"{repository} must be the repository with the id {repository_id}, and the GitHub App be installed on it"
    return GitHubRepositoryMismatch(rule, remedy="If it was made anew on purpose, correct the id in apps.yaml")


def _seconds(timestamp: str) -> float:
    return datetime.datetime.fromisoformat(timestamp.replace("Z", "+00:00")).timestamp()

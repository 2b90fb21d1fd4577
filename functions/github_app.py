"""GitHub as our App, made when it is first asked for."""

import os
from functools import lru_cache, partial

from deploy_runner.aws.clients import client
from deploy_runner.aws.secrets import secret
from deploy_runner.github.app_auth import AppAuth
from deploy_runner.github.client import GitHub


def github(repository_id: int | None = None) -> GitHub:
    """Return GitHub; with a numeric id, every token is refused to a repository of the same name that is another."""
    key = secret(client("secretsmanager"), os.environ["GITHUB_APP_PRIVATE_KEY_SECRET"])
    token = _auth(os.environ["GITHUB_APP_ID"], key, os.environ["GITHUB_API_URL"]).token
    return GitHub(os.environ["GITHUB_API_URL"], partial(token, repository_id=repository_id))


@lru_cache(maxsize=2)  # its tokens are good for an hour; a new key makes a new one
def _auth(app_id: str, key: str, api_url: str) -> AppAuth:
    return AppAuth(app_id, key, api_url)

"""One call of GitHub's REST API: patient where waiting helps, clear where it does not, and careful with the token.

Runs on Python 3.11 too: the clone container shares it. Nothing but urllib is needed, so a Lambda starts fast.
docs.github.com/en/rest/using-the-rest-api/best-practices-for-using-the-rest-api tells how to wait.
"""

import http.client
import json
import random
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.message import Message
from functools import cache
from typing import IO, Any
from urllib.parse import quote, urlsplit

from deploy_runner.domain.errors import one_line, show
from deploy_runner.github.errors import GitHubNotFound, GitHubRefused, GitHubUnavailable

_Request = urllib.request.Request
API_VERSION = "2022-11-28"
SECONDS_PER_CALL = 20.0  # with all of its retries: a Lambda of ours has 60 s
SECONDS_PER_TRY = 10.0
LIMITED_SECONDS = 60.0  # the least to wait for where GitHub limits us and does not say how long
MAX_BYTES = 20_000_000  # a comparison of two long histories is the largest answer that we ask for
MAX_PAGES = 50
_WAIT = (0.5, 1.0, 2.0, 4.0, 8.0)
_REPOSITORY = re.compile(r"[A-Za-z0-9_-]{1,100}/[A-Za-z0-9._-]{1,100}")
_TOKEN = re.compile(r"[!-~]{1,8192}")
_NEXT = re.compile(r'<([^<>]*)>\s*;[^,]*\brel="?next"?')


@dataclass(frozen=True)
class Answer:
    """What GitHub said: its JSON, and the address of the next page."""

    status: int
    data: Any
    next_url: str | None = None


class _SameHost(urllib.request.HTTPRedirectHandler):
    """Follow a redirect (a renamed repository) only to the same host: urllib would send the token anywhere."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> _Request | None:
        old, new = urlsplit(req.full_url), urlsplit(newurl)
        if req.get_method() != "GET" or (old.scheme, old.netloc) != (new.scheme, new.netloc):
            return None
        following = super().redirect_request(req, fp, code, msg, headers, newurl)
        if following is not None and req.has_header("Authorization"):
            following.add_unredirected_header("Authorization", str(req.get_header("Authorization")))
        return following


@cache
def _opener() -> urllib.request.OpenerDirector:
    """Return what opens addresses, one a process: to read which certificates to trust takes as long as a call."""
    return urllib.request.build_opener(_SameHost())


class Api:
    """GitHub's API at one address; `url` is https://api.github.com, or a server's /api/v3."""

    def __init__(
        self, url: str, *, sleep: Callable[[float], None] = time.sleep, clock: Callable[[], float] = time.monotonic
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("https", "http") or not parts.hostname or parts.query or parts.fragment or "@" in url:
            rule = "The address of GitHub's API must be a plain URL"
            raise GitHubRefused(rule, url, "Set it as in https://api.github.com")
        self.url = url.rstrip("/")
        self._sleep, self._clock = sleep, clock

    def call(self, method: str, path: str, token: str, body: object = None, *, repeatable: bool = True) -> Answer:
        """Return the answer to one call; `path` is relative, or a next page's address at this API.

        `repeatable` says whether doing it twice does no harm. Raises GitHubUnavailable where trying later may help,
        GitHubNotFound, or GitHubRefused with GitHub's reason.
        """
        what = f"{method} {urlsplit(path).path}"
        deadline, wait = self._clock() + SECONDS_PER_CALL, 0.0
        for pause in (*_WAIT, None):
            try:
                return self._once(method, path, token, body, deadline)
            except _Transient as transient:
                wait = transient.wait if transient.wait is not None else (pause or 0) * random.uniform(0.5, 1)  # noqa: S311 - spreads retries
                harmless = repeatable or transient.undone
                if pause is None or not harmless or self._clock() + wait > deadline - 1:
                    later = f" (it asks for {transient.wait:.0f} s)" if transient.wait else ""
                    rule = f"GitHub must answer {what}, but {transient.why}{later}"
                    raise GitHubUnavailable(rule, remedy="It is tried again; see githubstatus.com") from None
            self._sleep(wait)
        raise AssertionError  # the last pause is None, and ends above

    def pages(self, path: str, token: str, limit: int = MAX_PAGES) -> Iterator[Any]:
        """Yield the JSON of every page, at most `limit`; raises GitHubRefused where there are more."""
        next_url: str | None = path
        for _ in range(limit):
            answer = self.call("GET", next_url or path, token)
            yield answer.data
            next_url = answer.next_url
            if next_url is None:
                return
        raise GitHubRefused(f"GitHub must list {urlsplit(path).path} in at most {limit} pages", remedy="Remove some")

    def _once(self, method: str, path: str, token: str, body: object, deadline: float) -> Answer:
        if not _TOKEN.fullmatch(token):  # http.client would show it in its error
            raise GitHubRefused("A GitHub token must be one printable word", remedy="Set it again, without line ends")
        request = urllib.request.Request(  # noqa: S310 - __init__ allows http and https alone
            self._address(path), method=method, data=None if body is None else json.dumps(body).encode()
        )
        request.add_header("Accept", "application/vnd.github+json")
        request.add_header("X-GitHub-Api-Version", API_VERSION)
        request.add_header("User-Agent", "deploy-runner")
        if body is not None:
            request.add_header("Content-Type", "application/json")
        request.add_unredirected_header("Authorization", f"Bearer {token}")
        seconds = max(1.0, min(SECONDS_PER_TRY, deadline - self._clock()))
        try:
            with _opener().open(request, timeout=seconds) as response:
                text, status, headers = response.read(MAX_BYTES + 1), response.status, response.headers
                left = response.length  # of what was announced; reading does not complain
        except urllib.error.HTTPError as error:
            with error:
                raise _refusal(method, path, error) from None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            undone = isinstance(reason, ConnectionRefusedError)
            why = one_line(f"{type(reason).__name__} {reason}", 120)
            raise _Transient(f"it did not: {why}", undone=undone) from None
        if len(text) > MAX_BYTES:
            raise GitHubRefused(f"GitHub must answer {method} {path} in at most {MAX_BYTES} bytes")
        if left:
            raise _Transient("the answer was cut off")
        try:
            data = json.loads(text) if text.strip() else None
        except ValueError:
            raise _Transient("the answer was not JSON") from None
        following = _NEXT.search(headers.get("Link") or "")
        return Answer(status, data, following.group(1) if following else None)

    def _address(self, path: str) -> str:
        if path.startswith("/"):
            return self.url + path
        if path.startswith(self.url + "/"):
            return path
        raise GitHubRefused("The next page must be at the same API", path, "Check the address of GitHub's API")


class _Transient(Exception):
    """Trying again may help. `wait` is what GitHub asks for, in seconds; `undone` says that nothing was done."""

    def __init__(self, why: str, wait: float | None = None, *, undone: bool = False) -> None:
        super().__init__(why)
        self.why, self.wait, self.undone = why, wait, undone


def _refusal(method: str, path: str, error: urllib.error.HTTPError) -> Exception:
    """Return what an answer of 3xx, 4xx or 5xx means."""
    what = f"{method} {urlsplit(path).path}"
    said = _message(error)
    if error.code >= 500 or error.code in (408, 429) or (error.code == 403 and _limited(error.headers, said)):
        # A limit is checked before anything is done.
        undone = error.code in (403, 429, 503)
        return _Transient(f"it answered {error.code}: {said}", _asked_to_wait(error), undone=undone)
    answered = f"but it answered {error.code}: {said}"
    if error.code in (404, 410):
        remedy = "Correct the name, and install the GitHub App on the repository"
        return GitHubNotFound(f"GitHub must have {what} and show it to us, {answered}", remedy=remedy)
    remedy = {
        401: "Check the App's id and its private key, and this machine's clock",
        403: "Grant the GitHub App the permission, and accept it on the installation",
    }.get(error.code, "Correct what was sent")
    if 300 <= error.code < 400:
        remedy = "If the repository was renamed or moved, write its new name in apps.yaml"
    return GitHubRefused(f"GitHub must accept {what}, {answered}", remedy=remedy)


def _message(error: urllib.error.HTTPError) -> str:
    try:
        body = json.loads(error.read(100_000))
        details = [
            entry
            if isinstance(entry, str)
            else str(entry.get("message") or f"{entry.get('field')} {entry.get('code')}")
            for entry in (body.get("errors") or [])[:3]
        ]
        return one_line(": ".join([str(body["message"]), *details]), 200)
    except (OSError, http.client.HTTPException, ValueError, TypeError, KeyError, AttributeError):
        return one_line(error.reason or "no reason given", 100)


def _limited(headers: Message, said: str) -> bool:
    return "Retry-After" in headers or headers.get("X-RateLimit-Remaining") == "0" or "rate limit" in said.lower()


def _asked_to_wait(error: urllib.error.HTTPError) -> float | None:
    """Return the seconds that GitHub asks to wait, None where it does not say."""
    headers = error.headers
    try:
        if headers.get("Retry-After"):
            return max(0.0, float(headers["Retry-After"]))
        if headers.get("X-RateLimit-Remaining") == "0":
            return max(0.0, float(headers["X-RateLimit-Reset"]) - time.time())
    except (KeyError, ValueError):
        pass
    return LIMITED_SECONDS if error.code in (403, 429) else None


def repository_path(repository: str, *parts: str | int) -> str:
    """Return /repos/OWNER/NAME/part/…, each part quoted, so that no name can reach another address."""
    owner, _, name = repository.partition("/")
    if not _REPOSITORY.fullmatch(repository) or name in (".", ".."):
        raise GitHubRefused("A repository must be OWNER/NAME", repository, "Correct apps.yaml")
    for part in parts:
        if str(part) in ("", ".", ".."):
            raise GitHubNotFound(f"{repository} has nothing under such a name", show(part), "Correct it")
    return "/".join(["/repos", owner, name, *(quote(str(part), safe="") for part in parts)])

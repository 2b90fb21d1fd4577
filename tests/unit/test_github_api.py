"""A call of GitHub's API is patient where waiting helps, clear where it does not, and keeps the token to itself."""

import socket
import ssl
import time
from typing import Any

import pytest

from deploy_runner.github import api as api_module
from deploy_runner.github.api import Api, repository_path
from deploy_runner.github.errors import GitHubNotFound, GitHubRefused, GitHubUnavailable
from tests.unit.local_github import Scripted, scripted

TOKEN = "ghs_secret0123456789"
OK = (200, {}, {"ok": True})


class Clock:
    """Time that passes only in sleep."""

    def __init__(self) -> None:
        self.now, self.slept = 1000.0, []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def __call__(self) -> float:
        return self.now


def api(server: Scripted, clock: Clock | None = None) -> Api:
    clock = clock or Clock()
    return Api(server.url, sleep=clock.sleep, clock=clock)


def refused(status: int, message: str = "No", **headers: str) -> tuple[int, dict[str, str], Any]:
    return status, {key.replace("_", "-"): value for key, value in headers.items()}, {"message": message}


@pytest.mark.parametrize(
    "trouble",
    [
        refused(500), refused(502), refused(503), refused(504), refused(429, Retry_After="1"),
        refused(403, Retry_After="2"),
        (200, {}, b"<html>not JSON"), (502, {}, b"<html>Unicorn!"), (200, {"Content-Length": "999"}, b"{}"),
    ],
)  # fmt: skip
def test_what_passes_is_tried_again(trouble: Any) -> None:
    with scripted(trouble, trouble, OK) as server:
        assert api(server).call("GET", "/x", TOKEN).data == {"ok": True}
        assert len(server.heard) == 3


def test_retries_end_in_time_and_say_why() -> None:
    clock = Clock()
    with scripted((502, {}, b"<html>Unicorn!")) as server:
        with pytest.raises(GitHubUnavailable, match="GET /x, but it answered 502: Bad Gateway"):
            api(server, clock).call("GET", "/x?page=2", TOKEN)
        assert 2 <= len(server.heard) <= 6
    assert sum(clock.slept) < 20


def test_retry_after_is_honoured_when_it_is_short() -> None:
    clock = Clock()
    with scripted(refused(429, Retry_After="7"), OK) as server:
        api(server, clock).call("GET", "/x", TOKEN)
    assert clock.slept == [7.0]


def test_a_long_wait_is_left_to_the_state_machine() -> None:
    clock = Clock()
    reset = str(int(time.time()) + 1800)
    for answer in (
        refused(429, Retry_After="60"),
        refused(403, X_RateLimit_Remaining="0", X_RateLimit_Reset=reset),
        refused(403, "You have exceeded a secondary rate limit"),
    ):
        with scripted(answer) as server:
            with pytest.raises(GitHubUnavailable, match=r"it asks for (60|1[78]\d\d) s"):
                api(server, clock).call("GET", "/x", TOKEN)
            assert len(server.heard) == 1
    assert clock.slept == []


def test_what_must_not_be_done_twice_is_not_tried_again_unless_nothing_was_done() -> None:
    with scripted(refused(502), OK) as server:
        with pytest.raises(GitHubUnavailable):
            api(server).call("POST", "/x", TOKEN, {}, repeatable=False)
        assert len(server.heard) == 1
    with scripted(refused(429, Retry_After="1"), OK) as server:
        assert api(server).call("POST", "/x", TOKEN, {}, repeatable=False).data == {"ok": True}


@pytest.mark.parametrize(
    ("answer", "error", "text"),
    [
        (refused(404, "Not Found"), GitHubNotFound, "install the GitHub App"),
        (refused(401, "Bad credentials"), GitHubRefused, "private key, and this machine's clock"),
        (refused(403, "Resource not accessible by integration"), GitHubRefused, "Grant the GitHub App the permission"),
        (refused(422, "Validation Failed"), GitHubRefused, "422: Validation Failed"),
        (refused(301, "Moved Permanently"), GitHubRefused, "new name in apps.yaml"),
        ((422, {}, {"message": "No", "errors": [{"field": "a", "code": "b"}, "c"]}), GitHubRefused, "No: a b: c"),
        ((400, {}, [1]), GitHubRefused, "400: Bad Request"),
        ((400, {}, {"message": "x\n\u202ey" * 200}), GitHubRefused, "400: x y"),
    ],
)  # fmt: skip
def test_what_does_not_pass_is_said_at_once(answer: Any, error: type[Exception], text: str) -> None:
    with scripted(answer) as server:
        with pytest.raises(error, match=text) as caught:
            api(server).call("POST", "/x", TOKEN, {})
        assert len(server.heard) == 1
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_redirect_to_another_host_never_gets_the_token() -> None:
    with scripted(OK) as elsewhere, scripted((302, {"Location": f"{elsewhere.url}/x"}, {"message": "Moved"})) as server:
        with pytest.raises(GitHubRefused, match="302: Moved"):
            api(server).call("GET", "/x", TOKEN)
        assert elsewhere.heard == []


def test_a_redirect_at_the_same_host_is_followed_for_reading_alone() -> None:
    with scripted((301, {"Location": "/repositories/1"}, {}), OK) as server:
        assert api(server).call("GET", "/repos/old/name", TOKEN).data == {"ok": True}
        assert [heard.path for heard in server.heard] == ["/repos/old/name", "/repositories/1"]
        assert server.heard[1].headers["Authorization"] == f"Bearer {TOKEN}"
    with scripted((307, {"Location": "/repositories/1"}, {}), OK) as server:
        with pytest.raises(GitHubRefused):
            api(server).call("POST", "/repos/old/name", TOKEN, {})
        assert len(server.heard) == 1


def test_pages_are_followed_at_the_same_api_and_are_bounded() -> None:
    with scripted(OK) as server:
        following = (200, {"Link": f'<{server.url}/x?page=2>; rel="next", <{server.url}/x?page=9>; rel="last"'}, [1])
        server.answers[:] = [following, (200, {"Link": f'<{server.url}/x?page=1>; rel="prev"'}, [2])]
        assert list(api(server).pages("/x", TOKEN)) == [[1], [2]]
        assert server.heard[1].path == "/x?page=2"
        server.answers[:] = [following]
        with pytest.raises(GitHubRefused, match="at most 3 pages"):
            list(api(server).pages("/x", TOKEN, limit=3))
    elsewhere = (200, {"Link": '<https://evil.example/x?page=2>; rel="next"'}, [1])
    with scripted(elsewhere) as server, pytest.raises(GitHubRefused, match="at the same API"):
        list(api(server).pages("/x", TOKEN))


def test_what_certificates_to_trust_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[object] = []
    monkeypatch.setattr(ssl.SSLContext, "load_default_certs", lambda context, *_: read.append(context))
    api_module._opener.cache_clear()
    for _ in range(3):
        with scripted(OK) as server:
            assert api(server).call("GET", "/a", TOKEN).data == {"ok": True}
    api_module._opener.cache_clear()  # the next reads them for real
    assert len(read) == 1


def test_nobody_listening_is_unavailable() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    clock = Clock()
    with pytest.raises(GitHubUnavailable, match="ConnectionRefusedError"):
        Api(f"http://127.0.0.1:{port}", sleep=clock.sleep, clock=clock).call("GET", "/x", TOKEN)


def test_no_message_shows_the_token() -> None:
    for answer in (refused(401), refused(404), refused(502), (200, {}, b"junk")):
        with scripted(answer) as server:
            with pytest.raises(Exception) as caught:  # noqa: PT011 - any of ours
                api(server).call("GET", "/x", TOKEN)
            assert TOKEN not in repr(caught.value)
            assert caught.value.__suppress_context__
    with scripted(OK) as server, pytest.raises(GitHubRefused) as caught:
        api(server).call("GET", "/x", TOKEN + "\n")
    assert TOKEN not in repr(caught.value)


@pytest.mark.parametrize(
    "url", ["ftp://x", "https://user:pw@x", "api.github.com", "https://x/?a=b", "file:///etc/passwd"]
)
def test_a_strange_address_is_refused(url: str) -> None:
    with pytest.raises(GitHubRefused, match="plain URL"):
        Api(url)


@pytest.mark.parametrize("name", ["a", "a/b/c", "../x", "a/..", "a/b?x", "a b/c", "a/b\n", ""])
def test_a_strange_repository_reaches_no_other_address(name: str) -> None:
    with pytest.raises(GitHubRefused, match="OWNER/NAME"):
        repository_path(name)


def test_parts_of_a_path_are_quoted() -> None:
    assert repository_path("a/b", "git", "ref", "heads/x y?") == "/repos/a/b/git/ref/heads%2Fx%20y%3F"
    for part in ("", ".", ".."):
        with pytest.raises(GitHubNotFound):
            repository_path("a/b", part)

"""Git over HTTP: git's own CGI program, behind GitHub's rules of who may read and write."""

import contextlib
import subprocess
import threading
from collections.abc import Iterator
from typing import IO, Any

from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Request, Response

from deploy_runner.local_aws.github.state import Actor, Repository, State, git_env

PATHS = {"info/refs", "git-upload-pack", "git-receive-pack"}
CHUNK = 65_536


class Refused(HTTPException):  # type: ignore[misc]  # werkzeug is not followed
    """An answer that git shows to people."""

    def __init__(self, status: int, message: str) -> None:
        headers = {"WWW-Authenticate": 'Basic realm="GitHub"'} if status == 401 else {}
        super().__init__(message, Response(f"{message}\n", status, headers, mimetype="text/plain"))


def answer(state: State, request: Request, owner: str, name: str, path: str) -> Response:
    """Answer one request of a git client."""
    repository = state.find(owner, name.removesuffix(".git"))
    service = request.args.get("service", "") if path == "info/refs" else path
    if path not in PATHS or service not in ("git-upload-pack", "git-receive-pack"):
        raise Refused(404, "Not Found")
    repository = _allowed(state, request, repository, writes=service == "git-receive-pack")
    return _backend(request, repository, path, writes=path == "git-receive-pack")


def _allowed(state: State, request: Request, repository: Repository | None, *, writes: bool) -> Repository:
    given = request.authorization
    actor: Actor | None = Actor("nobody")
    if given is not None:
        actor = state.actor((given.password if given.type == "basic" else given.token) or "")
        if actor is None:
            raise Refused(
                401, "Invalid username or token. Password authentication is not supported for Git operations."
            )
    elif repository is None or repository.private or writes:
        raise Refused(401, "Repository not found.")
    if repository is None or not actor or not actor.sees(repository):
        raise Refused(404, "Repository not found.")
    if not actor.may(repository, "contents", "read"):
        raise Refused(403, "Write access to repository not granted.")
    if writes and not actor.may(repository, "contents", "write"):
        raise Refused(403, f"Permission to {repository.full_name}.git denied to {actor.login}.")
    return repository


def _backend(request: Request, repository: Repository, path: str, *, writes: bool) -> Response:
    environment = git_env() | {
        "GIT_PROJECT_ROOT": str(repository.folder.parent),
        "GIT_HTTP_EXPORT_ALL": "1",
        "PATH_INFO": f"/{repository.folder.name}/{path}",
        "QUERY_STRING": request.query_string.decode(),
        "REQUEST_METHOD": request.method,
        "CONTENT_TYPE": request.content_type or "",
        "REMOTE_USER": "git",
        "REMOTE_ADDR": request.remote_addr or "",
    }
    if request.content_length is not None:
        environment["CONTENT_LENGTH"] = str(request.content_length)
    for header, variable in (("Content-Encoding", "HTTP_CONTENT_ENCODING"), ("Git-Protocol", "GIT_PROTOCOL")):
        if value := request.headers.get(header):
            environment[variable] = value
    process = subprocess.Popen(
        ["git", "http-backend"], env=environment,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    feeder = threading.Thread(target=_feed, args=(request.stream, process.stdin), daemon=True)
    feeder.start()
    status, headers = 200, []
    while line := process.stdout.readline().strip().decode("latin-1"):
        key, _, value = line.partition(":")
        if key.lower() == "status":
            status = int(value.split()[0])
        else:
            headers.append((key, value.strip()))

    def body() -> Iterator[bytes]:
        try:
            while chunk := process.stdout.read1(CHUNK):  # type: ignore[union-attr]
                yield chunk
        finally:
            process.stdout.close()  # type: ignore[union-attr]
            process.kill()
            process.wait()
            if writes:
                repository.after_push()

    if not writes:
        return Response(body(), status, headers)
    return Response(b"".join(body()), status, headers)  # only answer once the default branch is known


def _feed(source: IO[bytes] | Any, sink: IO[bytes]) -> None:
    with contextlib.suppress(OSError), sink:  # either side may go away
        while chunk := source.read(CHUNK):
            sink.write(chunk)

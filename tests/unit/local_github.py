"""The local GitHub on a free port, with a developer who pushes; and a server that answers what a test says."""

import contextlib
import functools
import json
import os
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import rsa
from werkzeug.serving import WSGIRequestHandler, make_server

from deploy_runner.github.app_auth import AppAuth
from deploy_runner.github.client import GitHub
from deploy_runner.local_aws.github.app import LocalGitHub
from deploy_runner.local_aws.github.state import State

NAME = "lightwave-media/cineos"


class _Quiet(WSGIRequestHandler):
    def log(self, *_: Any) -> None: ...


@dataclass
class Running:
    """One local GitHub that runs."""

    state: State
    url: str
    folder: Path
    _clones: int = 0

    @property
    def api(self) -> str:
        return f"{self.url}/api/v3"

    def auth(self) -> AppAuth:
        return AppAuth(1001, self.state.private_key_pem, self.api)

    def client(self) -> GitHub:
        return GitHub(self.api, self.auth().token)

    def call(self, method: str, path: str, body: Any = None, token: str | None = None) -> tuple[int, Any, Any]:
        """Return status, JSON and headers; as the developer, or with the token given."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.api + path, data, method=method)
        token = self.state.developer_token if token is None else token
        if token:
            request.add_header("Authorization", f"Bearer {token}")
        try:
            with urllib.request.urlopen(request, timeout=10) as response:
                return response.status, json.loads(response.read() or b"null"), response.headers
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read() or b"null"), error.headers

    def make(self, name: str, number: int, *, private: bool = True) -> "Clone":
        """Create a repository, and a clone with no commit."""
        owner, _, short = name.partition("/")
        status, body, _ = self.call("POST", f"/orgs/{owner}/repos", {"name": short, "id": number, "private": private})
        assert status == 201, body
        self._clones += 1
        folder = self.folder / f"clone-{self._clones}"
        folder.mkdir()
        clone = Clone(
            folder, f"{self.url.replace('://', f'://x-access-token:{self.state.developer_token}@')}/{name}.git"
        )
        clone.git("init", "-q", "-b", "main")
        return clone


@dataclass
class Clone:
    """A developer's clone."""

    folder: Path
    remote: str

    def git(self, *arguments: str) -> str:
        who = {"GIT_AUTHOR_NAME": "Dev", "GIT_AUTHOR_EMAIL": "dev@example.com"}
        who |= {"GIT_COMMITTER_NAME": "Dev", "GIT_COMMITTER_EMAIL": "dev@example.com"}
        env = os.environ | who | {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_TERMINAL_PROMPT": "0"}
        command = ["git", *arguments]
        done = subprocess.run(command, cwd=self.folder, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def commit(self, message: str = "a change", **files: str) -> str:
        for name, text in files.items():
            (self.folder / name).write_text(text)
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", message)
        return self.git("rev-parse", "HEAD")

    def push(self, *refs: str) -> None:
        self.git("push", "-q", self.remote, *refs)


@functools.lru_cache(2)
def _key(_: str) -> rsa.RSAPrivateKey:
    """Return a key, which takes a while to make."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@contextlib.contextmanager
def running(folder: Path, layer: Callable[[Any], Any] = lambda app: app) -> Iterator[Running]:
    state = State(folder / "github", _key("another" if "another" in folder.name else ""))
    server = make_server("127.0.0.1", 0, layer(LocalGitHub(state)), threaded=True, request_handler=_Quiet)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield Running(state, f"http://127.0.0.1:{server.server_port}", folder)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@dataclass
class Said:
    """One request that came in."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Scripted:
    """Answers in turn with (status, headers, JSON or bytes); the last one again and again."""

    url: str = ""
    answers: list[tuple[int, dict[str, str], Any]] = field(default_factory=list)
    heard: list[Said] = field(default_factory=list)


@contextlib.contextmanager
def scripted(*answers: tuple[int, dict[str, str], Any]) -> Iterator[Scripted]:
    script = Scripted(answers=list(answers))

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            script.heard.append(Said(self.command, self.path, dict(self.headers), body))
            status, headers, data = script.answers.pop(0) if len(script.answers) > 1 else script.answers[0]
            text = data if isinstance(data, bytes) else json.dumps(data).encode()
            self.send_response(status)
            for key, value in {"Content-Length": str(len(text)), **headers}.items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = _answer  # noqa: N815

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    script.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield script
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

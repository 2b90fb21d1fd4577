#!/usr/bin/env python3
"""Check out one commit of one repository into a folder, for Kaniko in the next container; then end.

This container has the GitHub App's private key; the one that builds must not. So nothing secret is left behind: the
token is handed to git in its environment alone, and git's own folder is never in the checkout. What comes out is the
tree of the commit, without .git.

Exit codes: 0 done, 1 the work failed, 2 the request was wrong, 3 the environment failed. On failure one line on stderr
says why. Runs on Debian bookworm: Python 3.11, git 2.39.
"""

import argparse
import base64
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn
from urllib.parse import urljoin, urlsplit

from deploy_runner.domain.errors import DeployRunnerError, one_line, show
from deploy_runner.github.app_auth import AppAuth
from deploy_runner.github.errors import GitHubNotFound

WORK_FAILED, REQUEST_WRONG, ENVIRONMENT_FAILED = 1, 2, 3

ENVIRONMENT = ("GITHUB_API_URL", "GITHUB_URL", "GITHUB_APP_ID", "GITHUB_APP_PRIVATE_KEY")
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")
PASSED_ON = ("PATH", "SSL_CERT_FILE", "GIT_SSL_CAINFO", *PROXIES)
FETCH_WAITS = (1, 3, 9, 0)  # seconds after each try
FETCH_SECONDS = 600
MAX_SUBMODULES = 100
MAX_NESTING = 5
# What git says when trying again may help; all else is final.
TRANSIENT = re.compile(
    r"Could not resolve host|Connection (refused|reset|timed out)|Failed to connect|timed? ?out|early EOF"
    r"|unexpected disconnect|RPC failed|returned error: (429|5\d\d)|the remote end hung up|TLS|GnuTLS",
    re.IGNORECASE,
)
NOT_SHOWN = re.compile(r"[Rr]epository .*not found|returned error: 40[134]")
NOT_THERE = re.compile(r"not our ref|couldn't find remote ref|Server does not allow request for unadvertised object")


class CloneError(DeployRunnerError):
    """The clone ends with an exit code."""

    def __init__(self, exit_code: int, rule: str, value: object = None, remedy: str = "") -> None:
        super().__init__(rule, value, remedy)
        self.exit_code = exit_code


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        remedy = "The state machine writes these arguments: report this"
        raise CloneError(REQUEST_WRONG, f"The arguments must be right, but {one_line(message)}", remedy=remedy)


def _matching(pattern: str, what: str) -> Callable[[str], str]:
    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise argparse.ArgumentTypeError(f"{show(text)} is not {what}")
        return text

    return check


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the arguments, checked: they reach git's command line."""
    parser = _Parser(description="Check out one commit of one repository.", allow_abbrev=False)
    owner_name = r"[A-Za-z0-9][A-Za-z0-9-]{0,38}/(?!\.{1,2}$)[A-Za-z0-9._-]{1,100}"
    parser.add_argument("--repository", required=True, type=_matching(owner_name, "OWNER/NAME"))
    parser.add_argument("--repository-id", required=True, type=_matching(r"[1-9][0-9]{0,18}", "a repository's number"))
    parser.add_argument("--sha", required=True, type=_matching(r"[0-9a-f]{40}", "a full SHA"))
    parser.add_argument(
        "--directory", required=True, type=_matching(r"(/(?!\.{1,2}(/|$))[A-Za-z0-9._-]+)+", "an absolute path")
    )
    parser.add_argument("--submodules", action="store_true")
    return parser.parse_args(arguments)


class Git:
    """git, with nothing of this machine or of the repository that could make it run something or go elsewhere."""

    def __init__(self, url: str, token: str, work: Path) -> None:
        """`url` is GitHub's, as in https://github.com: the token is sent there and nowhere else."""
        self.url = url.rstrip("/")
        scheme = urlsplit(url).scheme
        header = base64.b64encode(f"x-access-token:{token}".encode()).decode()
        self._secrets = (token, header)
        host = urlsplit(url).hostname
        settings = [
            (f"http.{self.url}/.extraHeader", f"Authorization: Basic {header}"),
            ("http.followRedirects", "false"),
            ("protocol.allow", "never"),
            (f"protocol.{scheme}.allow", "always"),
            ("core.hooksPath", os.devnull),
            ("core.attributesFile", os.devnull),
            ("core.fsmonitor", "false"),
            ("credential.helper", ""),
            ("submodule.recurse", "false"),
            ("fetch.recurseSubmodules", "false"),
            ("advice.detachedHead", "false"),
            ("gc.auto", "0"),
            ("maintenance.auto", "false"),
            ("http.lowSpeedLimit", "1000"),
            ("http.lowSpeedTime", "60"),
            # Submodules are often named by their SSH address, which needs a key.
            (f"url.{self.url}/.insteadOf", f"git@{host}:"),
            (f"url.{self.url}/.insteadOf", f"ssh://git@{host}/"),
        ]
        self._env = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        self._env |= {
            "HOME": str(work),
            "LC_ALL": "C.UTF-8",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_ATTR_NOSYSTEM": "1",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_CONFIG_COUNT": str(len(settings)),
        }
        for number, (key, value) in enumerate(settings):
            self._env |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}

    def check_out(self, folder: Path, git_dir: Path, url: str, sha: str) -> None:
        """Fetch one commit from `url` and write its tree into `folder`; git's own files stay in `git_dir`."""
        folder.mkdir(parents=True, exist_ok=True)
        where = [f"--git-dir={git_dir}", f"--work-tree={folder}"]
        self.run(f"--git-dir={git_dir}", "init", "-q", "--template=")
        options = ["-q", "--depth=1", "--no-tags", "--no-write-fetch-head"]
        self._fetch([*where, "fetch", *options, url, f"{sha}:refs/heads/it"], url, sha)
        if self.run(*where, "rev-parse", "refs/heads/it^{commit}") != sha:
            raise CloneError(REQUEST_WRONG, "The SHA must be that of a commit", sha, "Name the commit, not a tag")
        self.run(*where, "checkout", "-q", "--force", "--detach", sha)

    def _fetch(self, command: list[str], url: str, sha: str) -> None:
        said = ""
        for wait in FETCH_WAITS:
            done, said = self._try(command, FETCH_SECONDS)
            if done:
                return
            if NOT_THERE.search(said):
                raise CloneError(
                    REQUEST_WRONG, "The commit must be in the repository", sha, "Push it, if it was force-pushed away"
                )
            if NOT_SHOWN.search(said):
                remedy = "The token is for the app's repository alone: copy private submodules into it"
                raise CloneError(REQUEST_WRONG, "GitHub must show us the repository", url, remedy)
            if not TRANSIENT.search(said):
                break
            time.sleep(wait)
        rule = f"git must be able to fetch from GitHub, but it says: {said}"
        raise CloneError(ENVIRONMENT_FAILED, rule, remedy="Check that this task reaches GitHub")

    def run(self, *arguments: str, seconds: float = 300) -> str:
        """Return what git says. Raises CloneError."""
        done, said = self._try(list(arguments), seconds)
        if not done:
            full = "No space left" in said
            what = next((word for word in arguments if not word.startswith("-")), "git")
            raise CloneError(ENVIRONMENT_FAILED if full else WORK_FAILED, f"git {what} must work, but it says: {said}")
        return said

    def _try(self, arguments: list[str], seconds: float) -> tuple[bool, str]:
        command = ["git", *arguments]
        try:
            done = subprocess.run(
                command, env=self._env, capture_output=True, timeout=seconds, check=False, stdin=subprocess.DEVNULL
            )
        except subprocess.TimeoutExpired:
            return False, f"timed out after {seconds:.0f} s"
        except OSError as error:
            raise CloneError(ENVIRONMENT_FAILED, "git must run", error.strerror) from None
        if done.returncode == 0:
            return True, done.stdout.decode(errors="replace").strip()
        said = done.stderr.decode(errors="replace")
        for secret in self._secrets:
            said = said.replace(secret, "***")
        # git's own reason is the last line that it calls fatal or an error.
        lines = [line for line in said.splitlines() if line.strip()]
        reasons = [line for line in lines if line.startswith(("fatal:", "error:", "remote:"))] or lines
        return False, one_line(" / ".join(reasons[-3:]) or f"exit code {done.returncode}", 300)


def check_out_submodules(git: Git, folder: Path, git_dir: Path, url: str, work: Path, depth: int = 1) -> int:
    """Check out the submodules of `folder`, from GitHub alone, and theirs. Returns how many they are."""
    modules = folder / ".gitmodules"
    if not modules.is_file() or modules.is_symlink():
        return 0
    if depth > MAX_NESTING:
        raise CloneError(REQUEST_WRONG, f"Submodules must be nested at most {MAX_NESTING} deep")
    named: dict[str, dict[str, str]] = {}
    for entry in git.run("config", "--file", str(modules), "--list", "-z").split("\0"):
        key, _, value = entry.partition("\n")
        name, _, field = key.removeprefix("submodule.").rpartition(".")
        named.setdefault(name, {})[field] = value
    commits = {}
    for entry in git.run(f"--git-dir={git_dir}", "ls-tree", "-r", "-z", "HEAD").split("\0"):
        mode, _, rest = entry.partition(" ")
        if mode == "160000":  # a commit of another repository
            kind_sha, _, path = rest.partition("\t")
            commits[path] = kind_sha.split(" ")[1]
    count = 0
    for name, fields in sorted(named.items()):
        if fields.get("path") not in commits:
            continue
        count += 1
        if count > MAX_SUBMODULES:
            raise CloneError(REQUEST_WRONG, f"A repository must have at most {MAX_SUBMODULES} submodules")
        sha, target = commits[fields["path"]], folder / fields["path"]
        # git takes no path with .. or .git from a tree, but a symbolic link above it would lead elsewhere.
        if not target.parent.resolve().is_relative_to(folder.resolve()) or target.is_symlink():
            raise CloneError(REQUEST_WRONG, "A submodule must be inside the repository", fields["path"])
        its_url = submodule_url(git.url, url, name, fields.get("url", ""))
        its_git_dir = Path(tempfile.mkdtemp(prefix="git-", dir=work))
        git.check_out(target, its_git_dir, its_url, sha)
        count += check_out_submodules(git, target, its_git_dir, its_url, work, depth + 1)
    return count


def submodule_url(github: str, parent: str, name: str, url: str) -> str:
    """Return the address of a submodule, which must be at the same GitHub: nothing else is asked."""
    host = urlsplit(github).hostname
    for ssh in (f"git@{host}:", f"ssh://git@{host}/"):
        url = f"{github.rstrip('/')}/{url.removeprefix(ssh)}" if url.startswith(ssh) else url
    if url.startswith(("./", "../")):  # relative to the parent's own address, as a folder: gitmodules(5)
        url = urljoin(f"{parent}/", url)
    parts, ours = urlsplit(url), urlsplit(github)
    if (parts.scheme, parts.netloc) != (ours.scheme, ours.netloc) or ".." in parts.path or parts.query:
        remedy = "Copy it into the repository, or leave `submodules` out of apps.yaml"
        raise CloneError(REQUEST_WRONG, f"The submodule {show(name)} must be at {ours.netloc}", url, remedy)
    return url


def clone(options: argparse.Namespace) -> str:
    """Do what the arguments say; returns one line for the log."""
    began = time.monotonic()
    missing = [name for name in ENVIRONMENT if not os.environ.get(name)]
    if missing:
        remedy = "Set them in the task definition"
        raise CloneError(ENVIRONMENT_FAILED, f"The environment must have {', '.join(missing)}", remedy=remedy)
    target = Path(options.directory)
    _make_empty(target)
    try:
        auth = AppAuth(os.environ["GITHUB_APP_ID"], os.environ["GITHUB_APP_PRIVATE_KEY"], os.environ["GITHUB_API_URL"])
        token = auth.token(options.repository, {"contents": "read"}, int(options.repository_id))
    except GitHubNotFound as error:
        raise CloneError(REQUEST_WRONG, error.rule, error.value, error.remedy) from None
    except DeployRunnerError as error:
        raise CloneError(ENVIRONMENT_FAILED, error.rule, error.value, error.remedy) from None
    github = os.environ["GITHUB_URL"].rstrip("/")
    work = Path(tempfile.mkdtemp(prefix="clone-"))
    try:
        git, url = Git(github, token, work), f"{github}/{options.repository}.git"
        git_dir = work / "git"
        git.check_out(target, git_dir, url, options.sha)
        modules = check_out_submodules(git, target, git_dir, url, work) if options.submodules else 0
    finally:
        shutil.rmtree(work, ignore_errors=True)
    files = sum(len(names) for _, _, names in os.walk(target))
    extra = f", {modules} submodules" if modules else ""
    took = time.monotonic() - began
    return f"checked out {options.repository} at {options.sha}: {files} files{extra}, {took:.1f} s"


def _make_empty(target: Path) -> None:
    try:
        target.mkdir(parents=True, exist_ok=True)
        if any(target.iterdir()):
            remedy = "Give each task a volume of its own"
            raise CloneError(ENVIRONMENT_FAILED, "The folder to check out into must be empty", str(target), remedy)
        (target / ".writable").touch()
        (target / ".writable").unlink()
    except OSError as error:
        rule = f"The folder to check out into must be ours to write, but: {error.strerror}"
        remedy = "Mount the task's volume there, writable"
        raise CloneError(ENVIRONMENT_FAILED, rule, str(target), remedy) from None


def main(arguments: list[str] | None = None) -> int:
    """Run, and return the exit code."""
    # As a container's first process we would ignore SIGTERM.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        print(clone(parse(arguments)), flush=True)
    except CloneError as error:
        print(f"clone: {one_line(str(error), 500)}", file=sys.stderr)
        return error.exit_code
    except Exception as error:  # a bug of ours: its text may quote anything
        print(f"clone: it has a bug: {type(error).__name__} in line {_line(error)}", file=sys.stderr)
        return ENVIRONMENT_FAILED
    return 0


def _line(error: BaseException) -> int:
    trace, line = error.__traceback__, 0
    while trace is not None:
        line, trace = trace.tb_lineno, trace.tb_next
    return line


if __name__ == "__main__":
    sys.exit(main())

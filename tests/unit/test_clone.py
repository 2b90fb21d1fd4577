"""The clone container's program checks out the exact commit, and leaves nothing secret where the build could look."""

import importlib.util
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

from tests.unit.local_github import NAME, Clone, Running, running, scripted
from tests.waiting import until

CHECKOUT = Path(__file__).parents[2]
PROGRAM = CHECKOUT / "runners/docker-builder/clone.py"


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("clone_program", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


program = load()


@pytest.fixture(scope="module")
def github(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("github")) as github:
        yield github


@pytest.fixture(scope="module")
def clone(github: Running) -> Clone:
    clone = github.make(NAME, 1001)
    script = clone.folder / "run.sh"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    (clone.folder / "link").symlink_to("run.sh")
    clone.commit("first", Dockerfile="FROM scratch")
    clone.push("HEAD:refs/heads/main")
    return clone


@dataclass
class Ran:
    code: int
    out: str
    err: str


@dataclass
class Runner:
    """Runs the program as its container does, with a fresh volume."""

    github: Running
    volume: Path
    env: dict[str, str]

    @property
    def source(self) -> Path:
        return self.volume / "source"

    def arguments(self, sha: str, /, **other: str) -> list[str]:
        given = {"repository": NAME, "repository-id": "1001", "sha": sha, "directory": str(self.source), **other}
        return [word for key, value in given.items() for word in (f"--{key.replace('_', '-')}", value)]

    def __call__(self, sha: str, /, *extra: str, **other: str) -> Ran:
        return self.run(*self.arguments(sha, **other), *extra)

    def run(self, *arguments: str) -> Ran:
        command = [sys.executable, str(PROGRAM), *arguments]
        done = subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=60, check=False)
        ran = Ran(done.returncode, done.stdout, done.stderr)
        self._no_secret_anywhere(ran)
        return ran

    def _no_secret_anywhere(self, ran: Ran) -> None:
        """Whatever happened: no token or key in the output or on the volume, and no temporary file left."""
        secrets = [*self.github.state.tokens, self.github.state.private_key_pem.split("\n")[5]]
        texts = [ran.out, ran.err]
        texts += [p.read_text(errors="replace") for p in self.volume.rglob("*") if p.is_file() and not p.is_symlink()]
        for secret in secrets:
            assert not any(secret in text for text in texts)
        assert list(Path(self.env["TMPDIR"]).iterdir()) == []
        if ran.code:
            assert ran.out == ""
            assert len(ran.err.splitlines()) == 1, ran.err
            assert ran.err.startswith("clone: ")


@pytest.fixture
def run(github: Running, clone: Clone, tmp_path: Path) -> Runner:
    (tmp_path / "volume").mkdir()
    (tmp_path / "temporary").mkdir()
    env = {
        "PATH": os.environ["PATH"], "PYTHONPATH": str(CHECKOUT / "src"), "TMPDIR": str(tmp_path / "temporary"),
        "GITHUB_API_URL": github.api, "GITHUB_URL": github.url, "GITHUB_APP_ID": "1001",
        "GITHUB_APP_PRIVATE_KEY": github.state.private_key_pem,
        # What an app's owner might have set to see more, or what an image might bring.
        "GIT_TRACE": "1", "GIT_CURL_VERBOSE": "1", "GIT_TRACE_CURL": "1", "GIT_CONFIG_PARAMETERS": "'core.pager=x'",
    }  # fmt: skip
    return Runner(github, tmp_path / "volume", env)


def head(clone: Clone) -> str:
    return clone.git("rev-parse", "HEAD")


def test_the_tree_of_the_commit_and_nothing_else(run: Runner, clone: Clone) -> None:
    older = head(clone)
    clone.commit("newer", Dockerfile="FROM newer")
    clone.push("HEAD:refs/heads/main")
    ran = run(older)
    assert ran.code == 0, ran.err
    assert older in ran.out
    assert sorted(path.name for path in run.source.iterdir()) == ["Dockerfile", "link", "run.sh"]
    assert (run.source / "Dockerfile").read_text() == "FROM scratch"
    assert (run.source / "run.sh").stat().st_mode & stat.S_IXOTH
    assert (run.source / "link").is_symlink()


def test_a_commit_that_is_on_no_branch_any_more_can_still_be_built(run: Runner, clone: Clone) -> None:
    clone.git("checkout", "-q", "-b", "short-lived")
    sha = clone.commit("soon deleted", extra="x")
    clone.push("HEAD:refs/heads/short-lived")
    clone.push(":refs/heads/short-lived")
    clone.git("checkout", "-q", "main")
    assert run(sha).code == 0
    assert (run.source / "extra").exists()


def test_the_token_is_for_reading_one_repository(run: Runner, github: Running, clone: Clone) -> None:
    before = set(github.state.tokens)
    assert run(head(clone)).code == 0
    (new,) = set(github.state.tokens) - before
    token = github.state.tokens[new]
    assert token.repository_ids == {1001}
    assert token.permissions == {"contents": "read", "metadata": "read"}


def test_git_gets_the_token_in_its_environment_for_one_host_alone(tmp_path: Path) -> None:
    git = program.Git("https://github.example", "ghs_secret", tmp_path)
    numbers = range(int(git._env["GIT_CONFIG_COUNT"]))
    settings = {git._env[f"GIT_CONFIG_KEY_{n}"]: git._env[f"GIT_CONFIG_VALUE_{n}"] for n in numbers}
    with_token = [key for key, value in settings.items() if "Authorization" in value]
    assert with_token == ["http.https://github.example/.extraHeader"]
    assert settings["protocol.allow"] == "never"
    assert settings["http.followRedirects"] == "false"
    assert not {name for name in git._env if name.startswith(("GITHUB_", "GIT_TRACE", "GIT_CURL"))}


def test_a_redirect_never_gets_the_token(run: Runner, github: Running, clone: Clone) -> None:
    with scripted((200, {}, b"")) as elsewhere, scripted((301, {"Location": f"{elsewhere.url}/x"}, b"")) as moved:
        run.env["GITHUB_URL"] = moved.url
        ran = run(head(clone))
        assert (ran.code, elsewhere.heard) == (3, [])
        assert moved.heard


@pytest.mark.parametrize("code", [500, 503, 429])
def test_github_in_trouble_is_the_environments_fault(
    run: Runner, clone: Clone, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with scripted((code, {}, b"sorry")) as server:
        git = program.Git(server.url, "ghs_secret", run.volume)
        monkeypatch.setattr(program, "FETCH_WAITS", (0, 0))
        with pytest.raises(program.CloneError, match=f"{code}") as caught:
            git.check_out(run.source, run.volume / "git", f"{server.url}/{NAME}.git", head(clone))
        assert caught.value.exit_code == 3
        assert len(server.heard) == 2


def test_what_is_wrong_with_the_request_is_exit_2(run: Runner, clone: Clone) -> None:
    sha = head(clone)
    assert run("f" * 40).code == 2
    tree = clone.git("rev-parse", "HEAD^{tree}")
    assert run(tree, directory=str(run.volume / "tree")).code in (2, 3)
    ran = run(sha, **{"repository-id": "1002"})
    assert ran.code == 2
    assert "with the id 1002" in ran.err
    assert run(sha, repository="lightwave-media/gone").code == 2
    assert not (run.source / "Dockerfile").exists()


@pytest.mark.parametrize(
    "wrong",
    [
        {"sha": "main"}, {"sha": "a" * 39}, {"sha": "A" * 40}, {"sha": "a" * 40 + "\n"}, {"repository": "x"},
        {"repository": "--upload-pack=touch x/y"}, {"repository": "a/.."}, {"repository": "a/b/c"},
        {"repository-id": "x"},
        {"repository-id": "0"}, {"directory": "relative"}, {"directory": "/workspace/../etc"}, {"directory": "/"},
        {"repository": "a/b; rm -rf x"}, {"sha": "-" * 40}, {"unknown": "x"},
    ],
)  # fmt: skip
def test_arguments_are_checked_strictly(run: Runner, wrong: dict[str, str]) -> None:
    arguments = run.arguments("a" * 40, **wrong)
    with pytest.raises(program.CloneError) as caught:
        program.parse(arguments)
    assert caught.value.exit_code == 2


def test_missing_or_doubtful_arguments_are_refused(run: Runner) -> None:
    assert run.run().code == 2
    assert run.run(*run.arguments("a" * 40), "more").code == 2
    assert run.run("--rep", NAME).code == 2


def test_what_is_wrong_around_it_is_exit_3(run: Runner, clone: Clone) -> None:
    sha, good = head(clone), dict(run.env)
    for name in ("GITHUB_APP_ID", "GITHUB_APP_PRIVATE_KEY", "GITHUB_URL", "GITHUB_API_URL"):
        run.env = {**good, name: ""}
        ran = run(sha)
        assert (ran.code, name in ran.err) == (3, True)
    for name, value in (("GITHUB_APP_PRIVATE_KEY", "junk"), ("GITHUB_APP_ID", "7"), ("GITHUB_API_URL", "ftp://x")):
        run.env = {**good, name: value}
        assert run(sha).code == 3
    run.env = {**good, "PATH": "/nonexistent"}
    assert run(sha).code == 3
    run.env = good
    (run.volume / "file").write_text("")
    assert run(sha, directory=str(run.volume / "file")).code == 3
    (run.source / "left-over").write_text("")
    ran = run(sha)
    assert ran.code == 3
    assert "must be empty" in ran.err


# --- what a hostile repository could try ---------------------------------------------------------------------------


def test_nothing_in_the_repository_makes_git_run_something(run: Runner, clone: Clone, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    clone.git("checkout", "-q", "-b", "hostile", "main")
    hooks = clone.folder / "hooks"
    hooks.mkdir()
    for hook in ("post-checkout", "reference-transaction"):
        (hooks / hook).write_text(f"#!/bin/sh\ntouch {marker}\n")
        (hooks / hook).chmod(0o755)
    files = {
        ".gitattributes": "* filter=evil\n*.bin filter=lfs diff=lfs merge=lfs -text\n",
        ".gitconfig": f'[core]\n\thooksPath = hooks\n\tfsmonitor = "touch {marker}"\n'
        f'[filter "evil"]\n\tsmudge = touch {marker}\n',
        "big.bin": "version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 1\n",
    }
    sha = clone.commit("hostile", **files)
    clone.push("HEAD:refs/heads/hostile")
    clone.git("checkout", "-q", "main")
    ran = run(sha)
    assert ran.code == 0, ran.err
    assert not marker.exists()
    assert (run.source / "big.bin").read_text().startswith("version https://git-lfs")


# --- submodules ----------------------------------------------------------------------------------------------------


def submodule(clone: Clone, branch: str, modules: dict[str, tuple[str, str]]) -> str:
    """Commit submodules {path: (URL, SHA)} on a branch, without asking git whether they are well."""
    clone.git("checkout", "-q", "-B", branch)
    text = ""
    for path, (url, _) in modules.items():
        text += f'[submodule "{path}"]\n\tpath = {path}\n\turl = {url}\n\tupdate = !touch x\n'
    (clone.folder / ".gitmodules").write_text(text)
    clone.git("add", ".gitmodules")
    for path, (_, sha) in modules.items():
        clone.git("update-index", "--add", "--cacheinfo", f"160000,{sha},{path}")
    clone.git("commit", "-q", "-m", "submodules")
    sha = head(clone)
    clone.push(f"HEAD:refs/heads/{branch}")
    clone.git("checkout", "-q", "-f", "main")
    return sha


@pytest.fixture(scope="module")
def libraries(github: Running) -> tuple[Clone, Clone]:
    inner = github.make("lightwave-media/inner", 2001, private=False)
    inner.commit("inner", inner="1")
    inner.push("HEAD:refs/heads/main")
    outer = github.make("lightwave-media/outer", 2002, private=False)
    outer.commit("outer", outer="1")
    outer.push("HEAD:refs/heads/main")
    return outer, inner


def test_submodules_come_when_asked_for_and_nested(
    run: Runner, github: Running, clone: Clone, libraries: tuple[Clone, Clone]
) -> None:
    outer, inner = libraries
    with_inner = submodule(outer, "nested", {"deep": ("../inner.git", head(inner))})
    ssh = "git@127.0.0.1:lightwave-media/inner.git"
    sha = submodule(clone, "modules", {
        "lib/outer": (f"{github.url}/lightwave-media/outer.git", with_inner), "by-ssh": (ssh, head(inner)),
    })  # fmt: skip
    ran = run(sha, "--submodules")
    assert ran.code == 0, ran.err
    assert "3 submodules" in ran.out
    assert (run.source / "lib/outer/outer").read_text() == "1"
    assert (run.source / "lib/outer/deep/inner").read_text() == "1"
    assert (run.source / "by-ssh/inner").read_text() == "1"
    assert not list(run.source.rglob(".git"))
    plain = run(sha, directory=str(run.volume / "plain"))
    assert plain.code == 0
    assert list((run.volume / "plain/lib/outer").iterdir()) == []


@pytest.mark.parametrize(
    "url",
    [
        "https://evil.example/x.git", "http://127.0.0.1:1/x.git", "http://169.254.170.2/v2/credentials", "file:///etc",
        "/etc", "ext::sh -c touch% x", "git@evil.example:a/b.git", "--upload-pack=x",
        "{github}/../../etc", "{github}@evil.example/x.git", "{github}/a/b?x=y", "",
    ],
)  # fmt: skip
def test_a_submodule_elsewhere_is_refused_before_anything_is_asked_there(github: Running, url: str) -> None:
    url = url.replace("{github}", github.url)
    with pytest.raises(program.CloneError) as caught:
        program.submodule_url(github.url, f"{github.url}/{NAME}.git", "x", url)
    assert caught.value.exit_code == 2


def test_a_submodule_that_the_token_does_not_show_is_exit_2(run: Runner, github: Running, clone: Clone) -> None:
    github.make("lightwave-media/private", 2003)
    sha = submodule(clone, "private", {"lib": ("../private.git", "a" * 40)})
    ran = run(sha, "--submodules")
    assert ran.code == 2, ran.err
    assert "copy private submodules into it" in ran.err


def test_an_elsewhere_submodule_ends_the_program_with_2(run: Runner, clone: Clone) -> None:
    sha = submodule(clone, "elsewhere", {"lib": ("https://evil.example/x.git", "a" * 40)})
    ran = run(sha, "--submodules")
    assert ran.code == 2
    assert "evil.example" in ran.err


# --- how it ends ---------------------------------------------------------------------------------------------------


def test_stopping_the_task_ends_it_at_once_and_cleans_up(run: Runner, clone: Clone) -> None:
    with scripted((200, {"Content-Length": "10"}, b"")) as hangs:  # never sends the rest
        run.env["GITHUB_API_URL"] = hangs.url
        command = [sys.executable, str(PROGRAM), *run.arguments(head(clone))]
        process = subprocess.Popen(command, env=run.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        until(lambda: hangs.heard)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)  # ECS kills what has not ended within 30 s
        assert process.returncode == 128 + signal.SIGTERM
    assert list(Path(run.env["TMPDIR"]).iterdir()) == []

"""The arguments that we hand to the two containers of docker-builder are ones that they take, to the letter."""

import re
import shlex
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy_runner.domain.apps import App, Repository
from deploy_runner.domain.deployment import SOURCE_DIRECTORY, WORKSPACE, clone_command, image_tag, kaniko_command
from tests.unit.test_clone import program

FLAGS = {
    flag: kind
    for kind, flags in yaml.safe_load((Path(__file__).parent / "data/kaniko_flags.yaml").read_text()).items()
    for flag in flags
}
SHA = "0123456789abcdef0123456789abcdef01234567"
URI = "123456789012.dkr.ecr.us-east-1.amazonaws.com/cineos"
# docs.aws.amazon.com/AmazonECR/latest/userguide/image-tag-mutability.html; the form is the OCI distribution spec's.
TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")


def app(**changes: Any) -> App:
    given = {"name": "cineos", "repository": Repository("lightwave-media/cineos", 1001), "environments": {}}
    return App(**given | {"image_repository": "cineos"} | changes)


APPS = {
    "plain": app(),
    "monorepo": app(context="services/api", dockerfile="services/api/Dockerfile.prod", submodules=True),
    "immutable": app(immutable_tags=True, architecture="X86_64"),
    "arguments": app(
        build_args=(("VERSION", "1 2"), ("EMPTY", ""), ("URL", "https://x.example/?a=b&c='d'"), ("E", "a,b=c"))
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", APPS)
def test_kaniko_takes_every_argument(name: str) -> None:
    command = kaniko_command(APPS[name], SHA, URI)
    seen: Counter[str] = Counter()
    for argument in command:
        # One word per flag, with "=": pflag takes no value for a boolean from the next word.
        found = re.fullmatch(r"--([a-z-]+)=(.*)", argument, re.DOTALL)
        assert found, argument
        flag, value = found.groups()
        assert flag in FLAGS, f"Kaniko has no flag --{flag}"
        kind = FLAGS[flag]
        assert {"boolean": value in ("true", "false"), "number": value.isdigit()}.get(kind, True), argument
        seen[flag] += 1
        assert kind == "list" or seen[flag] == 1, f"--{flag} may not be repeated"
    assert {"context", "dockerfile", "destination"} <= set(seen)


@pytest.mark.parametrize("name", APPS)
def test_the_build_reads_what_clone_wrote(name: str) -> None:
    options = program.parse(clone_command(APPS[name], SHA))
    flags = dict(argument.split("=", 1) for argument in kaniko_command(APPS[name], SHA, URI))
    assert options.directory == SOURCE_DIRECTORY
    assert options.directory.startswith(f"{WORKSPACE}/")
    context = flags["--context"].removeprefix("dir://")
    for path in (context, flags["--dockerfile"]):
        assert path == options.directory or path.startswith(f"{options.directory}/")
    assert (options.repository, options.repository_id, options.sha) == ("lightwave-media/cineos", "1001", SHA)
    assert options.submodules == APPS[name].submodules


@pytest.mark.parametrize("name", APPS)
def test_every_destination_is_a_tag_of_the_apps_own_repository(name: str) -> None:
    given = APPS[name]
    destinations = [a.split("=", 1)[1] for a in kaniko_command(given, SHA, URI) if a.startswith("--destination=")]
    tags = [destination.removeprefix(f"{URI}:") for destination in destinations]
    assert all(TAG.fullmatch(tag) for tag in tags), tags
    assert tags[-1] == image_tag(given, SHA)  # it stands for a whole push, so it comes last
    assert ("latest" in tags) is not given.immutable_tags
    assert ("--push-ignore-immutable-tag-errors=true" in kaniko_command(given, SHA, URI)) is given.immutable_tags


def test_a_build_argument_is_one_word_whatever_it_holds() -> None:
    command = kaniko_command(APPS["arguments"], SHA, URI)
    assert [a for a in command if a.startswith("--build-arg=")] == [
        "--build-arg=VERSION=1 2", "--build-arg=EMPTY=", "--build-arg=URL=https://x.example/?a=b&c='d'",
        "--build-arg=E=a,b=c",
    ]  # fmt: skip
    assert all(len(shlex.split(shlex.quote(argument))) == 1 for argument in command)


def test_our_stand_in_for_kaniko_takes_what_kaniko_takes() -> None:
    """Local AWS parses the same flags, so what it builds with is what Kaniko would build with."""
    from deploy_runner.local_aws.ecs.kaniko import _BOOLEANS, _VALUES

    known = {flag for flag, kind in FLAGS.items() if kind == "boolean"}
    assert known <= _BOOLEANS
    assert set(FLAGS) - known <= _VALUES

"""What holds in every test: local AWS answers as botocore's models say that AWS does."""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
from hypothesis import settings

from deploy_runner.local_aws.machine import Machine
from deploy_runner.local_aws.server import read_files_once
from tests.local_aws import shapes

read_files_once()
settings.register_profile("here", deadline=None, max_examples=150)
settings.load_profile("here")


@pytest.fixture(scope="session", autouse=True)
def every_answer_is_read() -> Iterator[None]:
    """Put the reader of answers before all else that local AWS is made of, wherever a test starts it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Machine, "gated", shapes.held(Machine.gated))
        yield


@pytest.fixture(autouse=True)
def no_answer_is_wrong() -> Iterator[None]:
    """Fail the test in which an answer was other than botocore's model of the operation has it."""
    shapes.VIOLATIONS.clear()
    yield
    found = list(dict.fromkeys(shapes.VIOLATIONS))
    shapes.VIOLATIONS.clear()
    assert not found, "local AWS answered as AWS does not:\n" + "\n".join(found)


def _operations(of: set[tuple[str, str]]) -> list[str]:
    return sorted(f"{service}:{operation}" for service, operation in of)


NEVER_CALLED = pytest.StashKey[list[str]]()
CALLED = pytest.StashKey[set[str]]()
OURS = pytest.StashKey[set[str]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[CALLED], config.stash[OURS] = set(), set()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take over what a worker of pytest-xdist saw."""
    told = getattr(node, "workeroutput", {})
    node.config.stash[CALLED].update(told.get("called", []))
    node.config.stash[OURS].update(told.get("ours", []))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a run of all tests in which an operation that is ours was not called: nothing was told of its answer."""
    config = session.config
    called, ours = _operations(shapes.CALLED), _operations(shapes.implemented())
    if hasattr(config, "workeroutput"):
        config.workeroutput |= {"called": called, "ours": ours}
        return
    missing = (config.stash[OURS] | set(ours)) - config.stash[CALLED] - set(called)
    everything = config.args == config.getini("testpaths") and not (config.option.keyword or config.option.markexpr)
    if everything and missing and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        config.stash[NEVER_CALLED] = sorted(missing)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    for operation in config.stash.get(NEVER_CALLED, []):
        terminalreporter.write_line(f"FAILED: local AWS implements {operation}, and no test calls it", red=True)


# --- side by side: pytest -n 3 ----------------------------------------------------------------------------------------


_MATRIX = "tests/statemachine/test_fault_matrix.py"
_PARTS = {_MATRIX: 4, "tests/property/test_schedules.py": 8}  # whose tests share nothing, and take long together


def _scope(nodeid: str) -> str:
    """Return what a test shares a process with: mostly its file's."""
    file = nodeid.partition("::")[0]
    return f"{file} {crc32(nodeid.encode()) % _PARTS[file]}" if file in _PARTS else _together(file)


@cache
def _together(file: str) -> str:
    """Return what a file's tests share a process with: what runs containers, in four parts, else its `xdist_group`."""
    text = (Path(__file__).parents[1] / file).read_text()
    if file in _LONGEST:
        return file
    if "pytest.mark.engine" in text:
        folder = file.split("/")[1]
        return folder if folder in ("end_to_end", "other_tools") else "engine"
    found = re.search(r'xdist_group\("(\w+)"\)', text)
    return found[1] if found else file


_LONGEST = (
    "end_to_end", "engine", "tests/local_aws/test_up_and_down.py", "tests/statemachine/test_crowd.py", "other_tools",
    *(f"{_MATRIX} {part}" for part in range(_PARTS[_MATRIX])),
)  # fmt: skip


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest, so that the small ones fill the gaps at the end."""
    ranks = {name: rank for rank, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: ranks.get(_scope(item.nodeid), len(ranks)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Run what shares something in one process: what a fixture started, its ports, the machine's packet filter.

    `--dist loadgroup` does not: it marks tests by Item._nodeid (xdist/remote.py), which pytest 9.2 does not read.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return _scope(nodeid)

    config.option.loadscopereorder = False  # by the number of tests: but the slowest groups are those with few
    return ByGroup(config, log)

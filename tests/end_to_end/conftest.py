"""One local AWS with the real stack in it, deployed by the real SAM CLI, for all end-to-end tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy_runner.cli.walkthrough import Walkthrough
from tests.held import reading, what_was_read
from tests.left_behind import left_behind

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
LAST = HERE / "test_grants.py"  # it looks at what the others did
_deselected: list[pytest.Item] = []


@pytest.fixture(scope="session")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Walkthrough]:
    """AWS is up, the stack is deployed, the runners' images are pushed."""
    report = tmp_path_factory.mktemp("held") / "report.json"
    with Walkthrough(ROOT, tmp_path_factory.mktemp("walkthrough"), port=4616) as walkthrough:
        with reading(report):
            walkthrough.start()
        walkthrough.fault("profile", "at-least-once")
        walkthrough.build_stack()
        walkthrough.deploy_stack()
        walkthrough.push_runner_images()
        yield walkthrough
    assert left_behind(4616) == []
    assert what_was_read(report) == []


@pytest.fixture(scope="session")
def createos(walk: Walkthrough) -> Path:
    """The repository of an app that several modules deploy."""
    return walk.create_repository("lightwave-media/createos", 1003)


@pytest.fixture(scope="session")
def backend(walk: Walkthrough) -> Path:
    """The repository of another one."""
    return walk.create_repository("lightwave-media/lightwave-backend", 1004)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put test_grants.py after the other tests of this folder; `walk`, which builds images, is on nobody's time."""
    places = [n for n, item in enumerate(items) if item.path.parent == HERE]
    for n in places:
        items[n].add_marker(pytest.mark.timeout(func_only=True))
    ours = sorted((items[n] for n in places), key=lambda item: item.path == LAST)
    for n, item in zip(places, ours, strict=True):
        items[n] = item


def pytest_deselected(items: list[pytest.Item]) -> None:
    """Remember what `-k` and its like leave out."""
    _deselected.extend(item for item in items if item.path.parent == HERE)


@pytest.fixture
def everything_ran(request: pytest.FixtureRequest) -> bool:
    """Whether all tests of this folder are part of this session."""
    chosen = {item.path for item in request.session.items} >= set(HERE.glob("test_*.py"))
    return chosen and not _deselected and not any("::" in argument for argument in request.config.args)

"""One local AWS with the real stack in it, deployed by the real SAM CLI, for all end-to-end tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy_runner.cli.walkthrough import Walkthrough
from tests.left_behind import left_behind

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Walkthrough]:
    """AWS is up, the stack is deployed, the runners' images are pushed."""
    with Walkthrough(ROOT, tmp_path_factory.mktemp("walkthrough"), port=4616) as walkthrough:
        walkthrough.start()
        walkthrough.build_stack()
        walkthrough.deploy_stack()
        walkthrough.push_runner_images()
        yield walkthrough
    assert left_behind(4616) == []

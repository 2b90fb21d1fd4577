"""Holds a local AWS that runs as a program of its own to botocore's models; see sitecustomize.py."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.local_aws import shapes


@contextmanager
def reading(report: Path) -> Iterator[None]:
    """Have the answers of the local AWS that is started in here read."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(Path(__file__).parent), os.getenv("PYTHONPATH")])))
        patch.setenv("HELD_REPORT", str(report))
        yield


def what_was_read(report: Path) -> list[str]:
    """Return what was wrong, when that local AWS has ended."""
    told = json.loads(report.read_text())
    shapes.CALLED.update((service, operation) for service, operation in told["called"])
    return list(dict.fromkeys(told["violations"]))

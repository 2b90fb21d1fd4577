"""The state machine runs in moto's interpreter, against services that answer as a test says."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))

import fake_aws

from deploy_runner.local_aws.stepfunctions import interpreter


@pytest.fixture(scope="session")
def started_aws() -> Iterator[fake_aws.FakeAws]:
    """Moto's server with our Step Functions, once for all tests."""
    aws, stop = fake_aws.start()
    yield aws
    stop()


@pytest.fixture
def aws(started_aws: fake_aws.FakeAws, monkeypatch: pytest.MonkeyPatch) -> Iterator[fake_aws.FakeAws]:
    """It without anything from another test; retries come at once."""
    monkeypatch.setattr(interpreter, "retry_delay_scale", 0.0)
    started_aws.use()
    yield started_aws
    started_aws.reset()

"""What was deployed and what runs, in memory: domain.allow.History and Running."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from deploy_runner.aws.deployments import Good
from deploy_runner.aws.running import Current
from deploy_runner.domain.apps import App, Environment
from deploy_runner.domain.errors import NotPromotable
from tests.unit.fake_github import SHA

DIGEST = "sha256:" + "d" * 64
GOOD = Good("d-0", "2025-12-31T00:00:00Z", SHA, DIGEST, {"web": "td/web:41", "worker": "td/worker:7", "gone": "td/x:1"})


@dataclass
class FakeHistory:
    """`good` are deployments that succeeded, by app, environment and id; the first of a place is its last good one."""

    good: dict[tuple[str, str, str], Good] = field(default_factory=dict)
    accepted: list[dict[str, Any]] = field(default_factory=list)

    def accept(self, deployment: Mapping[str, Any]) -> None:
        self.accepted.append(dict(deployment))

    def find(self, deployment_id: str) -> None:
        return None

    def last_good(self, app: str, environment: str) -> Good | None:
        return next((good for key, good in self.good.items() if key[:2] == (app, environment)), None)

    def named(self, app: str, environment: str, deployment_id: str) -> Good | None:
        return self.good.get((app, environment, deployment_id))


@dataclass
class FakeRunning:
    """`there` is what runs, by app and environment."""

    there: dict[tuple[str, str], Current] = field(default_factory=dict)

    def current(self, app: App, environment: Environment) -> Current:
        try:
            return self.there[app.name, environment.name]
        except KeyError:
            raise NotPromotable("It must run") from None

"""What roles did, and what they were refused: the facts behind `deploy-runner local iam`."""

import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Used:
    """A grant of a role: one action on one resource, as a statement of a policy writes them."""

    role_arn: str
    policy: str
    statement: str
    action: str
    resource: str


@dataclass(frozen=True)
class Refused:
    """What a role was not allowed to do, or who was not allowed to become it."""

    role_arn: str
    action: str
    resource: str
    message: str


@dataclass
class Record:
    """Counts of the same, so that a long life does not fill the memory."""

    used: Counter[Used] = field(default_factory=Counter)
    refused: Counter[Refused] = field(default_factory=Counter)
    entered: Counter[tuple[str, str]] = field(default_factory=Counter)  # (role's ARN, who became it)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def clear(self) -> None:
        """Forget everything: another local AWS starts in this process."""
        with self._lock:
            for counts in (self.used, self.refused, self.entered):
                counts.clear()

    def snapshot(self) -> "Record":
        """Return a copy that nobody counts on."""
        with self._lock:
            return Record(Counter(self.used), Counter(self.refused), Counter(self.entered))

    def allow(self, grants: Iterable[Used]) -> None:
        """Count what allowed a request."""
        with self._lock:
            self.used.update(grants)

    def refuse(self, role_arn: str, action: str, resource: str, message: str) -> None:
        """Count a request that was refused."""
        with self._lock:
            self.refused[Refused(role_arn, action, resource, message)] += 1

    def enter(self, role_arn: str, who: str) -> None:
        """Count that somebody became a role."""
        with self._lock:
            self.entered[role_arn, who] += 1


RECORD = Record()  # of this process, as moto's own state is

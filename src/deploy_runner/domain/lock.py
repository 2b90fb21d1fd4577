"""Locks and their queues, pure: who owns what, who waits, who comes next, and who is superseded.

A claim is for all its locks at once, so nobody holds one while waiting for another. `image/…` is held while an image is
built, `app/…` while an app's services change, `unit/…` by whoever changes a Terragrunt unit. Only `app/…` has a newest
request that wins; in the others all wait in order.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

SUPERSEDING = "app/"


@dataclass(frozen=True, slots=True)
class Claim:
    """One deployment that wants locks. `requested_at` is when its execution started: ISO text in UTC, which sorts."""

    deployment_id: str
    execution_arn: str
    requested_at: str
    token: str
    locks: tuple[str, ...]
    keeps_order: bool = False  # `queue: all`: nobody is superseded

    @property
    def age(self) -> tuple[str, str]:
        """Return what orders claims: the earlier request first, whatever arrived first."""
        return self.requested_at, self.deployment_id


@dataclass(frozen=True, slots=True)
class Lock:
    """One lock. `newest` is the age of the newest deployment that succeeded under it.

    `stamp` tells the writing that this was read from, empty where there was none.
    """

    name: str
    owner: Claim | None = None
    waiting: tuple[Claim, ...] = ()
    newest: tuple[str, str] = ("", "")
    stamp: str = ""

    @property
    def is_empty(self) -> bool:
        """Tell whether there is nothing to remember."""
        return self.owner is None and not self.waiting and not any(self.newest)


@dataclass(frozen=True, slots=True)
class Change:
    """The locks that a step changes, and who is to be told: who was granted, who superseded and by which deployment."""

    locks: Mapping[str, Lock]
    granted: tuple[Claim, ...] = ()
    superseded: tuple[tuple[Claim, str], ...] = ()


def missing(locks: Mapping[str, Lock]) -> set[str]:
    """Return the names of locks that someone in these waits for too: without them nothing can be decided."""
    return {name for lock in locks.values() for claim in lock.waiting for name in claim.locks} - locks.keys()


def claim(locks: Mapping[str, Lock], new: Claim, giving_up: Iterable[str] = ()) -> Change:
    """Return the change that a claim makes, which gives up other locks of its deployment in the same step.

    `locks` must hold all that it names and whatever is `missing`. One made again is the same claim with a new token.
    """
    now = _Locks(locks)
    now.let_go(new.deployment_id, giving_up)
    if all(_owns(now.locks[name], new.deployment_id) for name in new.locks):
        for name in new.locks:
            now.set(name, owner=new)
        return now.settled(granted=(new,))
    now.leave_queues(new.deployment_id)
    for name in new.locks:
        if not new.keeps_order and name.startswith(SUPERSEDING):
            now.supersede(name, new)
    if new.deployment_id not in now.superseded:
        for name in new.locks:
            now.set(name, waiting=tuple(sorted((*now.locks[name].waiting, new), key=lambda c: c.age)))
    return now.settled()


def release(locks: Mapping[str, Lock], deployment_id: str, *, succeeded: bool = False) -> Change:
    """Return the change in which a deployment gives up all that it owns and waits for, and the next come to own it.

    After a success, what was requested before it is superseded: it would take the app back to something older.
    """
    now = _Locks(locks)
    owned = [lock for lock in locks.values() if _owns(lock, deployment_id)]
    now.let_go(deployment_id, [lock.name for lock in owned])
    now.leave_queues(deployment_id)
    for lock in owned:
        if succeeded and lock.owner and lock.name.startswith(SUPERSEDING):
            now.set(lock.name, newest=max(lock.newest, lock.owner.age))
            for waiting in now.locks[lock.name].waiting:
                if not waiting.keeps_order and waiting.age < lock.owner.age:
                    now.end(waiting, deployment_id)
    return now.settled()


def _owns(lock: Lock, deployment_id: str) -> bool:
    return lock.owner is not None and lock.owner.deployment_id == deployment_id


class _Locks:
    """Locks while they change."""

    def __init__(self, locks: Mapping[str, Lock]) -> None:
        self.before, self.locks = locks, dict(locks)
        self.superseded: dict[str, tuple[Claim, str]] = {}

    def set(self, name: str, **changes: object) -> None:
        self.locks[name] = replace(self.locks[name], **changes)  # type: ignore[arg-type]

    def let_go(self, deployment_id: str, names: Iterable[str]) -> None:
        for name in names:
            if name in self.locks and _owns(self.locks[name], deployment_id):
                self.set(name, owner=None)

    def leave_queues(self, deployment_id: str) -> None:
        for name, lock in self.locks.items():
            stay = tuple(each for each in lock.waiting if each.deployment_id != deployment_id)
            if stay != lock.waiting:
                self.set(name, waiting=stay)

    def end(self, claim: Claim, by: str) -> None:
        self.superseded[claim.deployment_id] = (claim, by)
        self.leave_queues(claim.deployment_id)

    def supersede(self, name: str, new: Claim) -> None:
        """End whoever waits and is older than a new claim, or the claim itself where a newer one waits or succeeded."""
        lock = self.locks[name]
        for waiting in lock.waiting:
            if waiting.age < new.age and not waiting.keeps_order:
                self.end(waiting, new.deployment_id)
        newer = [waiting.age for waiting in lock.waiting if waiting.age > new.age]
        if lock.newest > new.age:
            newer.append(lock.newest)
        if newer:
            self.superseded[new.deployment_id] = (new, max(newer)[1])

    def settled(self, granted: tuple[Claim, ...] = ()) -> Change:
        """Give what is free to those who wait, the earliest first."""
        waiting = {claim.deployment_id: claim for lock in self.locks.values() for claim in lock.waiting}
        for claim in sorted(waiting.values(), key=lambda c: c.age):
            if all(self.locks[name].owner is None for name in claim.locks):
                self.leave_queues(claim.deployment_id)
                for name in claim.locks:
                    self.set(name, owner=claim)
                granted += (claim,)
        changed = {name: lock for name, lock in self.locks.items() if lock != self.before.get(name)}
        return Change(changed, granted, tuple(self.superseded.values()))

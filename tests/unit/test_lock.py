"""Who owns a lock, who waits, who comes next, and who is superseded."""

from collections.abc import Iterable

from deploy_runner.domain.lock import Change, Claim, Lock, claim, missing, release

APP, OTHER, UNIT, IMAGE = "app/cineos/dev", "app/createos/dev", "unit/live/dev", "image/cineos:1"


def wants(name: str, *locks: str, at: str = "", order: bool = False) -> Claim:
    return Claim(name, f"arn:{name}", at or name, f"token of {name}", locks or (APP,), order)


class Locks:
    """Locks that remember; each step says who was granted and who superseded."""

    def __init__(self) -> None:
        self.locks: dict[str, Lock] = {}

    def _do(self, change: Change) -> tuple[list[str], dict[str, str]]:
        for name, lock in change.locks.items():
            assert lock != self.locks.get(name, Lock(name))
        self.locks |= change.locks
        return [c.deployment_id for c in change.granted], {c.deployment_id: by for c, by in change.superseded}

    def _read(self, names: Iterable[str]) -> dict[str, Lock]:
        read = {name: self.locks.get(name, Lock(name)) for name in names}
        while more := missing(read):
            read |= {name: self.locks.get(name, Lock(name)) for name in more}
        return read

    def claim(self, new: Claim, *giving_up: str) -> tuple[list[str], dict[str, str]]:
        return self._do(claim(self._read([*new.locks, *giving_up]), new, giving_up))

    def release(self, name: str, *locks: str, succeeded: bool = False) -> tuple[list[str], dict[str, str]]:
        return self._do(release(self._read(locks or (APP,)), name, succeeded=succeeded))

    def owner(self, name: str = APP) -> str | None:
        found = self.locks[name].owner
        return found.deployment_id if found else None


def test_a_free_lock_is_granted_at_once_and_the_next_waits() -> None:
    locks = Locks()
    assert locks.claim(wants("1")) == (["1"], {})
    assert locks.claim(wants("2")) == ([], {})
    assert locks.owner() == "1"
    assert locks.release("1") == (["2"], {})
    assert locks.owner() == "2"


def test_the_latest_request_wins_among_those_that_wait_and_the_owner_is_not_interrupted() -> None:
    locks = Locks()
    for name in "12":
        locks.claim(wants(name))
    assert locks.claim(wants("3")) == ([], {"2": "3"})
    assert locks.owner() == "1"
    assert locks.release("1", succeeded=True) == (["3"], {})


def test_what_was_requested_earlier_and_arrives_later_is_the_older_one() -> None:
    locks = Locks()
    locks.claim(wants("1"))
    locks.claim(wants("3"))
    assert locks.claim(wants("2")) == ([], {"2": "3"})


def test_an_older_request_does_not_undo_a_newer_success_but_comes_after_a_newer_failure() -> None:
    for succeeded in (True, False):
        locks = Locks()
        locks.claim(wants("2"))
        locks.claim(wants("1"))
        assert locks.release("2", succeeded=succeeded) == (([], {"1": "2"}) if succeeded else (["1"], {}))
        if succeeded:
            assert locks.claim(wants("1b", at="1")) == ([], {"1b": "2"})


def test_with_queue_all_everybody_has_a_turn_in_the_order_of_the_requests() -> None:
    locks = Locks()
    locks.claim(wants("1", order=True))
    for name in "423":
        assert locks.claim(wants(name, order=True)) == ([], {})
    assert [locks.release(name, succeeded=True)[0] for name in "123"] == [["2"], ["3"], ["4"]]


def test_a_claim_made_again_keeps_its_place_and_has_its_new_token() -> None:
    locks = Locks()
    locks.claim(wants("1"))
    locks.claim(wants("2"))
    again = Claim("2", "arn:2", "2", "a new token", (APP,))
    assert locks.claim(again) == ([], {})
    assert [each.token for each in locks.locks[APP].waiting] == ["a new token"]
    owner = Claim("1", "arn:1", "1", "a new token", (APP,))
    assert locks.claim(owner) == (["1"], {})
    assert locks.locks[APP].owner == owner


def test_an_image_is_built_by_one_after_the_other_and_nobody_is_superseded() -> None:
    locks = Locks()
    locks.claim(wants("1", IMAGE))
    assert locks.claim(wants("2", IMAGE)) == ([], {})
    assert locks.claim(wants("3", IMAGE)) == ([], {})
    # The right to build is given up in the step that claims the app.
    assert locks.claim(wants("1", APP), IMAGE) == (["1", "2"], {})
    assert (locks.owner(IMAGE), locks.owner(APP)) == ("2", "1")


def test_locks_are_granted_together_or_not_at_all() -> None:
    locks = Locks()
    locks.claim(wants("1", OTHER, UNIT))
    assert locks.claim(wants("2", APP, UNIT)) == ([], {})
    assert locks.locks.get(APP, Lock(APP)).owner is None
    assert locks.release("1", OTHER, UNIT) == (["2"], {})
    assert (locks.owner(APP), locks.owner(UNIT)) == ("2", "2")


def test_who_leaves_a_queue_leaves_all_of_them() -> None:
    locks = Locks()
    locks.claim(wants("1", OTHER, UNIT))
    locks.claim(wants("2", APP, UNIT))
    assert locks.claim(wants("3", APP, UNIT)) == ([], {"2": "3"})
    assert [[c.deployment_id for c in locks.locks[name].waiting] for name in (APP, UNIT)] == [["3"], ["3"]]
    locks.release("3", APP, UNIT)
    assert locks.release("1", OTHER, UNIT) == ([], {})


def test_one_that_neither_owns_nor_waits_changes_nothing() -> None:
    locks = Locks()
    locks.claim(wants("1"))
    assert release(locks.locks, "stranger", succeeded=True) == Change({})

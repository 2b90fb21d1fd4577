"""The table: what is written together, once, and by whoever comes first."""

import random
import threading
from typing import Any

import pytest

from deploy_runner.aws.deployments import Answer, Deployments, Unfinished, _lock
from deploy_runner.domain.errors import DeployRunnerError, LockLost
from deploy_runner.domain.outcome import Outcome
from tests.property.fake_dynamodb import FakeDynamoDb

TABLE = "deploy-runner-deployments"
SUCCESS, FAILURE = Outcome("SUCCEEDED"), Outcome("FAILED", "RolloutFailed", "exit 1")


def deployment(name: str, environment: str = "dev", **more: Any) -> dict[str, Any]:
    made = {
        "id": name, "execution_arn": f"arn:{name}", "started_at": f"2026-01-01T00:00:0{name[-1]}Z", "app": "cineos",
        "environment": environment, "action": "deploy", "ref": "main", "sha": name * 4, "repository": "o/cineos",
        "requested_by": None, "image": {"tag": "t"}, "queue": "latest", "origin": None,
        "locks": {"build": ["image/cineos:t"], "deploy": [f"app/cineos/{environment}"]},
    }  # fmt: skip
    return made | more


class OneAtATime:
    """A client whose calls do not mix, as those of DynamoDB do not; moto's do."""

    def __init__(self, client: Any) -> None:
        self._client, self._lock = client, threading.Lock()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)

        def call(*positional: Any, **named: Any) -> Any:
            with self._lock:
                return method(*positional, **named)

        return call


class Table(Deployments):
    """The table, and what a test looks for in it."""

    def go(self, name: str, **more: Any) -> list[Answer]:
        made = deployment(name, **more)
        self.accept(made)
        return self.claim(made, f"token-{name}", made["locks"]["deploy"])

    def one(self, name: str) -> Unfinished:
        found = self.find(name)
        assert found
        return found

    def item(self, pk: str, sk: str) -> Any:
        return self._get({"pk": {"S": pk}, "sk": {"S": sk}})


@pytest.fixture
def table(aws: Any) -> Table:
    return Table(OneAtATime(aws.client("dynamodb")), TABLE, lambda _: None, lambda: 1000.0)  # type: ignore[arg-type]


def test_an_accepted_request_is_unfinished_and_has_a_record(table: Table) -> None:
    table.accept(deployment("d1"))
    table.accept(deployment("d1"))  # the function was tried again
    [found] = table.unfinished()
    assert (found.id, found.execution_arn, found.outcome, found.deployment) == ("d1", "arn:d1", None, deployment("d1"))
    record = table.item("APP#cineos#dev", "DEPLOYMENT#2026-01-01T00:00:01Z#d1")
    assert (record["sha"]["S"], record["ref"]["S"], "verdict" in record) == ("d1d1d1d1", "main", False)


def test_the_owner_is_answered_and_the_next_when_it_ends(table: Table) -> None:
    assert [answer.token for answer in table.go("d1")] == ["token-d1"]
    assert table.go("d2") == []
    stands, ours, answers = table.end(table.one("d1"), SUCCESS, "finish", {"digest": "sha256:1", "ended_at": "later"})
    assert (stands, ours, [answer.token for answer in answers]) == (SUCCESS, True, ["token-d2"])
    # What is to be sent is written down until it was.
    assert table.one("d2").answer == answers[0]
    table.answered(answers[0])
    assert table.one("d2").answer is None
    assert table.item("APP#cineos#dev", "NOW")["id"]["S"] == "d1"
    record = table.item("APP#cineos#dev", "DEPLOYMENT#2026-01-01T00:00:01Z#d1")
    assert (record["verdict"]["S"], record["digest"]["S"]) == ("SUCCEEDED", "sha256:1")


def test_a_newer_request_supersedes_the_one_that_waits(table: Table) -> None:
    table.go("d1")
    table.go("d2")
    [answer] = table.go("d3")
    assert (answer.deployment_id, answer.error) == ("d2", "Superseded")
    assert "d3" in answer.cause
    assert table.one("d2").answer == answer


def test_the_first_verdict_stands_and_only_its_writer_tells(table: Table) -> None:
    table.go("d1")
    seen = table.one("d1")
    assert table.end(seen, FAILURE, "clean_up", {}, releases=False) == (FAILURE, True, [])
    assert table.end(seen, SUCCESS, "finish", {}) == (FAILURE, False, [])
    assert table.end(seen, FAILURE, "clean_up", {})[:2] == (FAILURE, True)  # its own, tried again
    assert table.item("APP#cineos#dev", "NOW") is None
    assert table.item("LOCK#app/cineos/dev", "LOCK") is None  # nobody owns it, and nothing is to be remembered


def test_the_lock_is_kept_until_it_is_released(table: Table) -> None:
    table.go("d1")
    table.go("d2")
    table.end(table.one("d1"), FAILURE, "clean_up", {}, releases=False)
    table.keep_told(deployment("d1"), ["events"])
    assert table.one("d1").told == ("events",)
    table.told(deployment("d1"), "now")
    assert (table.one("d1").reported, table.one("d1").released) == (True, False)
    [answer] = table.release(table.one("d1"))
    assert (answer.token, answer.error) == ("token-d2", "")
    assert table.find("d1") is None
    assert table.release(Unfinished("d1", "arn:d1", "", deployment("d1"), outcome=FAILURE)) == []  # twice does no harm


def test_one_at_a_time_tells_of_a_deployment_and_a_turn_ends_by_itself(table: Table) -> None:
    table.go("d1")
    until = table.take_turn("d1", 60)
    assert until
    assert table.take_turn("d1", 60) is None
    table.end_turn("d1", until)
    late = table.take_turn("d1", -1)  # and then its function is killed
    assert late
    assert table.take_turn("d1", 60)
    table.end_turn("d1", late)  # it is another's by now
    assert table.take_turn("d1", 60) is None
    table.end(table.one("d1"), SUCCESS, "finish", {})
    table.told(deployment("d1"), "now")
    assert table.take_turn("d1", 60) is None


def test_nothing_is_left_open_once_it_ended_and_was_told(table: Table) -> None:
    table.go("d1")
    table.end(table.one("d1"), SUCCESS, "finish", {"digest": "sha256:1"})
    assert table.one("d1").outcome == SUCCESS
    table.told(deployment("d1"), "now")
    assert list(table.unfinished()) == []


def test_only_the_owner_may_change_anything_and_only_until_its_verdict(table: Table) -> None:
    table.go("d1")
    table.go("d2")
    table.keep(deployment("d1"), revisions=[{"service": "cineos"}], changing_until=1100)
    assert (table.one("d1").revisions, table.one("d1").changing_until) == (({"service": "cineos"},), 1100)
    with pytest.raises(LockLost, match="d2 must own the lock of cineos in dev"):
        table.keep(deployment("d2"), revisions=[])
    table.end(table.one("d1"), FAILURE, "clean_up", {}, releases=False)
    with pytest.raises(LockLost):
        table.keep(deployment("d1"), revisions=[])


def test_a_deployment_that_is_over_is_passed_over_and_waits_for_nothing(table: Table) -> None:
    table.go("d1", queue="all")
    table.go("d2", queue="all")
    table.go("d3", queue="all")
    table.end(table.one("d2"), FAILURE, "clean_up", {}, releases=False)  # stopped while it waited
    _, _, answers = table.end(table.one("d1"), FAILURE, "finish", {})
    assert [answer.deployment_id for answer in answers] == ["d3"]
    with pytest.raises(LockLost):
        table.claim(deployment("d2"), "late", ["app/cineos/dev"])
    with pytest.raises(LockLost):
        table.claim(deployment("d2"), "late", ["app/cineos/prod"])


def test_many_at_once_have_one_owner(table: Table) -> None:
    """GIVEN claims at the same moment WHEN all are made THEN one owns it, one waits, the others are superseded."""
    granted: list[Answer] = []
    names = [f"d{number}" for number in range(8)]
    threads = [threading.Thread(target=lambda n=name: granted.extend(table.go(n))) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    owners = [answer.deployment_id for answer in granted if not answer.error]
    lost = [answer.deployment_id for answer in granted if answer.error]
    assert len(owners) == 1
    assert len(owners + lost) in (7, 8)
    assert len(set(owners + lost)) == len(owners + lost)


def good(table: Table, name: str, digest: str, **more: Any) -> None:
    table.go(name, **more)
    revisions = [{"service": "cineos", "task_definition": f"td:{name}"}]
    table.end(table.one(name), SUCCESS, "finish", {"digest": digest, "revisions": revisions})


def test_the_last_good_deployment_is_the_newest_with_another_digest(table: Table) -> None:
    assert table.last_good("cineos", "dev") is None
    for name, digest in (("d1", "sha256:1"), ("d2", "sha256:2"), ("d3", "sha256:3"), ("d4", "sha256:3")):
        good(table, name, digest)
    found = table.last_good("cineos", "dev")
    assert found
    assert (found.deployment, found.digest, found.revisions) == ("d2", "sha256:2", {"cineos": "td:d2"})
    # Going back once more goes further back than what the first restored.
    good(table, "d5", "sha256:2", action="rollback", origin={"deployment": "d2", "started_at": found.started_at})
    further = table.last_good("cineos", "dev")
    assert further
    assert further.deployment == "d1"


def test_a_deployment_is_found_by_its_name_if_it_was_good(table: Table) -> None:
    good(table, "d1", "sha256:1")
    table.go("d2")
    table.end(table.one("d2"), FAILURE, "finish", {"digest": "sha256:2"})
    named = [table.named("cineos", "dev", name) for name in ("d1", "d2", "d3")]
    assert [found and found.deployment for found in named] == ["d1", None, None]


def test_a_request_that_was_refused_is_kept_by_its_rule(table: Table) -> None:
    execution = {"arn": "arn:x", "name": "x", "started_at": "2026-01-01T00:00:00Z"}
    table.reject(execution, Outcome("REJECTED", "RefNotAllowed", "no"))
    item = table.item("REJECTED", "DEPLOYMENT#2026-01-01T00:00:00Z#x")
    assert (item["verdict"]["S"], item["cause"]["S"]) == ("REJECTED", "no")


def test_a_claim_that_was_made_long_before_is_made_anew_however_often_the_lock_came_and_went(aws: Any) -> None:
    """The queue of an image is gone between two owners, and looks the same after that."""
    fake = FakeDynamoDb()
    table = Deployments(fake, TABLE, lambda _: None)  # type: ignore[arg-type]
    made = {n: deployment(n, locks={"build": [], "deploy": ["image/a"]}) for n in ("d1", "d2", "d3")}
    for each in made.values():
        table.accept(each)
    table.claim(made["d1"], "t1", ["image/a"])
    plain, once = fake.transact_write_items, [True]

    def meanwhile(TransactItems: list[Any]) -> None:  # noqa: N803
        """Before the third's claim is written, the first ends and the second comes to own the lock."""
        if once and "t3" in str(TransactItems):
            once.clear()
            first = table.find("d1")
            assert first
            table.end(first, Outcome("SUCCEEDED"), "finish", {})
            table.claim(made["d2"], "t2", ["image/a"])
        plain(TransactItems)

    fake.transact_write_items = meanwhile  # type: ignore[method-assign]
    assert table.claim(made["d3"], "t3", ["image/a"]) == []
    lock = _lock("image/a", fake.items["LOCK#image/a", "LOCK"])
    assert lock.owner
    assert (lock.owner.deployment_id, [each.deployment_id for each in lock.waiting]) == ("d2", ["d3"])


def test_the_locks_are_handed_over_by_whoever_wrote_the_verdict(aws: Any) -> None:
    """A clean-up that holds them for the way back keeps them, also where Finish comes after it."""
    table = Deployments(FakeDynamoDb(), TABLE)  # type: ignore[arg-type]
    made = {n: deployment(n) for n in ("d1", "d2")}
    for name, each in made.items():
        table.accept(each)
        table.claim(each, name, each["locks"]["deploy"])
    found = table.find("d1")
    assert found
    table.end(found, Outcome("CANCELLED"), "clean_up", {}, releases=False)

    stands, ours, answers = table.end(found, Outcome("SUCCEEDED"), "finish_deployment", {})

    assert (stands.verdict, ours, answers) == ("CANCELLED", False, [])
    ended = table.find("d1")
    assert ended
    assert not ended.released


# --- the small DynamoDB of tests/property -----------------------------------------------------------------------------


def test_the_small_dynamodb_says_what_motos_does(aws: Any) -> None:
    """Both are given the same writes, by the code that is to be tested, and hold the same then."""
    both = [Deployments(aws.client("dynamodb"), TABLE), Deployments(FakeDynamoDb(), TABLE)]  # type: ignore[arg-type]
    chance = random.Random(4)  # noqa: S311 - no secret
    for table in both:
        table._now = lambda: 1.0
    made = [
        deployment(
            f"d{n}", ("dev", "prod")[n % 2], queue=("all", "latest")[n > 3], locks={"build": [], "deploy": locks}
        )
        for n, locks in enumerate(
            [["app/a"], ["app/b"], ["app/a", "unit/u"], ["app/b", "unit/u"], ["app/a"], ["app/b"]]
        )
    ]
    for _ in range(60):
        number, kind = chance.randrange(6), chance.randrange(7)
        given = made[number]
        said = []
        for table in both:
            try:
                said.append(repr(_one_of(table, given, kind)))
            except DeployRunnerError as error:
                said.append(type(error).__name__)
        assert said[0] == said[1]
    items = aws.client("dynamodb").scan(TableName=TABLE)["Items"]
    kept = [{(i["pk"]["S"], i["sk"]["S"]): i for i in items}, both[1]._dynamodb.items]  # type: ignore[attr-defined]
    for item in [item for table in kept for item in table.values()]:
        item.pop("stamp", None)  # each writing has its own
    assert kept[0] == kept[1]


def _one_of(table: Deployments, given: dict[str, Any], kind: int) -> Any:
    found = table.find(given["id"])
    if kind == 0 or found is None:
        return table.accept(given)
    if kind == 1:
        return table.claim(given, "token", given["locks"]["deploy"])
    if kind == 2:
        return table.keep(given, changing_until=5.0)
    if kind == 3:
        return table.end(found, Outcome("SUCCEEDED"), "finish", {"digest": "d"})
    if kind == 4:
        return table.end(found, Outcome("FAILED", "E", "c"), "clean_up", {}, releases=False)
    if kind == 5 and found.answer:
        return table.answered(found.answer)
    return table.told(given, "now") if found.outcome else table.last_good(given["app"], given["environment"])

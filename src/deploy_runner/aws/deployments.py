"""The deployments table: history, what runs now, locks, and the working state of what is not finished.

| pk | sk | what |
|---|---|---|
| `APP#app#environment` | `DEPLOYMENT#started_at#id` | a deployment's record, for ever; no verdict: it is not over |
| `APP#app#environment` | `NOW` | the last deployment that succeeded there |
| `REJECTED` | `DEPLOYMENT#started_at#id` | a request that was refused |
| `LOCK#name` | `LOCK` | a lock with its queue |
| `OPEN` | id | from acceptance until the verdict is written, the locks are free and the end is reported |

What belongs together is written in one transaction, and the first verdict stands. What a token is to be answered is
written in the OPEN item, with the change that it tells of, and sent afterwards: whoever finds it there may send it.
"""

import json
import random
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from deploy_runner.aws.clients import aws_errors, code_of, translate
from deploy_runner.domain import lock as lock_steps
from deploy_runner.domain.errors import AwsUnavailable, LockLost, QueueFull
from deploy_runner.domain.lock import Change, Claim, Lock
from deploy_runner.domain.outcome import SUCCEEDED, Outcome

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

KEPT = ("id", "action", "app", "environment", "ref", "sha", "repository", "requested_by", "execution_arn", "started_at")
KEPT_IF_GIVEN = ("emergency", "from", "origin", "source")
MAX_WAITING = 100  # an item has at most 400 KB, and a claim with its token about two
TRIES = 40  # of a change that met others; they take milliseconds
_NEW = "attribute_not_exists(pk)"
_THERE = "attribute_exists(pk)"
_NOT_OVER = "attribute_exists(pk) AND attribute_not_exists(verdict)"

Item = dict[str, Any]
Deployment = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """What the token of a waiting deployment is to be answered: to go on, or an error with its cause."""

    deployment_id: str
    execution_arn: str
    token: str
    error: str = ""
    cause: str = ""


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A deployment with something left to do. Times are seconds since 1970."""

    id: str
    execution_arn: str
    started_at: str
    deployment: dict[str, Any]
    answer: Answer | None = None
    answer_since: float = 0.0
    revisions: tuple[dict[str, Any], ...] | None = None  # what it registered, once it has
    changing_until: float = 0.0  # a function may be changing its services until then
    github_deployment_id: int | None = None
    outcome: Outcome | None = None
    ended_at: float = 0.0
    released: bool = False
    reported: bool = False
    told: tuple[str, ...] = ()  # who was told of the end, while others were not


@dataclass(frozen=True, slots=True)
class Good:
    """A deployment that succeeded, as far as one can go back to it."""

    deployment: str
    started_at: str
    sha: str
    digest: str
    revisions: dict[str, str]  # service -> ARN of its task definition


class Deployments:
    """The table. Every method raises AwsUnavailable for what is worth another try, TargetMisconfigured for the rest."""

    def __init__(
        self,
        dynamodb: "DynamoDBClient",
        table: str,
        sleep: Callable[[float], None] = time.sleep,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._dynamodb, self._table, self._sleep, self._now = dynamodb, table, sleep, now

    # --- from a request to its working state ------------------------------------------------------------------------

    def accept(self, deployment: Deployment) -> None:
        """Write down a request that is accepted; a second time changes nothing. `find` says what stands."""
        record = {key: deployment.get(key) for key in KEPT} | {"image_tag": deployment["image"]["tag"]}
        record |= {key: deployment[key] for key in KEPT_IF_GIVEN if deployment.get(key)}
        unfinished = {key: deployment[key] for key in ("execution_arn", "started_at")} | {
            "deployment": dict(deployment)
        }
        self._write(
            [
                {"Put": {"Item": record_key(deployment) | _item(record), "ConditionExpression": _NEW}},
                {"Put": {"Item": _open_key(deployment["id"]) | _item(unfinished), "ConditionExpression": _NEW}},
            ]
        )

    def reject(self, execution: Mapping[str, str], outcome: Outcome) -> None:
        """Write down a request that was refused."""
        key = {"pk": {"S": "REJECTED"}, "sk": {"S": f"DEPLOYMENT#{execution['started_at']}#{execution['name']}"}}
        record = asdict(outcome) | {"id": execution["name"], "execution_arn": execution["arn"]}
        with self._errors():
            self._dynamodb.put_item(
                TableName=self._table, Item=key | _item(record | {"started_at": execution["started_at"]})
            )

    def unfinished(self) -> Iterator[Unfinished]:
        """Return every deployment with something left to do, by a strongly consistent read."""
        yield from (_unfinished(item) for item in self._query("pk = :pk", {":pk": {"S": "OPEN"}}))

    def find(self, deployment_id: str) -> Unfinished | None:
        """Return a deployment with something left to do, None where there is none."""
        item = self._get(_open_key(deployment_id))
        return _unfinished(item) if item else None

    def keep(self, deployment: Deployment, **values: object) -> None:
        """Keep values in the working state of a deployment that owns its locks and is not over.

        Raises LockLost otherwise; then nothing may be changed on its behalf.
        """
        checks = [
            _condition(_lock_key(name), "#owner = :me", {":me": {"S": deployment["id"]}}, {"#owner": "owner"})
            for name in deployment["locks"]["deploy"]
        ]
        own = _open_key(deployment["id"])
        if self._write([*checks, _update(own, values, _NOT_OVER) if values else _condition(own, _NOT_OVER)]):
            place = f"{deployment['app']} in {deployment['environment']}"
            rule = f"The deployment {deployment['id']} must own the lock of {place} to change it"
            raise LockLost(rule, remedy="It was stopped, or ran out of time; deploy again")

    def keep_github_deployment(self, deployment: Deployment, number: int) -> None:
        """Keep the number of the GitHub deployment, for whoever reports the end."""
        keys = (_open_key(deployment["id"]), record_key(deployment))
        self._write([_update(key, {"github_deployment_id": number}, _THERE) for key in keys])

    # --- locks, and the end -----------------------------------------------------------------------------------------

    def claim(
        self, deployment: Deployment, token: str, wanted: Iterable[str], given_up: Iterable[str] = ()
    ) -> list[Answer]:
        """Claim locks for a deployment, and give up others in the same step. Return the answers that are to be sent.

        Its own is among them if the locks were free. Raises QueueFull, and LockLost for a deployment that is over.
        """
        names, leave = tuple(wanted), tuple(given_up)
        new = Claim(
            deployment["id"],
            deployment["execution_arn"],
            deployment["started_at"],
            token,
            names,
            deployment["queue"] == "all",
        )

        def step(locks: Mapping[str, Lock]) -> Change:
            change = lock_steps.claim(locks, new, leave)
            for each in change.locks.values():
                if len(each.waiting) > MAX_WAITING:
                    rule = f"At most {MAX_WAITING} deployments may wait for {each.name}"
                    raise QueueFull(rule, remedy="Deploy again once some have ended")
            return change

        return self._change({*names, *leave}, step, claimant=new.deployment_id)

    def end(
        self, unfinished: Unfinished, outcome: Outcome, writer: str, facts: Mapping[str, Any], *, releases: bool = True
    ) -> tuple[Outcome, bool, list[Answer]]:
        """Write the verdict where there is none, and hand the locks over, in one transaction.

        Return the verdict that stands, whether `writer` wrote it, now or in an earlier try, and the answers that are to
        be sent. `facts` go into the record. Without `releases` the locks are kept, for a rollout that has to end first.
        """
        verdict: dict[str, Any] = asdict(outcome) | {"written_by": writer}
        writes = [
            _update(record_key(unfinished.deployment), verdict | dict(facts), "attribute_not_exists(verdict)"),
            _update(_open_key(unfinished.id), verdict | {"ended_at": self._now()} | _released(releases), _NOT_OVER),
        ]
        if _changes_what_runs(unfinished, outcome):
            writes.append({"Put": {"Item": _now_item(unfinished, facts)}})
        try:
            if releases:
                return outcome, True, self._release(unfinished, outcome, writes)
            if self._write(writes):
                raise _Refused
            return outcome, True, []
        except _Refused:
            stands, by = self._standing(unfinished)
            known = self.find(unfinished.id)
            # The locks are those of whoever wrote the verdict to hand over: it may be holding them for the way back.
            ours = by == writer
            return stands, ours, self.release(known) if releases and known and ours else []

    def release(self, unfinished: Unfinished) -> list[Answer]:
        """Hand over the locks of a deployment that is over. Return the answers that are to be sent."""
        stands = unfinished.outcome or self._standing(unfinished)[0]
        freed = _update(_open_key(unfinished.id), _released(True), _THERE)
        try:
            answers = self._release(unfinished, stands, [freed])
        except _Refused:  # another has done all of it
            return []
        self.close(unfinished.id)
        return answers

    def take_turn(self, deployment_id: str, seconds: float) -> float | None:
        """Take the turn at telling of a deployment, until `end_turn`, or for some seconds if that never comes.

        Return until when, which is for `end_turn`. None where another has it, or there is nothing to tell any more.
        """
        now = self._now()
        todo = "attribute_exists(pk) AND attribute_not_exists(reported)"
        condition = f"{todo} AND attribute_not_exists(telling_until) OR {todo} AND telling_until < :now"
        taken = _update(_open_key(deployment_id), {"telling_until": now + seconds}, condition)
        taken["Update"]["ExpressionAttributeValues"] |= _item({":now": now})
        return None if self._write([taken]) else now + seconds

    def end_turn(self, deployment_id: str, until: float) -> None:
        """Let another tell of a deployment, if the turn is still ours."""
        ended = _update(_open_key(deployment_id), {}, "telling_until = :until", remove=("telling_until",))
        ended["Update"]["ExpressionAttributeValues"] = _item({":until": until})
        self._write([ended])

    def told(self, deployment: Deployment, reported_at: str) -> None:
        """Keep that the end of a deployment was reported."""
        reported = _update(_open_key(deployment["id"]), {"reported": 1}, _THERE)
        self._write([reported, _update(record_key(deployment), {"reported_at": reported_at}, _THERE)])
        self.close(deployment["id"])

    def keep_told(self, deployment: Deployment, channels: Iterable[str]) -> None:
        """Keep who was told of the end, while others have still to be told."""
        self._write([_update(_open_key(deployment["id"]), {"told": list(channels)}, _THERE)])

    def answered(self, answer: Answer) -> None:
        """Forget an answer that was sent."""
        change = _update(_open_key(answer.deployment_id), {}, "answer = :answer", remove=("answer", "answer_since"))
        change["Update"]["ExpressionAttributeValues"] = {
            f":{k}": v for k, v in _item({"answer": asdict(answer)}).items()
        }
        self._write([change])

    def close(self, deployment_id: str) -> None:
        """Remove the working state of a deployment with nothing left to do."""
        done = "attribute_exists(released) AND attribute_exists(reported)"
        self._write([{"Delete": {"Key": _open_key(deployment_id), "ConditionExpression": done}}])

    def _standing(self, unfinished: Unfinished) -> tuple[Outcome, str]:
        values = _values(self._get(record_key(unfinished.deployment)) or {})
        return _outcome(values), values["written_by"]

    def _release(self, unfinished: Unfinished, outcome: Outcome, writes: list[Item]) -> list[Answer]:
        names = {name for names in unfinished.deployment["locks"].values() for name in names}
        succeeded = _changes_what_runs(unfinished, outcome)
        return self._change(names, lambda locks: lock_steps.release(locks, unfinished.id, succeeded=succeeded), writes)

    def _change(
        self,
        names: set[str],
        step: Callable[[Mapping[str, Lock]], Change],
        writes: Iterable[Item] = (),
        claimant: str = "",
    ) -> list[Answer]:
        """Write a step of the locks with `writes`, again and again while others change the same locks.

        Raises _Refused where a condition of `writes` does not hold. Who waits and is over already is passed over.
        """
        first, over = list(writes), set[str]()
        for attempt in range(TRIES):
            locks = self._locks(names, over)
            change = step(locks)
            answers = [*map(_go_on, change.granted), *(_superseded(each, by) for each, by in change.superseded)]
            told = [
                _update(
                    _open_key(answer.deployment_id),
                    {"answer": asdict(answer), "answer_since": self._now()},
                    _NOT_OVER,
                )
                for answer in answers
            ]
            if claimant and claimant not in {answer.deployment_id for answer in answers}:
                told.append(_condition(_open_key(claimant), _NOT_OVER))
            changed = [_lock_write(each) for each in change.locks.values()]
            failed = self._write([*first, *changed, *told])
            if not failed:
                return answers
            if min(failed) < len(first):
                raise _Refused
            dead = [index - len(first) - len(changed) for index in failed]
            over |= {answers[index].deployment_id for index in dead if 0 <= index < len(answers)}
            if claimant and (claimant in over or len(answers) in dead):
                rule = f"The deployment {claimant} must not be over to wait for a lock"
                raise LockLost(rule, remedy="It was stopped, or ran out of time; deploy again")
            self._sleep(random.uniform(0, min(0.02 * 2**attempt, 1.0)))  # noqa: S311 - no secret
        rule = f"The locks {', '.join(sorted(names))} must be free to change within {TRIES} tries"
        raise AwsUnavailable(rule, remedy="It is tried again")

    def _locks(self, names: set[str], over: set[str]) -> dict[str, Lock]:
        """Return the locks, and those that decide who comes next, without the claims of deployments that are over."""
        locks: dict[str, Lock] = {}
        todo = set(names)
        while todo:
            for name in todo:
                read = _lock(name, self._get(_lock_key(name)))
                kept = tuple(each for each in read.waiting if each.deployment_id not in over)
                locks[name] = replace(read, waiting=kept)
            todo = lock_steps.missing(locks)
        return locks

    # --- history ----------------------------------------------------------------------------------------------------

    def last_good(self, app: str, environment: str) -> Good | None:
        """Return the newest deployment that succeeded before that which runs now, with another digest.

        After a rollback, what runs now counts as old as what it restored: going back again goes further back.
        """
        place = {"pk": {"S": f"APP#{app}#{environment}"}}
        now = _values(self._get(place | {"sk": {"S": "NOW"}}) or {})
        if not now:
            return None
        until = f"DEPLOYMENT#{now['origin']['started_at']}"
        values = {":pk": place["pk"], ":from": {"S": "DEPLOYMENT#"}, ":until": {"S": until}}
        for item in self._query("pk = :pk AND sk BETWEEN :from AND :until", values, newest_first=True):
            found = _values(item)
            if found.get("digest") != now.get("digest") and "origin" not in found and (good := _good(found)):
                return good
        return None

    def named(self, app: str, environment: str, deployment_id: str) -> Good | None:
        """Return a deployment of an app in an environment that succeeded, None where there is none."""
        values = {":pk": {"S": f"APP#{app}#{environment}"}, ":from": {"S": "DEPLOYMENT#"}}
        for item in self._query("pk = :pk AND begins_with(sk, :from)", values, newest_first=True):
            found = _values(item)
            if found.get("id") == deployment_id:
                return _good(found)
        return None

    # --- the table --------------------------------------------------------------------------------------------------

    def _get(self, key: Item) -> Item | None:
        with self._errors():
            return self._dynamodb.get_item(TableName=self._table, Key=key, ConsistentRead=True).get("Item")

    def _query(self, condition: str, values: Item, *, newest_first: bool = False) -> Iterator[Item]:
        with self._errors():
            pages = self._dynamodb.get_paginator("query").paginate(
                TableName=self._table,
                KeyConditionExpression=condition,
                ExpressionAttributeValues=values,
                ConsistentRead=True,
                ScanIndexForward=not newest_first,
            )
            for page in pages:
                yield from page["Items"]

    def _write(self, writes: list[Item]) -> set[int]:
        """Write all or nothing. Return the places of the writes whose condition does not hold: none if it was written.

        A transaction that meets another is tried again:
        docs.aws.amazon.com/amazondynamodb/latest/developerguide/transaction-apis.html, "Transaction conflict handling".
        """
        named: list[Any] = [
            {kind: {"TableName": self._table, **write}} for each in writes for kind, write in each.items()
        ]
        for attempt in range(TRIES):
            try:
                self._dynamodb.transact_write_items(TransactItems=named)
                return set()
            except Exception as error:
                if code_of(error) != "TransactionCanceledException":
                    raise (translate(error, self._rule, _REMEDY) or error) from error
                codes = [str(reason.get("Code")) for reason in getattr(error, "response", {})["CancellationReasons"]]
                failed = {place for place, code in enumerate(codes) if code == "ConditionalCheckFailed"}
                if failed:
                    return failed
                known = {"None", "TransactionConflict", "ThrottlingError", "ProvisionedThroughputExceeded"}
                if not set(codes) <= known:
                    raise (translate(error, self._rule, _REMEDY) or error) from error
                self._sleep(random.uniform(0, min(0.02 * 2**attempt, 1.0)))  # noqa: S311 - no secret
        raise AwsUnavailable(self._rule, remedy="It is tried again")

    @property
    def _rule(self) -> str:
        return f"The table {self._table} must be usable"

    def _errors(self) -> Any:
        return aws_errors(self._rule, _REMEDY)


_REMEDY = "Deploy the stack again: its functions need their policies"


class _Refused(Exception):
    """A condition of the transaction's first writes does not hold."""


def record_key(deployment: Deployment) -> Item:
    """Return the key of a deployment's record."""
    return {
        "pk": {"S": f"APP#{deployment['app']}#{deployment['environment']}"},
        "sk": {"S": f"DEPLOYMENT#{deployment['started_at']}#{deployment['id']}"},
    }


def _open_key(deployment_id: str) -> Item:
    return {"pk": {"S": "OPEN"}, "sk": {"S": deployment_id}}


def _lock_key(name: str) -> Item:
    return {"pk": {"S": f"LOCK#{name}"}, "sk": {"S": "LOCK"}}


def _released(yes: bool) -> dict[str, int]:
    return {"released": 1} if yes else {}


def _changes_what_runs(unfinished: Unfinished, outcome: Outcome) -> bool:
    return outcome.verdict == SUCCEEDED and unfinished.deployment["action"] != "build"


def _now_item(unfinished: Unfinished, facts: Mapping[str, Any]) -> Item:
    deployment = unfinished.deployment
    now = {key: deployment[key] for key in ("id", "action", "sha", "started_at")}
    now |= {key: facts[key] for key in ("digest", "revisions", "ended_at") if key in facts}
    now["origin"] = deployment.get("origin") or {"deployment": deployment["id"], "started_at": deployment["started_at"]}
    return {**record_key(deployment), "sk": {"S": "NOW"}, **_item(now)}


def _go_on(granted: Claim) -> Answer:
    return Answer(granted.deployment_id, granted.execution_arn, granted.token)


def _superseded(claim: Claim, by: str) -> Answer:
    cause = f"A newer deployment came before it: {by}"
    return Answer(claim.deployment_id, claim.execution_arn, claim.token, "Superseded", cause)


def _good(values: Mapping[str, Any]) -> Good | None:
    if values.get("verdict") != SUCCEEDED or values.get("action") == "build" or not values.get("digest"):
        return None
    revisions = {r["service"]: r["task_definition"] for r in values.get("revisions", []) if r.get("service")}
    return Good(values["id"], values["started_at"], values["sha"], values["digest"], revisions)


def _lock(name: str, item: Item | None) -> Lock:
    if item is None:
        return Lock(name)
    values = _values(item)
    state = values["state"]
    claims = [Claim(**{**each, "locks": tuple(each["locks"])}) for each in state["waiting"]]
    owner = state["owner"] and Claim(**{**state["owner"], "locks": tuple(state["owner"]["locks"])})
    return Lock(name, owner, tuple(claims), tuple(state["newest"]), values["stamp"])


def _lock_write(lock: Lock) -> Item:
    """Return the write of a lock under the condition that nobody changed it since. What is empty is not kept.

    Each writing has a stamp of its own: a number would count anew once an empty lock is gone, and what was read long
    before could be taken for what is there now.
    """
    unchanged: Item = {"ConditionExpression": "attribute_not_exists(pk)"}
    if lock.stamp:
        unchanged = {
            "ConditionExpression": "stamp = :before",
            "ExpressionAttributeValues": {":before": {"S": lock.stamp}},
        }
    if lock.is_empty and lock.stamp:
        return {"Delete": {"Key": _lock_key(lock.name), **unchanged}}
    state = {"owner": lock.owner and asdict(lock.owner), "waiting": [asdict(each) for each in lock.waiting]}
    values = {"state": state | {"newest": lock.newest}, "stamp": uuid.uuid4().hex}
    if lock.owner:
        values["owner"] = lock.owner.deployment_id  # for the condition in `keep`
    return {"Put": {"Item": _lock_key(lock.name) | _item(values), **unchanged}}


def _outcome(values: Mapping[str, Any]) -> Outcome:
    return Outcome(*(values[key] for key in ("verdict", "error", "cause", "state")))


def _unfinished(item: Item) -> Unfinished:
    values = _values(item)
    known = {key: value for key, value in values.items() if key in Unfinished.__dataclass_fields__}
    if "answer" in known:
        known["answer"] = Answer(**known["answer"])
    for key in ("revisions", "told"):
        if key in known:
            known[key] = tuple(known[key])
    if "verdict" in values:
        known["outcome"] = _outcome(values)
    return Unfinished(id=item["sk"]["S"], **known)


def _update(key: Item, values: Mapping[str, Any], condition: str, remove: Iterable[str] = ()) -> Item:
    """Return an Update that sets what is given and not None. Names stand for themselves, whatever DynamoDB reserves."""
    item = _item(values)
    parts = ["SET " + ", ".join(f"#{name} = :{name}" for name in item)] if item else []
    parts += ["REMOVE " + ", ".join(remove)] if remove else []
    update: Item = {"Key": key, "UpdateExpression": " ".join(parts), "ConditionExpression": condition}
    if item:
        update["ExpressionAttributeNames"] = {f"#{name}": name for name in item}
        update["ExpressionAttributeValues"] = {f":{name}": value for name, value in item.items()}
    return {"Update": update}


def _condition(key: Item, condition: str, values: Item | None = None, names: Mapping[str, str] | None = None) -> Item:
    check: Item = {"Key": key, "ConditionExpression": condition}
    check |= {"ExpressionAttributeValues": values} if values else {}
    return {"ConditionCheck": check | ({"ExpressionAttributeNames": dict(names)} if names else {})}


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def _item(values: Mapping[str, Any]) -> Item:
    """Return values as attributes: text and numbers as they are, all else as JSON text, told apart by a list."""
    item: Item = {}
    for key, value in values.items():
        if isinstance(value, bool):
            item[key] = {"BOOL": value}
        elif isinstance(value, int | float):
            item[key] = {"N": repr(value)}
        elif isinstance(value, str):
            item[key] = {"S": value}
        elif value is not None:
            item[key] = {"L": [{"S": _json(value)}]}
    return item


def _values(item: Mapping[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, attribute in item.items():
        ((kind, value),) = attribute.items()
        if kind == "N":
            values[key] = float(value) if "." in value or "e" in value else int(value)
        else:
            values[key] = json.loads(value[0]["S"]) if kind == "L" else value
    return values

"""Executions that wait for their rollouts: their task tokens in DynamoDB, and answering them.

A token is stored, then the rollout is read, then perhaps answered, so that no event can slip between. Events and
handlers may come twice and at once: Step Functions takes only the first answer.
"""

import contextlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from deploy_runner.aws.clients import TargetClients, aws_errors, code_of
from deploy_runner.aws.deployments import record_key
from deploy_runner.aws.ecs import last_words, observe, stopped_tasks
from deploy_runner.aws.tokens import send_failure, send_success
from deploy_runner.domain.errors import DeployRunnerError
from deploy_runner.domain.failure_report import failure_report
from deploy_runner.domain.rollback import Over, next_step
from deploy_runner.domain.rollback import combine as combine_steps
from deploy_runner.domain.rollout import (
    Failed,
    Observed,
    Pending,
    Rollout,
    StoppedTask,
    Succeeded,
    Verdict,
    combine,
    hopeless,
    is_visible,
    reason,
    verdict,
)

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_stepfunctions import SFNClient

# What is read right after an update or an event may be old by seconds.
READ_AGAIN_AFTER = (0.2, 0.5, 1.0, 2.0, 3.0, 4.0)
KEPT_AFTER_TIMEOUT = 24 * 3600


@dataclass(frozen=True, slots=True)
class Wait:
    """One execution that waits: its token, and what it waits for. `target` has role_arn and region."""

    task_token: str
    execution_arn: str
    deployment_id: str
    target: Mapping[str, str]
    rollouts: tuple[Rollout, ...]
    timeout_seconds: int = 0
    record: Mapping[str, str] = field(default_factory=dict)  # what the key of the deployment's record is made of
    rollback: bool = False  # what is waited for is the way back

    def to_json(self) -> str:
        """Return all of it as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def of_state(cls, event: Mapping[str, Any]) -> "Wait":
        """Read what a waiting state sends: task_token, execution, deployment, rollouts; rollback on the way back."""
        deployment, target = event["deployment"], event["deployment"]["target"]
        return cls(
            event["task_token"],
            event["execution"]["arn"],
            deployment["id"],
            {"role_arn": target["role_arn"], "region": target["region"]},
            tuple(Rollout(**rollout) for rollout in event["rollouts"]),
            deployment["timeouts"]["rollout"],
            {key: deployment[key] for key in ("app", "environment", "started_at", "id")},
            bool(event.get("rollback")),
        )

    @classmethod
    def from_json(cls, text: str) -> "Wait":
        """Read what to_json wrote."""
        given = json.loads(text)
        return cls(**given | {"rollouts": tuple(Rollout(**rollout) for rollout in given["rollouts"])})


class Waits:
    """The waiting tokens in the deployments table: one item per service, so that an event of a service finds them."""

    def __init__(self, dynamodb: "DynamoDBClient", table: str) -> None:
        self._dynamodb, self._table = dynamodb, table

    def store(self, wait: Wait) -> None:
        """Keep a token under each of its services. A state that is tried again has a new token, in the same place."""
        # Time to live deletes days late: it tidies up, and proves nothing.
        expires = int(time.time()) + wait.timeout_seconds + KEPT_AFTER_TIMEOUT
        for rollout in wait.rollouts:
            item = {
                **_key(rollout.service_arn, wait.execution_arn),
                "task_token": {"S": wait.task_token},
                "wait": {"S": wait.to_json()},
                "expires_at": {"N": str(expires)},
            }
            with _table_errors(self._table):
                self._dynamodb.put_item(TableName=self._table, Item=item)

    def of_service(self, service_arn: str) -> list[Wait]:
        """Return every token that waits for a service, by a strongly consistent read."""
        with _table_errors(self._table):
            pages = self._dynamodb.get_paginator("query").paginate(
                TableName=self._table,
                KeyConditionExpression="pk = :pk AND begins_with(sk, :token)",
                ExpressionAttributeValues={":pk": {"S": f"ROLLOUT#{service_arn}"}, ":token": {"S": "TOKEN#"}},
                ConsistentRead=True,
            )
            return [Wait.from_json(item["wait"]["S"]) for page in pages for item in page["Items"]]

    def keep_report(self, wait: Wait, report: str) -> None:
        """Keep a longer report with the history. Nothing depends on it, so whatever fails here is left at that."""
        with contextlib.suppress(Exception):
            self._dynamodb.update_item(
                TableName=self._table,
                Key=record_key(wait.record),
                UpdateExpression="SET report = :report",
                ConditionExpression="attribute_exists(pk)",
                ExpressionAttributeValues={":report": {"S": report}},
            )

    def forget(self, wait: Wait) -> None:
        """Delete a token, but not a newer one in its place."""
        for rollout in wait.rollouts:
            try:
                with _table_errors(self._table):
                    self._dynamodb.delete_item(
                        TableName=self._table,
                        Key=_key(rollout.service_arn, wait.execution_arn),
                        ConditionExpression="attribute_not_exists(pk) OR task_token = :token",
                        ExpressionAttributeValues={":token": {"S": wait.task_token}},
                    )
            except DeployRunnerError as error:
                if code_of(error.__cause__ or error) != "ConditionalCheckFailedException":  # type: ignore[arg-type]
                    raise


def _key(service_arn: str, execution_arn: str) -> dict[str, Any]:
    return {"pk": {"S": f"ROLLOUT#{service_arn}"}, "sk": {"S": f"TOKEN#{execution_arn}"}}


def _table_errors(table: str) -> Any:
    return aws_errors(f"The table {table} must be usable", "Deploy the stack again: its functions need their policies")


def settle(
    wait: Wait,
    clients: TargetClients,
    states: "SFNClient",
    waits: Waits,
    ended: str | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> Verdict | Over:
    """Read the rollouts of a stored wait; if that is an end, answer its token and forget it. Return what was found.

    `ended` is the ARN of a service of which an event said that it ended. While ECS says otherwise, does not know our
    revision yet, or has no task to start, what was read may be old and is read again for some seconds.
    """
    for pause in (*READ_AGAIN_AFTER, None):
        seen = [(rollout, observe(clients.ecs, rollout)) for rollout in wait.rollouts]
        if wait.rollback:
            over = combine_steps([next_step(*pair) for pair in seen])
            if over:
                send_success(states, wait.task_token, asdict(over))
                waits.forget(wait)
                return over
            verdicts: list[Verdict] = [Pending() for _ in seen]
        else:
            verdicts = [_judge(clients, *pair) for pair in seen]
        found = combine(verdicts)
        if not isinstance(found, Pending) or pause is None or not _may_be_old(seen, verdicts, ended):
            break
        sleep(pause)
    if isinstance(found, Succeeded):
        output = {"verdict": "SUCCEEDED"} | ({"note": found.note} if found.note else {})
        send_success(states, wait.task_token, output)
        waits.forget(wait)
    elif isinstance(found, Failed):
        cause, report = _why(clients, seen, verdicts)
        send_failure(states, wait.task_token, found.error.__name__, cause)
        waits.forget(wait)
        waits.keep_report(wait, report)  # after the answer, which it must not hold up
    return found


def _judge(clients: TargetClients, rollout: Rollout, seen: Observed) -> Verdict:
    """Return the verdict for one rollout, also where ECS has none yet and there is no hope."""
    found = verdict(rollout, seen)
    if isinstance(found, Pending) and is_visible(rollout, seen):
        return hopeless(rollout, seen, _stopped(clients, rollout)) or found
    return found


def _may_be_old(seen: Sequence[tuple[Rollout, Observed]], verdicts: Sequence[Verdict], ended: str | None) -> bool:
    # With no task to start, a rollout ends before its token is stored: its last event found no one who waits.
    return any(
        isinstance(found, Pending)
        and (rollout.service_arn == ended or not is_visible(rollout, observed) or observed.desired == 0)
        for (rollout, observed), found in zip(seen, verdicts, strict=True)
    )


def _stopped(clients: TargetClients, rollout: Rollout) -> list[StoppedTask]:
    try:
        return stopped_tasks(clients.ecs, rollout)
    except DeployRunnerError:  # a verdict stands without its reason
        return []


def _why(
    clients: TargetClients, seen: Sequence[tuple[Rollout, Observed]], verdicts: Sequence[Verdict]
) -> tuple[str, str]:
    """Return the line on the first rollout that failed, and the reports on all that did."""
    first, reports = "", list[str]()
    for (rollout, observed), found in zip(seen, verdicts, strict=True):
        if isinstance(found, Failed):
            stopped = _stopped(clients, rollout)
            lines = last_words(clients.ecs, clients.logs, rollout, stopped)
            first = first or reason(rollout, observed, found, stopped, lines[-1] if lines else "")
            reports.append(failure_report(rollout, observed, found, stopped, lines))
    return first, "\n".join(reports)

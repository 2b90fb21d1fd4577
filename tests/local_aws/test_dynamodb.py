"""Transactions of local DynamoDB are all or nothing to everybody who writes and reads at once, and can be repeated."""

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from botocore.exceptions import ClientError
from moto.dynamodb.exceptions import DynamodbException

from deploy_runner.local_aws.dynamodb import VALID_SECONDS, Answers
from deploy_runner.local_aws.faults import parse
from deploy_runner.local_aws.iam.requests import Call, needs
from deploy_runner.local_aws.machine import Machine

from .light import client, start

pytestmark = pytest.mark.xdist_group("local_aws_in_process")

THREADS = 16
OLD = {"ReturnValuesOnConditionCheckFailure": "ALL_OLD"}


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    between_threads = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # so often that without the lock of conditional_writes.py some of them get between
    machine = start(4820, tmp_path_factory.mktemp("dynamodb"), "conditional_writes", "dynamodb")
    try:
        yield machine
    finally:
        machine.stop()
        sys.setswitchinterval(between_threads)


@pytest.fixture(scope="module")
def dynamodb(machine: Machine) -> Any:
    made = client(machine, "dynamodb")
    made.create_table(
        TableName="t", BillingMode="PAY_PER_REQUEST",
        KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}],
        AttributeDefinitions=[{"AttributeName": n, "AttributeType": "S"} for n in ("pk", "sk")],
    )  # fmt: skip
    return made


def key(pk: str, sk: str = "-") -> dict[str, Any]:
    return {"pk": {"S": pk}, "sk": {"S": sk}}


def put(pk: str, n: int, **more: Any) -> dict[str, Any]:
    return {"Put": {"TableName": "t", "Item": key(pk) | {"n": {"N": str(n)}}, **more}}


def number(dynamodb: Any, pk: str) -> int:
    item = dynamodb.get_item(TableName="t", Key=key(pk), ConsistentRead=True).get("Item")
    return int(item["n"]["N"]) if item else 0


def refused(write: Callable[[], Any]) -> Any:
    with pytest.raises(ClientError) as error:
        write()
    return error.value.response


def side_by_side(work: Callable[[int], Any]) -> list[Any]:
    ready = threading.Barrier(THREADS)

    def one(number: int) -> Any:
        ready.wait()
        return work(number)

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(one, range(THREADS)))


def test_sixteen_that_count_under_a_condition_lose_no_count(dynamodb: Any) -> None:
    """GIVEN a count, raised in a transaction if it is what was read WHEN 16 raise it THEN it is 16, as is the log."""

    def raise_it(_: int) -> int:
        tries = 0
        while True:
            tries += 1
            seen = number(dynamodb, "count")
            condition: dict[str, Any] = {"ConditionExpression": "attribute_not_exists(pk)"}
            if seen:
                values = {":seen": {"N": str(seen)}}
                condition = {"ConditionExpression": "n = :seen", "ExpressionAttributeValues": values}
            line = {"TableName": "t", "Item": key("log", f"{seen + 1:02}"),
                    "ConditionExpression": "attribute_not_exists(pk)"}  # fmt: skip
            try:
                dynamodb.transact_write_items(TransactItems=[{"Put": line}, put("count", seen + 1, **condition)])
                return tries
            except dynamodb.exceptions.TransactionCanceledException:
                pass

    side_by_side(raise_it)

    assert number(dynamodb, "count") == THREADS
    found = dynamodb.query(
        TableName="t", ConsistentRead=True, KeyConditionExpression="pk = :log",
        ExpressionAttributeValues={":log": {"S": "log"}},
    )["Items"]  # fmt: skip
    assert [item["sk"]["S"] for item in found] == [f"{n:02}" for n in range(1, THREADS + 1)]


def test_nobody_sees_a_transaction_in_part(dynamodb: Any) -> None:
    """GIVEN two items that transactions move between WHEN others read both THEN the sum never changes."""
    dynamodb.transact_write_items(TransactItems=[put("left", 100), put("right", 0)])

    def work(me: int) -> list[int]:
        sums = []
        for _ in range(4):
            if me % 2:
                moves = [
                    {"Update": {"TableName": "t", "Key": key(pk), "UpdateExpression": "ADD n :by",
                                "ExpressionAttributeValues": {":by": {"N": str(by)}}}}
                    for pk, by in (("left", -1), ("right", 1))
                ]  # fmt: skip
                dynamodb.transact_write_items(TransactItems=moves)
            else:
                gets = [{"Get": {"TableName": "t", "Key": key(pk)}} for pk in ("left", "right")]
                both = dynamodb.transact_get_items(TransactItems=gets)["Responses"]
                sums.append(sum(int(each["Item"]["n"]["N"]) for each in both))
        return sums

    assert {each for sums in side_by_side(work) for each in sums} == {100}
    assert number(dynamodb, "right") == THREADS // 2 * 4


def test_a_transaction_that_is_cancelled_says_why_for_each_action_and_changes_nothing(dynamodb: Any) -> None:
    dynamodb.transact_write_items(TransactItems=[put("there", 7)])
    new, gone = {"ConditionExpression": "attribute_not_exists(pk)"}, {"ConditionExpression": "attribute_exists(pk)"}

    answer = refused(
        lambda: dynamodb.transact_write_items(
            TransactItems=[
                put("fresh", 1, **new),
                {"ConditionCheck": {"TableName": "t", "Key": key("there"), **new, **OLD}},
                {"Delete": {"TableName": "t", "Key": key("nowhere"), **gone, **OLD}},
                {"Update": {"TableName": "t", "Key": key("fresh-too"), "UpdateExpression": "SET n = :n",
                            "ExpressionAttributeValues": {":n": {"N": "1"}}}},
            ]
        )
    )  # fmt: skip

    failed = {"Code": "ConditionalCheckFailed", "Message": "The conditional request failed"}
    assert answer["Error"]["Code"] == "TransactionCanceledException"
    assert answer["CancellationReasons"] == [
        {"Code": "None"}, failed | {"Item": key("there") | {"n": {"N": "7"}}}, failed, {"Code": "None"},
    ]  # fmt: skip
    assert answer["Error"]["Message"].endswith("[None, ConditionalCheckFailed, ConditionalCheckFailed, None]")
    assert (number(dynamodb, "fresh"), number(dynamodb, "fresh-too"), number(dynamodb, "there")) == (0, 0, 7)


@pytest.mark.parametrize(
    ("actions", "code", "says"),
    [
        ([put("one", 1), {"ConditionCheck": {"TableName": "t", "Key": key("one"),
          "ConditionExpression": "attribute_exists(pk)"}}], "ValidationException", "multiple operations on one item"),
        ([put(f"many-{n}", n) for n in range(101)], "ValidationException", "less than or equal to 100"),
        ([put("one", 1), {"Delete": {"TableName": "none", "Key": key("x")}}], "ResourceNotFoundException", "not found"),
    ],
)  # fmt: skip
def test_a_transaction_that_is_none_is_refused_whole(dynamodb: Any, actions: list[Any], code: str, says: str) -> None:
    error = refused(lambda: dynamodb.transact_write_items(TransactItems=actions))["Error"]
    assert error["Code"] == code
    assert says in error["Message"]
    assert number(dynamodb, "one") == 0


def test_a_hundred_actions_are_one_transaction(dynamodb: Any) -> None:
    dynamodb.transact_write_items(TransactItems=[put(f"hundred-{n}", n) for n in range(100)])
    assert number(dynamodb, "hundred-99") == 99


def test_the_same_request_twice_has_one_effect(dynamodb: Any) -> None:
    """GIVEN a transaction whose condition its own effect breaks WHEN it is sent again by its token THEN it succeeds."""
    asked = {"TransactItems": [put("once", 1, ConditionExpression="attribute_not_exists(pk)")]}
    for _ in range(2):
        dynamodb.transact_write_items(**asked, ClientRequestToken="the-same")

    answer = refused(lambda: dynamodb.transact_write_items(**asked, ClientRequestToken="another"))
    assert answer["Error"]["Code"] == "TransactionCanceledException"
    answer = refused(
        lambda: dynamodb.transact_write_items(TransactItems=[put("once", 2)], ClientRequestToken="the-same")
    )
    assert answer["Error"]["Code"] == "IdempotentParameterMismatchException"
    assert number(dynamodb, "once") == 1


def test_a_transaction_whose_answer_is_lost_or_that_is_throttled_is_tried_again_with_one_effect(
    machine: Machine, dynamodb: Any
) -> None:
    """GIVEN faults on the way WHEN a client of AWS tries again by itself THEN the transaction took place once."""
    for effect in ("throttle", "lose_answer"):
        machine.faults.add(
            parse(
                {"kind": "api", "service": "dynamodb", "operation": "TransactWriteItems", "effect": effect, "times": 1}
            )
        )
        asked = [put(effect, 1, ConditionExpression="attribute_not_exists(pk)")]
        tried = dynamodb.transact_write_items(TransactItems=asked)["ResponseMetadata"]["RetryAttempts"]
        assert (tried, number(dynamodb, effect)) == (1, 1)
    machine.faults.clear()


def test_a_token_counts_for_ten_minutes_and_only_once_it_succeeded() -> None:
    now, done = [0.0], list[str]()
    answers, token = Answers(lambda: now[0]), ("123456789012", "us-east-1", "token")

    def fail() -> None:
        raise DynamodbException("TransactionCanceledException", "not now")

    with pytest.raises(DynamodbException, match="not now"):
        answers.once(token, "a", fail)
    for time, parameters in ((0.0, "a"), (VALID_SECONDS - 1, "a"), (VALID_SECONDS, "b")):
        now[0] = time
        answers.once(token, parameters, lambda said=parameters: done.append(said))  # type: ignore[misc]
    assert done == ["a", "b"]


def test_a_transaction_needs_the_actions_of_its_parts_and_none_of_its_own() -> None:
    parts = [{kind: {"TableName": "t", "Key": key("a")}} for kind in ("Update", "Delete", "ConditionCheck")]
    asked = needs(
        Call("dynamodb", "TransactWriteItems", {"TransactItems": [put("a", 1), *parts]}, "123456789012", "us-east-1")
    )
    assert asked
    table = "arn:aws:dynamodb:us-east-1:123456789012:table/t"
    assert [(one.action, one.resource) for one in asked] == [
        (f"dynamodb:{name}", table) for name in ("PutItem", "UpdateItem", "DeleteItem", "ConditionCheckItem")
    ]
    assert {one.context["dynamodb:EnclosingOperation"] for one in asked} == {"TransactWriteItems"}


def test_moto_alone_has_what_dynamodb_py_mends() -> None:
    """When this fails, moto has mended a part of it, and dynamodb.py may get smaller."""
    program = """if True:
        import boto3, json
        from botocore.exceptions import ClientError
        from moto import mock_aws
        put = lambda name: {"Put": {"TableName": name, "Item": {"pk": {"S": "a"}},
                                    "ConditionExpression": "attribute_not_exists(pk)"}}
        delete = {"Delete": {"TableName": "none", "Key": {"pk": {"S": "a"}}}}
        with mock_aws():
            aws = boto3.client("dynamodb", "us-east-1", aws_access_key_id="x", aws_secret_access_key="x")
            aws.create_table(TableName="t", BillingMode="PAY_PER_REQUEST",
                             KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}],
                             AttributeDefinitions=[{"AttributeName": "pk", "AttributeType": "S"}])
            said = []
            for items, token in (([put("t")], "token"), ([put("t")], "token"), ([delete], "other")):
                try:
                    aws.transact_write_items(TransactItems=items, ClientRequestToken=token)
                    said.append("done")
                except ClientError as error:
                    said.append(error.response["Error"]["Code"])
            print(json.dumps(said))"""
    plain = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert json.loads(plain.stdout) == ["done", "TransactionCanceledException", "TransactionCanceledException"]

"""Of several that write under the same condition at once, one does: that is what locks are made of."""

import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from botocore.exceptions import ClientError

from deploy_runner.local_aws.machine import Machine

from .light import client, start

pytestmark = pytest.mark.xdist_group("local_aws_in_process")

WRITERS, TIMES = 6, 15


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    between_threads = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # so often that without a lock some of them get between
    machine = start(4795, tmp_path_factory.mktemp("writes"), "conditional_writes")
    try:
        yield machine
    finally:
        machine.stop()
        sys.setswitchinterval(between_threads)


def at_once(write: Callable[[], Any]) -> int:
    """Return how many writers were let through."""
    ready = threading.Barrier(WRITERS)

    def one(_: int) -> bool:
        ready.wait()
        try:
            write()
        except ClientError as error:
            return error.response["Error"]["Code"] not in ("PreconditionFailed", "ConditionalCheckFailedException")
        return True

    with ThreadPoolExecutor(WRITERS) as pool:
        return sum(pool.map(one, range(WRITERS)))


def test_one_object_is_put_where_there_is_none(machine: Machine) -> None:
    s3 = client(machine, "s3")
    s3.create_bucket(Bucket="locks")

    let_through = Counter(
        at_once(lambda key=f"lock-{n}": s3.put_object(Bucket="locks", Key=key, Body=b"mine", IfNoneMatch="*"))
        for n in range(TIMES)
    )

    assert let_through == {1: TIMES}


def test_one_item_is_put_where_there_is_none_and_no_count_is_lost(machine: Machine) -> None:
    dynamodb = client(machine, "dynamodb")
    dynamodb.create_table(
        TableName="locks", BillingMode="PAY_PER_REQUEST", KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
    )  # fmt: skip

    let_through = Counter(
        at_once(
            lambda id=f"lock-{n}": dynamodb.put_item(
                TableName="locks", Item={"id": {"S": id}}, ConditionExpression="attribute_not_exists(id)"
            )
        )
        for n in range(TIMES)
    )
    for _ in range(TIMES):
        at_once(
            lambda: dynamodb.update_item(
                TableName="locks", Key={"id": {"S": "count"}}, UpdateExpression="ADD n :one",
                ExpressionAttributeValues={":one": {"N": "1"}},
            )
        )  # fmt: skip

    assert let_through == {1: TIMES}
    count = dynamodb.get_item(TableName="locks", Key={"id": {"S": "count"}})["Item"]["n"]["N"]
    assert int(count) == WRITERS * TIMES

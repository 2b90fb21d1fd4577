"""DynamoDB's transactions as AWS has them, where moto 5.2.5 falls short; conditional_writes.py makes them atomic.

docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_TransactWriteItems.html: a request that comes again with its
ClientRequestToken succeeds and changes nothing, for ten minutes. Every SDK sends such a token, so that a request whose
answer was lost can be tried again; moto ignores it, and the second try then fails by the first one's changes. A missing
table is an error of the request, which moto reports as a reason to cancel. No issue upstream covers either.
"""

import time
from collections.abc import Callable
from typing import Any

from moto.dynamodb.exceptions import DynamodbException
from moto.dynamodb.responses import DynamoHandler

from deploy_runner.local_aws.machine import Machine

VALID_SECONDS = 600.0
MISMATCH = (
    "DynamoDB rejected the request because you retried a request with a different payload but with an idempotent "
    "token that was already used."
)


class Answers:
    """What transactions that succeeded were answered, by their tokens. Used by one request at a time."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now, self._kept = now, dict[tuple[str, str, str], tuple[float, Any, Any]]()

    def once(self, key: tuple[str, str, str], parameters: Any, do: Callable[[], Any]) -> Any:
        """Return what `do` answers, or answered before to the same parameters. What it raises is not kept.

        `key` is account, region and token. Raises DynamodbException where the token came with other parameters.
        """
        now = self._now()
        self._kept = {each: kept for each, kept in self._kept.items() if now - kept[0] < VALID_SECONDS}
        if key not in self._kept:
            answer = do()
            self._kept[key] = self._now(), parameters, answer
        if self._kept[key][1] != parameters:
            raise DynamodbException("com.amazonaws.dynamodb.v20120810#IdempotentParameterMismatchException", MISMATCH)
        return self._kept[key][2]


def install(machine: Machine) -> None:
    """Let a transaction's token count."""
    plain, answers = getattr(DynamoHandler.transact_write_items, "plain", DynamoHandler.transact_write_items), Answers()

    def transact_write_items(handler: Any) -> Any:
        for item in handler.body["TransactItems"]:
            for action in item.values():
                handler.dynamodb_backend.get_table(action["TableName"])
        parameters = {name: value for name, value in handler.body.items() if name != "ClientRequestToken"}
        if token := handler.body.get("ClientRequestToken"):
            key = handler.current_account, handler.region, token
            return answers.once(key, parameters, lambda: plain(handler))
        return plain(handler)

    transact_write_items.plain = plain  # type: ignore[attr-defined]  # when local AWS starts again in this process
    DynamoHandler.transact_write_items = transact_write_items

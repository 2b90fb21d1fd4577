"""DynamoDB in memory, some hundred times quicker than moto's, for what aws/deployments.py and aws/waits.py say.

tests/unit/test_deployments.py holds it to moto's on random operations.
"""

import re
import threading
from collections.abc import Callable
from functools import cache
from types import SimpleNamespace
from typing import Any

from botocore.exceptions import ClientError

type Item = dict[str, Any]


def refused(code: str, operation: str, **more: Any) -> ClientError:
    """An error as botocore raises it."""
    given: Any = {"Error": {"Code": code, "Message": code}, "ResponseMetadata": {"HTTPStatusCode": 400}, **more}
    return ClientError(given, operation)


class FakeDynamoDb:
    """One table with the keys pk and sk. `before` is called with each operation, and may raise."""

    def __init__(self, before: Callable[[str], None] = lambda _: None) -> None:
        self.items: dict[tuple[str, str], Item] = {}
        self.before, self._lock = before, threading.Lock()

    def get_item(self, TableName: str, Key: Item, ConsistentRead: bool) -> dict[str, Any]:  # noqa: N803
        self.before("GetItem")
        assert ConsistentRead
        item = self.items.get(_key(Key))
        return {"Item": dict(item)} if item else {}

    def put_item(self, TableName: str, Item: Item) -> None:  # noqa: N803
        self.before("PutItem")
        with self._lock:
            self.items[_key(Item)] = dict(Item)

    def update_item(self, **write: Any) -> None:
        self._one("Update", write)

    def delete_item(self, **write: Any) -> None:
        self._one("Delete", write)

    def _one(self, kind: str, write: dict[str, Any]) -> None:
        self.before(f"{kind}Item")
        try:
            with self._lock:
                self._transact([{kind: write}])
        except ClientError:
            raise refused("ConditionalCheckFailedException", f"{kind}Item") from None

    def get_paginator(self, name: str) -> Any:
        assert name == "query"
        return SimpleNamespace(paginate=self._query)

    def _query(self, **given: Any) -> list[dict[str, Any]]:
        self.before("Query")
        values, text = given["ExpressionAttributeValues"], given["KeyConditionExpression"]
        with self._lock:
            found = [(key, item) for key, item in self.items.items() if _where(text, item, values, {})]
        found.sort(key=lambda pair: pair[0], reverse=not given.get("ScanIndexForward", True))
        return [{"Items": [dict(item) for _, item in found]}]

    def scan(self, TableName: str) -> dict[str, Any]:  # noqa: N803
        with self._lock:
            return {"Items": [dict(item) for item in self.items.values()]}

    def transact_write_items(self, TransactItems: list[dict[str, Any]]) -> None:  # noqa: N803
        self.before("TransactWriteItems")
        with self._lock:
            self._transact(TransactItems)

    def _transact(self, writes: list[dict[str, Any]]) -> None:
        reasons, changed = [], dict[tuple[str, str], Item | None]()
        for each in writes:
            ((kind, write),) = each.items()
            key = _key(write["Item"] if kind == "Put" else write["Key"])
            if key in changed:
                raise refused("ValidationException", "TransactWriteItems")
            item = self.items.get(key)
            names, values = write.get("ExpressionAttributeNames", {}), write.get("ExpressionAttributeValues", {})
            condition = write.get("ConditionExpression")
            good = condition is None or _where(condition, item or {}, values, names)
            reasons.append({"Code": "None" if good else "ConditionalCheckFailed"})
            changed[key] = {
                "Put": lambda w: dict(w["Item"]),
                "Delete": lambda w: None,
                "ConditionCheck": lambda w, i=item: i,
                "Update": lambda w, i=item: _updated(w, i or dict(w["Key"])),
            }[kind](write)  # type: ignore[no-untyped-call]
        if any(reason["Code"] != "None" for reason in reasons):
            raise refused("TransactionCanceledException", "TransactWriteItems", CancellationReasons=reasons)
        for key, new in changed.items():
            if new is None:
                self.items.pop(key, None)
            else:
                self.items[key] = new


def _key(item: Item) -> tuple[str, str]:
    return item["pk"]["S"], item["sk"]["S"]


@cache
def _parts(text: str) -> tuple[tuple[str, ...], ...]:
    """Return the parts of a condition without OR, all of which must hold."""
    parts = []
    for part in re.split(r" AND (?!:until)", text):
        found = re.fullmatch(
            r"attribute_(not_)?exists\((\w+)\)|(#?\w+) = (:\w+)|begins_with\((\w+), (:\w+)\)"
            r"|(\w+) BETWEEN (:\w+) AND (:\w+)|(\w+) < (:\w+)",
            part,
        )
        assert found, part
        parts.append(found.groups(""))
    return tuple(parts)


def _where(text: str, item: Item, values: Item, names: dict[str, str]) -> bool:
    if " OR " in text:
        return any(_where(part, item, values, names) for part in text.split(" OR "))
    for no, there, left, right, begins, prefix, between, low, high, less, than in _parts(text):
        if there:
            good = (there in item) != bool(no)
        elif left:
            good = item.get(names.get(left, left)) == values[right]
        elif begins:
            good = item[begins]["S"].startswith(values[prefix]["S"])
        elif less:
            good = less in item and float(item[less]["N"]) < float(values[than]["N"])
        else:
            good = values[low]["S"] <= item[between]["S"] <= values[high]["S"]
        if not good:
            return False
    return True


def _updated(write: dict[str, Any], item: Item) -> Item:
    item, text = dict(item), write["UpdateExpression"]
    names, values = write.get("ExpressionAttributeNames", {}), write.get("ExpressionAttributeValues", {})
    sets, _, removes = text.partition("REMOVE ")
    for change in filter(None, sets.removeprefix("SET ").strip().split(", ")):
        name, value = change.split(" = ")
        item[names.get(name, name)] = values[value]
    for name in filter(None, removes.split(", ")):
        item.pop(name, None)
    return item

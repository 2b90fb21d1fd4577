"""ECR lifecycle policies. They never expire what runs: an app's tagged images stay."""

import json
from typing import Any


def _rule(priority: int, description: str, selection: dict[str, Any]) -> dict[str, Any]:
    return {
        "rulePriority": priority,
        "description": description,
        "selection": selection,
        "action": {"type": "expire"},
    }


def _policy(*rules: dict[str, Any]) -> str:
    return json.dumps({"rules": list(rules)}, separators=(",", ":"))


def keep_newest(count: int) -> str:
    """Return the policy that keeps the newest images: for our own, of which a task uses the newest."""
    return _policy(
        _rule(
            1,
            f"Keep the newest {count}",
            {"tagStatus": "any", "countType": "imageCountMoreThan", "countNumber": count},
        )
    )


def expire_after(days: int) -> str:
    """Return the policy for a cache: layers go that many days after their push."""
    return _policy(
        _rule(
            1,
            f"A cached layer lives {days} days",
            {"tagStatus": "any", "countType": "sinceImagePushed", "countUnit": "days", "countNumber": days},
        )
    )

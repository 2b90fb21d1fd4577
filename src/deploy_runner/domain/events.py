"""Which service an event of ECS is about. Events are hints: they say where to look, never what is so.

docs.aws.amazon.com/AmazonECS/latest/developerguide/ecs_cwe_events.html shows their forms.
"""

from collections.abc import Mapping
from dataclasses import dataclass

_ENDED = ("SERVICE_DEPLOYMENT_COMPLETED", "SERVICE_DEPLOYMENT_FAILED", "SERVICE_STEADY_STATE")


@dataclass(frozen=True, slots=True)
class Hint:
    """Look at this service; `ended` says that something ended there."""

    service_arn: str
    ended: bool = False


def hint(event: object) -> Hint | None:
    """Return what an event hints at, None where that is no service. Total over anything."""
    if not isinstance(event, Mapping) or event.get("source") != "aws.ecs":
        return None
    detail = event.get("detail")
    if not isinstance(detail, Mapping):
        return None
    if event.get("detail-type") == "ECS Task State Change":
        group, cluster = detail.get("group"), detail.get("clusterArn")
        if not isinstance(group, str) or not group.startswith("service:") or not isinstance(cluster, str):
            return None
        name = group.removeprefix("service:")
        return Hint(f"{cluster.replace(':cluster/', ':service/', 1)}/{name}") if ":cluster/" in cluster else None
    resources = event.get("resources")
    for resource in resources if isinstance(resources, list) else []:
        if isinstance(resource, str) and ":service/" in resource:
            return Hint(resource, detail.get("eventName") in _ENDED)
    return None

"""AWS::Scheduler::* in templates, by EventBridge Scheduler's API; moto has neither type."""

from typing import Any

from deploy_runner.local_aws.cloudformation.kinds import ApiKind, call, kind
from deploy_runner.local_aws.cloudformation.stacks import Resource


def _group(properties: dict[str, Any]) -> str:
    return str(properties.get("GroupName") or "default")


@kind("AWS::Scheduler::Schedule")
class Schedule(ApiKind):
    """A schedule; an update gives all of it, as UpdateSchedule wants it."""

    attributes = {"Arn": "ScheduleArn"}  # noqa: RUF012

    def create(self, resource: Resource) -> None:
        resource.physical_id = resource.properties.get("Name") or resource.name(64)
        resource.model = self._write(resource, "create_schedule")

    def update(self, resource: Resource, old: dict[str, Any]) -> None:
        if _group(old) == _group(resource.properties):
            resource.model = self._write(resource, "update_schedule")
        else:  # the API moves none
            resource.model = self._write(resource, "create_schedule")
            call(resource, "scheduler", "delete_schedule", Name=resource.physical_id, GroupName=_group(old))

    @staticmethod
    def _write(resource: Resource, operation: str) -> Any:
        return call(resource, "scheduler", operation, **{**resource.properties, "Name": resource.physical_id})

    def delete(self, resource: Resource) -> None:
        call(resource, "scheduler", "delete_schedule", Name=resource.physical_id, GroupName=_group(resource.properties))


@kind("AWS::Scheduler::ScheduleGroup")
class ScheduleGroup(ApiKind):
    """A group of schedules."""

    attributes = {name: name for name in ("Arn", "CreationDate", "LastModificationDate", "State")}  # noqa: RUF012

    def create(self, resource: Resource) -> None:
        resource.physical_id = resource.properties.get("Name") or resource.name(64)
        tags = resource.properties.get("Tags")
        call(resource, "scheduler", "create_schedule_group", Name=resource.physical_id, Tags=tags)
        resource.model = call(resource, "scheduler", "get_schedule_group", Name=resource.physical_id)

    def delete(self, resource: Resource) -> None:
        call(resource, "scheduler", "delete_schedule_group", Name=resource.physical_id)

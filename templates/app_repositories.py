"""The apps' image repositories, and beside each one Kaniko's cache of layers. They outlive the stack."""

from typing import Any

from troposphere import Tags, Template
from troposphere.ecr import ImageScanningConfiguration, LifecyclePolicy, Repository

from templates.config import Config, logical_id
from templates.iam import PULL, document
from templates.lifecycle import expire_after

CACHE_DAYS = 14


def build(config: Config) -> Template:
    """Return the repositories. An app's has no lifecycle policy: a digest that runs or was last good must stay."""
    template = Template("The image repositories of the apps.")
    template.set_version()
    immutable = {app.image_repository for app in config.allowlist.apps.values() if app.immutable_tags}
    for name in config.image_repositories:
        template.add_resource(
            Repository(
                logical_id("Images", name),
                RepositoryName=name,
                ImageScanningConfiguration=ImageScanningConfiguration(ScanOnPush=True),
                ImageTagMutability="IMMUTABLE" if name in immutable else "MUTABLE",
                RepositoryPolicyText=_pulled_by(config, name),
                Tags=Tags({"deploy-runner:kind": "app-images"}),
                DeletionPolicy="RetainExceptOnCreate",
                UpdateReplacePolicy="Retain",
            )
        )
        template.add_resource(
            Repository(
                logical_id("Cache", name),
                RepositoryName=f"{name}/cache",
                LifecyclePolicy=LifecyclePolicy(LifecyclePolicyText=expire_after(CACHE_DAYS)),
                Tags=Tags({"deploy-runner:kind": "build-cache"}),
                DeletionPolicy="RetainExceptOnCreate",
                UpdateReplacePolicy="Retain",
            )
        )
    return template


def _pulled_by(config: Config, name: str) -> dict[str, Any]:
    """Let the accounts that an image runs in pull it; their task execution roles need the permission as well."""
    targets = {
        (place.target.partition, place.target.account)
        for app in config.allowlist.apps.values()
        if app.image_repository == name
        for place in app.environments.values()
    }
    principals = [f"arn:{partition}:iam::{account}:root" for partition, account in sorted(targets)]
    return document({"Sid": "WhereItRuns", "Effect": "Allow", "Principal": {"AWS": principals}, "Action": PULL})

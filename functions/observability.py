"""Log lines are JSON objects with the deployment's id; metrics travel in the log (EMF). Tracing needs no SDK."""

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit

logger = Logger()
metrics = Metrics(namespace="DeployRunner")


def follow(deployment_id: str, **more: str) -> None:
    """Put the deployment's id, and what else names it, into every line from here on."""
    logger.append_keys(deployment_id=deployment_id, **more)


def count(name: str) -> None:
    """Count one of something."""
    metrics.add_metric(name=name, unit=MetricUnit.Count, value=1)

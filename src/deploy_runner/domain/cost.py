"""What a deployment costs in dollars, at the list prices of us-east-1, without free tiers."""

from dataclasses import dataclass

# aws.amazon.com/step-functions/pricing: standard workflows, $0.025 per 1,000 transitions, retries included
TRANSITION = 0.025 / 1000
# aws.amazon.com/fargate/pricing: Linux, per vCPU and per GB and hour; by the second, one minute at least
FARGATE_HOUR = {"ARM64": (0.03238, 0.00356), "X86_64": (0.04048, 0.004445)}
FARGATE_LEAST_SECONDS = 60
# aws.amazon.com/lambda/pricing: $0.20 per million requests; per GB and second by architecture
LAMBDA_REQUEST = 0.20 / 1_000_000
LAMBDA_GB_SECOND = {"arm64": 0.0000133334, "x86_64": 0.0000166667}


@dataclass(frozen=True, slots=True)
class Fargate:
    """The size of a runner task."""

    vcpu: float = 2
    memory_gb: float = 4
    architecture: str = "ARM64"


def transitions_cost(transitions: int) -> float:
    """Return what so many state transitions cost, in dollars."""
    return transitions * TRANSITION


def fargate_cost(size: Fargate, seconds: float) -> float:
    """Return what a task of this size costs for its seconds, in dollars; nothing if it did not run."""
    if seconds <= 0:
        return 0.0
    vcpu, memory = FARGATE_HOUR[size.architecture]
    hours = max(seconds, FARGATE_LEAST_SECONDS) / 3600
    return hours * (size.vcpu * vcpu + size.memory_gb * memory)


def lambda_cost(invocations: int, seconds: float, memory_mb: int = 512, architecture: str = "arm64") -> float:
    """Return what so many invocations with so many seconds in total cost, in dollars."""
    return invocations * LAMBDA_REQUEST + seconds * memory_mb / 1024 * LAMBDA_GB_SECOND[architecture]


def deployment_cost(
    transitions: int, build_seconds: float, invocations: int, invocation_seconds: float, size: Fargate | None = None
) -> float:
    """Return what one deployment costs all in, in dollars; the app's own tasks are not counted."""
    build = fargate_cost(size or Fargate(), build_seconds)
    return transitions_cost(transitions) + build + lambda_cost(invocations, invocation_seconds)

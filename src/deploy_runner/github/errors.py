"""What can go wrong at GitHub. Runs on Python 3.11 too: the clone container shares it."""

from deploy_runner.domain.errors import DeployRunnerError, Unavailable


class GitHubUnavailable(Unavailable):
    """GitHub throttles, answers 5xx or not in time; the state machine tries again."""


class GitHubRefused(DeployRunnerError):
    """GitHub does not let us, or does not take what we sent; trying again would not help."""


class GitHubNotFound(DeployRunnerError):
    """GitHub has it not, or does not show it to us: it does not tell the two apart."""


class GitHubRepositoryMismatch(GitHubNotFound):
    """The repository's name and its numeric id belong to two repositories: the name may have been taken over."""

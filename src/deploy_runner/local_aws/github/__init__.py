"""GitHub on one machine: the API that we use under /api/v3, as on GitHub Enterprise Server, and git over HTTP.

A test holds its answers to GitHub's published OpenAPI description.
"""

from deploy_runner.local_aws.fault_gates import GitHubGate
from deploy_runner.local_aws.github.app import LocalGitHub
from deploy_runner.local_aws.github.state import State
from deploy_runner.local_aws.machine import Machine

PRIVATE_KEY_SECRET = "/lightwave/cicd/github-app-private-key"  # noqa: S105 - its name


def install(machine: Machine) -> None:
    """Serve GitHub, store its App's private key as a user would, and say which token a developer has."""
    from moto.secretsmanager.models import secretsmanager_backends

    state = State(machine.state_dir / "github")
    secretsmanager_backends[machine.account_id][machine.region].create_secret(
        name=PRIVATE_KEY_SECRET,
        secret_string=state.private_key_pem,
        description="The private key of the GitHub App that the deploy runner acts as",
        secret_binary=None,
        tags=None,
        kms_key_id=None,
        client_request_token=None,
        replica_regions=[],
        force_overwrite=False,
    )
    machine.serve(GitHubGate(machine.faults, LocalGitHub(state)), machine.github_port, "GitHub")
    machine.exports["LOCAL_GITHUB_URL"] = machine.github_url
    machine.exports["LOCAL_GITHUB_TOKEN"] = state.developer_token
    machine.exports["LOCAL_GIT_URL"] = machine.github_url.replace("://", f"://x-access-token:{state.developer_token}@")

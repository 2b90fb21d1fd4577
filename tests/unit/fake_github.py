"""GitHub in memory, with the methods of deploy_runner.github.client.GitHub that the functions use."""

from typing import Any

from deploy_runner.github.client import Branch, Check, Repository, ResolvedRef, WorkflowRun

SHA = "c" * 40


class FakeGitHub:
    def __init__(self, repository_id: int = 1001) -> None:
        self.repository_id = repository_id
        self.branches = {"main": SHA, "experiment": SHA}
        self.conclusions: dict[str, str | None] = {"tests": "success"}
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.error: BaseException | None = None

    def get_repository(self, repository: str) -> Repository:
        return Repository(self.repository_id, repository, "main", True)

    def resolve_ref(self, repository: str, ref: str) -> ResolvedRef | None:
        name = ref.removeprefix("refs/heads/")
        if name in self.branches:
            return ResolvedRef("branch", name, self.branches[name])
        return ResolvedRef("commit", ref, ref) if ref in self.branches.values() else None

    def list_branches(self, repository: str) -> Any:
        return (Branch(name, sha) for name, sha in self.branches.items())

    def branches_containing(self, repository: str, sha: str, branches: Any) -> Any:
        return (branch.name for branch in branches if branch.sha == sha)

    def tags_of(self, repository: str, sha: str) -> tuple[str, ...]:
        return ()

    def checks(self, repository: str, sha: str) -> tuple[Check, ...]:
        return tuple(Check(name, conclusion) for name, conclusion in self.conclusions.items())

    def workflow_run(self, repository: str, run_id: int) -> WorkflowRun | None:
        return None

    def _tell(self, what: str, given: dict[str, Any]) -> int:
        if self.error:
            raise self.error
        self.calls.append((what, given))
        return 77

    def create_deployment(self, repository: str, sha: str, environment: str, **given: Any) -> int:
        return self._tell("deployment", {"repository": repository, "sha": sha, "environment": environment, **given})

    def deployment_state(self, repository: str, github_deployment_id: int) -> str | None:
        return next((given["state"] for what, given in reversed(self.calls) if what == "status"), None)

    def find_check_run(self, repository: str, sha: str, name: str, external_id: str) -> int | None:
        known = [given for what, given in self.calls if what == "check run" and given["external_id"] == external_id]
        return 77 if known else None

    def set_deployment_status(self, repository: str, github_deployment_id: int, state: str, **given: Any) -> None:
        self._tell("status", {"id": github_deployment_id, "state": state, **given})

    def create_check_run(self, repository: str, sha: str, name: str, **given: Any) -> int:
        return self._tell("check run", {"repository": repository, "sha": sha, "name": name, **given})

"""What the rules of domain/allow.py ask of GitHub about one app's repository."""

from collections.abc import Iterator, Sequence

from deploy_runner.domain.allow import first_match
from deploy_runner.github.client import Branch, Check, GitHub, ResolvedRef, WorkflowRun
from deploy_runner.github.errors import GitHubNotFound


class RepositoryFacts:
    """GitHub's word on one repository, as domain.allow.Facts.

    Give it a client whose tokens are asked for by the repository's name alone: comparing the id is the rules' work.
    """

    def __init__(self, github: GitHub, repository: str) -> None:
        self._github, self._repository = github, repository
        self._default_branch = ""

    def repository_id(self) -> int | None:
        """Return the numeric id behind the name, None where the App is shown no such repository."""
        try:
            found = self._github.get_repository(self._repository)
        except GitHubNotFound:
            return None
        # A renamed repository answers to its old name, which someone else may take at any time.
        if found.full_name.lower() != self._repository.lower():
            return None
        self._default_branch = found.default_branch
        return found.id

    def resolve(self, ref: str) -> ResolvedRef | None:
        """Return what a branch, tag or full SHA stands for; refs/heads/ and refs/tags/ say which is meant."""
        return self._github.resolve_ref(self._repository, ref)

    def branch_containing(self, sha: str, globs: Sequence[str]) -> str | None:
        """Return a branch that matches a glob and whose history has the commit; the default branch is tried first."""
        return next(self._github.branches_containing(self._repository, sha, self._matching(globs)), None)

    def tags_at(self, sha: str) -> Sequence[str]:
        """Return the tags of the commit."""
        return self._github.tags_of(self._repository, sha)

    def checks(self, sha: str) -> Sequence[Check]:
        """Return the checks of the commit, the latest of each name."""
        return self._github.checks(self._repository, sha)

    def run(self, run_id: int) -> WorkflowRun | None:
        """Return a workflow run of the repository."""
        return self._github.workflow_run(self._repository, run_id)

    def _matching(self, globs: Sequence[str]) -> Iterator[Branch]:
        if not any("*" in glob for glob in globs):
            for name in globs:
                found = self._github.resolve_ref(self._repository, f"refs/heads/{name}")
                if found is not None:
                    yield Branch(name, found.sha)
            return
        matching = [b for b in self._github.list_branches(self._repository) if first_match(globs, b.name)]
        yield from sorted(matching, key=lambda branch: branch.name != self._default_branch)

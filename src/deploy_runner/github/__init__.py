"""GitHub's API as a GitHub App."""

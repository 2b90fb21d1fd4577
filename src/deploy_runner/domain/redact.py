"""Log lines without the secrets that programs print when they fail."""

import re
from collections.abc import Mapping

LEAST_VALUE = 8  # shorter values are words such as `prod` or `8080`, which tell people what happened
HIDDEN = "***"

# Passwords in URLs; tokens of GitHub (github.blog/2021-04-05-behind-githubs-new-authentication-token-formats) and AWS
# access keys (docs.aws.amazon.com/IAM/latest/UserGuide/reference_identifiers.html); bearer tokens; PASSWORD=...
_SECRETS = re.compile(
    r"(?P<url>://[^/\s:@]*:)\S+(?=@)"
    r"|\bgh[a-z]_[A-Za-z0-9_]{10,}"
    r"|\bgithub_pat_[A-Za-z0-9_]{10,}"
    r"|\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"
    r"|\beyJ[A-Za-z0-9_-]{10,}(?:\.[A-Za-z0-9_-]+){1,2}"  # a JSON Web Token
    r"|\b(?:sk|rk)_(?:live|test)_[A-Za-z0-9]{8,}|\bxox[a-z]-[A-Za-z0-9-]{8,}"
    r"|(?P<bearer>\b(?:bearer|basic)\s+)[A-Za-z0-9._~+/=-]{8,}"
    r"|(?P<named>\b\w*(?:password|passwd|passphrase|pwd|secret|credential|token|api_?key)\w*[\"']?\s*[=:]\s*)"
    r"(?:\"[^\"]{4,}\"|'[^']{4,}'|(?![\"']?\s|$)[\"']?[^\s\"',;]{4,}[\"']?)",
    re.IGNORECASE,
)


def redacted(line: str, environment: Mapping[str, str] | None = None) -> str:
    """Return a log line with known kinds of secrets hidden, and long values of the environment named instead."""
    values = sorted((environment or {}).items(), key=lambda item: -len(item[1]))
    for name, value in values:
        if len(value) >= LEAST_VALUE:
            line = line.replace(value, f"${name}")
    return _SECRETS.sub(lambda m: "".join(m.group(g) or "" for g in ("url", "bearer", "named")) + HIDDEN, line)

"""Terraform keeps its state in S3, and one apply at a time has its lock, by S3's own or by DynamoDB's.

developer.hashicorp.com/terraform/language/backend/s3
"""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.waiting import until

from .conftest import Aws, ended

pytestmark = [
    pytest.mark.engine,
    pytest.mark.xdist_group("other_tools"),
    pytest.mark.skipif(
        not shutil.which("terraform"),
        reason="Terraform is not on PATH: install it from developer.hashicorp.com/terraform/install (1.11 or newer)",
    ),
]

BUCKET, TABLE = "terraform-state", "terraform-locks"
LOCKS = {"s3": "use_lockfile = true", "dynamodb": f'dynamodb_table = "{TABLE}"'}
# What Terraform passes on of how AWS refuses a second lock: docs.aws.amazon.com/AmazonS3/latest/userguide/
# conditional-writes.html and .../amazondynamodb/latest/developerguide/Programming.Errors.html.
REFUSED = {
    "s3": "PreconditionFailed: At least one of the pre-conditions you specified did not hold",
    "dynamodb": "ConditionalCheckFailedException: The conditional request failed",
}
HOLD = "touch began; for _ in $(seq 1200); do [ -e release ] && break; sleep 0.05; done"
# Where buckets are no host names the backend needs `use_path_style`; the rest is in the shell's environment.
CONFIGURATION = """
terraform {{
  backend "s3" {{
    bucket         = "{bucket}"
    key            = "{key}"
    use_path_style = true
    {lock}
  }}
}}
variable "command" {{ default = "true" }}
resource "terraform_data" "service" {{
  input = "version ${{var.command}}"
  triggers_replace = var.command
  provisioner "local-exec" {{
    command = var.command
  }}
}}
"""


class Terraform:
    """A folder with a configuration, and Terraform in it."""

    def __init__(self, aws: Aws, folder: Path, lock: str) -> None:
        self.aws, self.folder, self.lock, self.key = aws, folder, lock, f"{folder.name}.tfstate"
        (folder / "main.tf").write_text(CONFIGURATION.format(bucket=BUCKET, key=self.key, lock=LOCKS[lock]))
        code, said, complained = self("init")
        assert code == 0, said + complained

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        own = {"TF_IN_AUTOMATION": "1", "TF_INPUT": "0", "TF_CLI_CONFIG_FILE": os.devnull, "CHECKPOINT_DISABLE": "1"}
        return self.aws.start("terraform", *arguments, cwd=self.folder, **own)

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        return ended(self.start(*arguments))

    def apply(self, command: str = "true") -> "subprocess.Popen[str]":
        return self.start("apply", "-no-color", "-auto-approve", f"-var=command={command}")

    def holding(self) -> "subprocess.Popen[str]":
        """Start an apply that holds the lock, and says so by a file `began`, until there is a file `release`."""
        return self.apply(HOLD)

    def state(self) -> dict[str, Any]:
        body = self.aws.client("s3").get_object(Bucket=BUCKET, Key=self.key)["Body"].read()
        return json.loads(body)

    def locked(self) -> bool:
        """Tell whether the lock is there. DynamoDB's table keeps the state's checksum too, under another key."""
        objects = self.aws.client("s3").list_objects_v2(Bucket=BUCKET, Prefix=f"{self.key}.tflock")["KeyCount"]
        name = {"LockID": {"S": f"{BUCKET}/{self.key}"}}
        return objects + ("Item" in self.aws.client("dynamodb").get_item(TableName=TABLE, Key=name)) > 0

    def refused(self, apply: "subprocess.Popen[str]") -> dict[str, str]:
        """Wait for an apply that does not get the lock; returns what it says of the one who has it."""
        code, said, complained = ended(apply)
        assert code == 1, said
        assert "Error acquiring the state lock" in complained
        assert REFUSED[self.lock] in " ".join(complained.split())
        return dict(re.findall(r"^  (\w+): +(.+)$", complained, re.MULTILINE))


@pytest.fixture(scope="module", autouse=True)
def backend(aws: Aws) -> None:
    s3 = aws.client("s3")
    s3.create_bucket(Bucket=BUCKET)
    s3.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
    aws.client("dynamodb").create_table(
        TableName=TABLE, BillingMode="PAY_PER_REQUEST", KeySchema=[{"AttributeName": "LockID", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "LockID", "AttributeType": "S"}],
    )  # fmt: skip


@pytest.fixture(params=list(LOCKS))
def terraform(aws: Aws, tmp_path: Path, request: pytest.FixtureRequest) -> Terraform:
    return Terraform(aws, tmp_path, request.param)


def test_of_three_applies_at_once_one_goes_on_and_two_are_told_who_has_the_lock(terraform: Terraform) -> None:
    applies = [terraform.holding() for _ in range(3)]
    until(lambda: sum(apply.poll() is None for apply in applies), lambda running: running < 2)
    until((terraform.folder / "began").exists, bool)
    assert terraform.locked()

    (holder,) = [apply for apply in applies if apply.poll() is None]
    told = [terraform.refused(apply) for apply in applies if apply is not holder]
    assert told[0] == told[1]
    assert (told[0]["Path"], told[0]["Operation"]) == (f"{BUCKET}/{terraform.key}", "OperationTypeApply")

    # AND once it is over, the state is in S3, and nothing is left of the lock
    (terraform.folder / "release").touch()
    code, said, complained = ended(holder)
    assert code == 0, complained
    assert "Apply complete! Resources: 1 added" in said
    assert [resource["type"] for resource in terraform.state()["resources"]] == ["terraform_data"]
    assert not terraform.locked()
    assert terraform("plan", "-detailed-exitcode", f"-var=command={HOLD}")[0] == 0


def test_the_lock_of_an_apply_that_was_killed_stays_until_somebody_takes_it_away(terraform: Terraform) -> None:
    killed = terraform.holding()
    until((terraform.folder / "began").exists, bool)
    killed.kill()
    (terraform.folder / "release").touch()
    ended(killed)

    lock = terraform.refused(terraform.apply())["ID"]

    assert terraform("force-unlock", "-force", "00000000-0000-0000-0000-000000000000")[0] == 1
    assert terraform("force-unlock", "-force", lock)[0] == 0
    assert not terraform.locked()
    assert ended(terraform.apply())[0] == 0


def test_an_apply_that_fails_leaves_what_it_did_in_the_state_and_no_lock(terraform: Terraform) -> None:
    code, _, complained = ended(terraform.apply("echo no database >&2; exit 7"))

    assert code == 1
    assert "exit status 7. Output: no database" in " ".join(complained.split())
    assert terraform.state()["resources"][0]["instances"][0]["status"] == "tainted"
    assert not terraform.locked()

    # AND the next one mends it
    code, said, _ = ended(terraform.apply())
    assert code == 0
    assert "1 added, 0 changed, 1 destroyed" in said
    assert "status" not in terraform.state()["resources"][0]["instances"][0]
    assert terraform("plan", "-detailed-exitcode")[0] == 0

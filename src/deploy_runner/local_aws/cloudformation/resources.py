"""The types of resources that are made by the public API, as AWS's own handlers do, so that its rules hold here too."""

import contextlib
import io
import json
import re
import secrets
import string
import zipfile
from typing import Any

import yaml
from botocore.exceptions import ClientError

from deploy_runner.local_aws.cloudformation.kinds import ApiKind, call, kind, pairs, set_tags, tag_map, text_of, without
from deploy_runner.local_aws.cloudformation.stacks import STACK_TYPE, Resource, changed_properties
from deploy_runner.local_aws.cloudformation.template import invalid


# --- Nested stacks ----------------------------------------------------------------------------------------------------
@kind(STACK_TYPE)
class NestedStack:
    """A stack within a stack; `resource.model` is it."""

    def _prepare(self, resource: Resource, stack: Any) -> Any:
        engine, properties = resource.stack.engine, resource.properties
        given = {
            k: ",".join(v) if isinstance(v, list) else text_of(v)
            for k, v in (properties.get("Parameters") or {}).items()
        }
        body = engine.body(None, properties["TemplateURL"])
        stack.tags, stack.capabilities = tag_map(properties), resource.stack.capabilities
        return engine.prepare(body, given, stack.capabilities, expand_needs_capability=True, known=stack)

    def create(self, resource: Resource) -> None:
        engine = resource.stack.engine
        stack = engine.new_stack(resource.name(128), resource.stack)
        resource.model, resource.physical_id = stack, stack.id
        prepared = self._prepare(resource, stack)
        stack.event("CREATE_IN_PROGRESS", "User Initiated")
        on_failure = "DO_NOTHING" if resource.stack.disable_rollback else "ROLLBACK"
        stack.deploy(prepared, update=False, on_failure=on_failure)
        if stack.status != "CREATE_COMPLETE":
            raise invalid(f"Embedded stack {stack.id} was not successfully created: {self._why(stack)}")

    def update(self, resource: Resource, old: dict[str, Any]) -> None:
        stack = resource.model
        prepared = self._prepare(resource, stack)
        stack.updated = stack.engine.now()
        stack.event("UPDATE_IN_PROGRESS", "User Initiated")
        stack.deploy(prepared, update=True)
        if stack.status != "UPDATE_COMPLETE":
            raise invalid(
                f"Embedded stack {stack.id} was not successfully updated. "
                f"Currently in {stack.status} with reason: {self._why(stack)}"
            )

    @staticmethod
    def _why(stack: Any) -> str:
        reasons = [
            e["ResourceStatusReason"]
            for e in stack.events
            if "The following resource(s)" in e.get("ResourceStatusReason", "")
        ]
        return reasons[-1] if reasons else str(stack.reason)

    def delete(self, resource: Resource) -> None:
        stack = resource.model
        if stack.deleted:
            return
        if stack.termination_protection:
            raise invalid(f"Stack [{stack.id}] cannot be deleted while TerminationProtection is enabled")
        stack.delete([])
        if not stack.deleted:
            raise invalid(f"Embedded stack {stack.id} was not successfully deleted: {stack.reason}")

    def attribute(self, resource: Resource, name: str) -> Any:
        if not name.startswith("Outputs."):
            raise KeyError(name)
        outputs = {output["OutputKey"]: output["OutputValue"] for output in resource.model.outputs}
        return outputs[name.removeprefix("Outputs.")]


@kind("AWS::CloudFormation::WaitConditionHandle")
class WaitConditionHandle(ApiKind):
    """What templates use as a resource that does nothing."""

    def create(self, resource: Resource) -> None:
        resource.physical_id = f"https://cloudformation-waitcondition-local/{resource.name()}"

    def delete(self, resource: Resource) -> None:
        pass


# --- Lambda -----------------------------------------------------------------------------------------------------------
@kind("AWS::Lambda::Function")
class Function(ApiKind):
    """A function; inline code becomes index.py."""

    @staticmethod
    def _code(resource: Resource) -> dict[str, Any]:
        code = dict(resource.properties["Code"])
        if "ZipFile" in code:
            content = io.BytesIO()
            with zipfile.ZipFile(content, "w") as archive:
                archive.writestr(zipfile.ZipInfo("index.py"), code["ZipFile"])
            code["ZipFile"] = content.getvalue()
        return without(code, "SourceKMSKeyArn")

    def create(self, resource: Resource) -> None:
        properties = without(resource.properties, "Code", "Tags", "FunctionName", "ReservedConcurrentExecutions")
        name = resource.properties.get("FunctionName") or resource.name(64)
        tags = tag_map(resource.properties)
        resource.model = call(
            resource,
            "lambda",
            "create_function",
            FunctionName=name,
            Code=self._code(resource),
            Tags=tags or None,
            **properties,
        )
        resource.physical_id = name
        self._concurrency(resource)

    @staticmethod
    def _concurrency(resource: Resource) -> None:
        wanted = resource.properties.get("ReservedConcurrentExecutions")
        if wanted is not None:
            call(
                resource, "lambda", "put_function_concurrency",
                FunctionName=resource.physical_id, ReservedConcurrentExecutions=wanted,
            )  # fmt: skip

    def update(self, resource: Resource, old: dict[str, Any]) -> None:
        changed, name = changed_properties(old, resource.properties), resource.physical_id
        if changed & {"Code", "Architectures"}:
            architectures = resource.properties.get("Architectures")
            call(
                resource, "lambda", "update_function_code",
                FunctionName=name, Architectures=architectures, **self._code(resource),
            )  # fmt: skip
        defaults = {
            "Description": "", "Environment": {"Variables": {}}, "Layers": [], "MemorySize": 128, "Timeout": 3,
            "TracingConfig": {"Mode": "PassThrough"}, "DeadLetterConfig": {"TargetArn": ""}, "KMSKeyArn": "",
            "EphemeralStorage": {"Size": 512},
            "LoggingConfig": {"LogFormat": "Text", "LogGroup": f"/aws/lambda/{name}"},
            "VpcConfig": {"SubnetIds": [], "SecurityGroupIds": []},
        }  # fmt: skip
        settings = changed - {"Code", "Tags", "Architectures", "ReservedConcurrentExecutions"}
        if settings:
            values = {key: resource.properties.get(key, defaults.get(key)) for key in settings}
            call(resource, "lambda", "update_function_configuration", FunctionName=name, **values)
        if "ReservedConcurrentExecutions" in changed:
            if "ReservedConcurrentExecutions" in resource.properties:
                self._concurrency(resource)
            else:
                call(resource, "lambda", "delete_function_concurrency", FunctionName=name)
        client, arn = resource.aws("lambda"), resource.model["FunctionArn"]
        set_tags(
            resource,
            old,
            lambda t: client.tag_resource(Resource=arn, Tags=t),
            lambda k: client.untag_resource(Resource=arn, TagKeys=k),
        )

    def delete(self, resource: Resource) -> None:
        call(resource, "lambda", "delete_function", FunctionName=resource.physical_id)

    attributes = {"Arn": "FunctionArn"}  # noqa: RUF012


@kind("AWS::Lambda::Version")
class FunctionVersion(ApiKind):
    """A published version. AWS refuses a second resource for the same, unchanged code."""

    attributes = {"Version": "Version", "FunctionArn": "FunctionArn"}  # noqa: RUF012

    def create(self, resource: Resource) -> None:
        properties = resource.properties
        name = properties["FunctionName"]
        known = {
            version["Version"]
            for version in resource.aws("lambda").list_versions_by_function(FunctionName=name)["Versions"]
        }
        published = call(
            resource,
            "lambda",
            "publish_version",
            **without(properties, "ProvisionedConcurrencyConfig", "RuntimePolicy"),
        )
        if published["Version"] in known:
            exists = f"A version for this Lambda function exists ( {published['Version']} )."
            message = f"{exists} Modify the function to create a new version."
            raise invalid(f'Resource handler returned message: "{message}" (HandlerErrorCode: AlreadyExists)')
        resource.model, resource.physical_id = published, published["FunctionArn"]

    def delete(self, resource: Resource) -> None:
        call(
            resource,
            "lambda",
            "delete_function",
            FunctionName=resource.properties["FunctionName"],
            Qualifier=resource.model["Version"],
        )


@kind("AWS::Lambda::Alias")
class FunctionAlias(ApiKind):
    """A name for a version."""

    attributes = {"AliasArn": "AliasArn"}  # noqa: RUF012

    def create(self, resource: Resource) -> None:
        properties = without(resource.properties, "ProvisionedConcurrencyConfig")
        resource.model = call(resource, "lambda", "create_alias", **properties)
        resource.physical_id = resource.model["AliasArn"]

    def update(self, resource: Resource, old: dict[str, Any]) -> None:
        call(resource, "lambda", "update_alias", **without(resource.properties, "ProvisionedConcurrencyConfig"))

    def delete(self, resource: Resource) -> None:
        call(
            resource,
            "lambda",
            "delete_alias",
            FunctionName=resource.properties["FunctionName"],
            Name=resource.properties["Name"],
        )


@kind("AWS::Lambda::Permission")
class FunctionPermission(ApiKind):
    """A statement of a function's policy."""

    def _named(self, resource: Resource) -> dict[str, str]:
        text = str(resource.properties["FunctionName"])
        name, _, qualifier = text.rpartition(":function:")[2].partition(":")
        return {"FunctionName": name} | ({"Qualifier": qualifier} if qualifier else {})

    def create(self, resource: Resource) -> None:
        resource.physical_id = resource.name(100)
        properties = without(resource.properties, "FunctionName", "InvokedViaFunctionUrl")
        call(
            resource,
            "lambda",
            "add_permission",
            StatementId=resource.physical_id,
            **self._named(resource),
            **properties,
        )

    def delete(self, resource: Resource) -> None:
        call(resource, "lambda", "remove_permission", StatementId=resource.physical_id, **self._named(resource))

    def attribute(self, resource: Resource, name: str) -> Any:
        return {"Id": resource.physical_id}[name]


@kind("AWS::Lambda::EventInvokeConfig")
class FunctionEventInvokeConfig(ApiKind):
    """How often an asynchronous event is tried, and where it goes then."""

    def create(self, resource: Resource) -> None:
        call(resource, "lambda", "put_function_event_invoke_config", **resource.properties)
        resource.physical_id = f"{resource.properties['FunctionName']}|{resource.properties['Qualifier']}"

    def update(self, resource: Resource, old: dict[str, Any]) -> None:
        call(resource, "lambda", "put_function_event_invoke_config", **resource.properties)

    def delete(self, resource: Resource) -> None:
        name, qualifier = resource.physical_id.split("|")
        call(resource, "lambda", "delete_function_event_invoke_config", FunctionName=name, Qualifier=qualifier)


# --- Step Functions ---------------------------------------------------------------------------------------------------
def definition_of(resource: Resource) -> str:
    """The state machine's definition, from where the template says, with its substitutions made."""
    properties = resource.properties
    if location := properties.get("DefinitionS3Location"):
        version = {"VersionId": location["Version"]} if "Version" in location else {}
        found = resource.aws("s3").get_object(Bucket=location["Bucket"], Key=location["Key"], **version)
        text = found["Body"].read().decode()
        try:
            definition = json.loads(text)
        except ValueError:
            if re.search(r"(?m)^[^#'\"]*[:\-]\s+[*&]\w+", text):
                # The parser of AWS's handler (DefinitionProcessor.java) takes an alias for a string.
                raise invalid(
                    "Invalid State Machine Definition: YAML anchors and aliases are not supported in a definition"
                ) from None
            definition = yaml.safe_load(text)
    elif "Definition" in properties:
        definition = properties["Definition"]
    else:
        definition = json.loads(properties["DefinitionString"])
    text = json.dumps(definition)
    # AWS's handler puts the values into the text, so what is no string there stays none.
    for name, value in (properties.get("DefinitionSubstitutions") or {}).items():
        text = text.replace("${" + name + "}", json.dumps(text_of(value))[1:-1])
    return text


@kind("AWS::StepFunctions::StateMachine")
class StateMachine(ApiKind):
    """A state machine."""

    @staticmethod
    def _settings(resource: Resource) -> dict[str, Any]:
        properties = resource.properties

        def camel(value: Any) -> Any:
            if isinstance(value, dict):
                return {key[0].lower() + key[1:]: camel(item) for key, item in value.items()}
            return [camel(item) for item in value] if isinstance(value, list) else value

        return {
            "definition": definition_of(resource), "roleArn": properties["RoleArn"],
            "loggingConfiguration": camel(properties.get("LoggingConfiguration") or {"Level": "OFF"}),
            "tracingConfiguration": camel(properties.get("TracingConfiguration") or {"Enabled": False}),
        }  # fmt: skip

    def create(self, resource: Resource) -> None:
        properties = resource.properties
        tags = [{"key": key, "value": value} for key, value in tag_map(properties).items()]
        made = call(
            resource, "stepfunctions", "create_state_machine",
            name=properties.get("StateMachineName") or resource.name(80),
            type=properties.get("StateMachineType", "STANDARD"), tags=tags or None, **self._settings(resource),
        )  # fmt: skip
        resource.physical_id = made["stateMachineArn"]

    def update(self, resource: Resource, old: dict[str, Any]) -> None:
        arn, client = resource.physical_id, resource.aws("stepfunctions")
        if changed_properties(old, resource.properties) - {"Tags"}:
            call(resource, "stepfunctions", "update_state_machine", stateMachineArn=arn, **self._settings(resource))
        set_tags(
            resource, old,
            lambda t: client.tag_resource(resourceArn=arn, tags=[{"key": k, "value": v} for k, v in t.items()]),
            lambda k: client.untag_resource(resourceArn=arn, tagKeys=k),
        )  # fmt: skip

    def delete(self, resource: Resource) -> None:
        call(resource, "stepfunctions", "delete_state_machine", stateMachineArn=resource.physical_id)

    def attribute(self, resource: Resource, name: str) -> Any:
        if name == "StateMachineRevisionId":
            described = resource.aws("stepfunctions").describe_state_machine(stateMachineArn=resource.physical_id)
            return described.get("revisionId") or "INITIAL"
        return {"Arn": resource.physical_id, "Name": resource.physical_id.rpartition(":")[2]}[name]


@kind("AWS::StepFunctions::StateMachineVersion")
class StateMachineVersion(ApiKind):
    """A published version of a state machine."""

    def create(self, resource: Resource) -> None:
        properties = resource.properties
        revision = properties.get("StateMachineRevisionId")
        made = call(
            resource, "stepfunctions", "publish_state_machine_version", stateMachineArn=properties["StateMachineArn"],
            revisionId=None if revision == "INITIAL" else revision, description=properties.get("Description"),
        )  # fmt: skip
        resource.physical_id = made["stateMachineVersionArn"]

    def delete(self, resource: Resource) -> None:
        call(resource, "stepfunctions", "delete_state_machine_version", stateMachineVersionArn=resource.physical_id)

    def attribute(self, resource: Resource, name: str) -> Any:
        return {"Arn": resource.physical_id}[name]


@kind("AWS::StepFunctions::StateMachineAlias")
class StateMachineAlias(ApiKind):
    """A name for a version of a state machine; a gradual shift is made at once here."""

    @staticmethod
    def _routing(resource: Resource) -> list[dict[str, Any]]:
        properties = resource.properties
        if preference := properties.get("DeploymentPreference"):
            return [{"stateMachineVersionArn": preference["StateMachineVersionArn"], "weight": 100}]
        return [
            {"stateMachineVersionArn": route["StateMachineVersionArn"], "weight": route["Weight"]}
            for route in properties["RoutingConfiguration"]
        ]

    def create(self, resource: Resource) -> None:
        properties = resource.properties
        made = call(
            resource, "stepfunctions", "create_state_machine_alias", name=properties.get("Name") or resource.name(80),
            description=properties.get("Description"), routingConfiguration=self._routing(resource),
        )  # fmt: skip
        resource.physical_id = made["stateMachineAliasArn"]

    def update(self, resource: Resource, old: dict[str, Any]) -> None:
        call(
            resource, "stepfunctions", "update_state_machine_alias", stateMachineAliasArn=resource.physical_id,
            description=resource.properties.get("Description"), routingConfiguration=self._routing(resource),
        )  # fmt: skip

    def delete(self, resource: Resource) -> None:
        call(resource, "stepfunctions", "delete_state_machine_alias", stateMachineAliasArn=resource.physical_id)

    def attribute(self, resource: Resource, name: str) -> Any:
        return {"Arn": resource.physical_id}[name]


# --- IAM --------------------------------------------------------------------------------------------------------------
@kind("AWS::IAM::Role")
class Role(ApiKind):
    """A role with its policies."""

    attributes = {"Arn": "Arn", "RoleId": "RoleId"}  # noqa: RUF012

    def create(self, resource: Resource) -> None:
        properties, tags = resource.properties, resource.properties.get("Tags")
        made = call(
            resource, "iam", "create_role", RoleName=properties.get("RoleName") or resource.name(64), Tags=tags,
            Path=properties.get("Path"), Description=properties.get("Description"),
            AssumeRolePolicyDocument=properties["AssumeRolePolicyDocument"],
            MaxSessionDuration=properties.get("MaxSessionDuration"),
            PermissionsBoundary=properties.get("PermissionsBoundary"),
        )  # fmt: skip
        resource.model, resource.physical_id = made["Role"], made["Role"]["RoleName"]
        self._policies(resource, {})

    def _policies(self, resource: Resource, old: dict[str, Any]) -> None:
        client, name = resource.aws("iam"), resource.physical_id
        before = {policy["PolicyName"]: policy["PolicyDocument"] for policy in old.get("Policies") or []}
        after = {policy["PolicyName"]: policy["PolicyDocument"] for policy in resource.properties.get("Policies") or []}
        for policy in before.keys() - after.keys():
            client.delete_role_policy(RoleName=name, PolicyName=policy)
        for policy, document in after.items():
            client.put_role_policy(RoleName=name, PolicyName=policy, PolicyDocument=json.dumps(document))
        attached, wanted = (
            set(old.get("ManagedPolicyArns") or []),
            set(resource.properties.get("ManagedPolicyArns") or []),
        )
        for arn in attached - wanted:
            client.detach_role_policy(RoleName=name, PolicyArn=arn)
        for arn in sorted(wanted - attached):
            client.attach_role_policy(RoleName=name, PolicyArn=arn)

    def update(self, resource: Resource, old: dict[str, Any]) -> None:
        client, name, properties = resource.aws("iam"), resource.physical_id, resource.properties
        changed = changed_properties(old, properties)
        if "AssumeRolePolicyDocument" in changed:
            document = json.dumps(properties["AssumeRolePolicyDocument"])
            client.update_assume_role_policy(RoleName=name, PolicyDocument=document)
        if changed & {"Description", "MaxSessionDuration"}:
            call(
                resource, "iam", "update_role", RoleName=name, Description=properties.get("Description", ""),
                MaxSessionDuration=properties.get("MaxSessionDuration", 3600),
            )  # fmt: skip
        if "PermissionsBoundary" in changed:
            if "PermissionsBoundary" in properties:
                client.put_role_permissions_boundary(
                    RoleName=name, PermissionsBoundary=properties["PermissionsBoundary"]
                )
            else:
                client.delete_role_permissions_boundary(RoleName=name)
        self._policies(resource, old)
        set_tags(
            resource,
            old,
            lambda t: client.tag_role(RoleName=name, Tags=pairs(t)),
            lambda k: client.untag_role(RoleName=name, TagKeys=k),
        )

    def delete(self, resource: Resource) -> None:
        client, name = resource.aws("iam"), resource.physical_id
        for policy in resource.properties.get("Policies") or []:
            with contextlib.suppress(client.exceptions.NoSuchEntityException):
                client.delete_role_policy(RoleName=name, PolicyName=policy["PolicyName"])
        for arn in resource.properties.get("ManagedPolicyArns") or []:
            with contextlib.suppress(client.exceptions.NoSuchEntityException):
                client.detach_role_policy(RoleName=name, PolicyArn=arn)
        client.delete_role(RoleName=name)


@kind("AWS::IAM::Policy")
@kind("AWS::IAM::RolePolicy")
class InlinePolicy(ApiKind):
    """An inline policy of roles, users and groups."""

    @staticmethod
    def _holders(properties: dict[str, Any]) -> set[tuple[str, str]]:
        named = [("role", properties["RoleName"])] if "RoleName" in properties else []
        for what in ("role", "user", "group"):
            named += [(what, name) for name in properties.get(f"{what.title()}s") or []]
        return set(named)

    def _put(self, resource: Resource) -> None:
        properties = resource.properties
        for what, name in sorted(self._holders(properties)):
            call(
                resource, "iam", f"put_{what}_policy", PolicyName=properties["PolicyName"],
                PolicyDocument=properties["PolicyDocument"], **{f"{what.title()}Name": name},
            )  # fmt: skip

    def create(self, resource: Resource) -> None:
        self._put(resource)
        resource.physical_id = resource.name(128)

    def update(self, resource: Resource, old: dict[str, Any]) -> None:
        self._put(resource)
        renamed = old["PolicyName"] != resource.properties["PolicyName"]
        for what, name in self._holders(old) - (set() if renamed else self._holders(resource.properties)):
            call(
                resource, "iam", f"delete_{what}_policy", PolicyName=old["PolicyName"], **{f"{what.title()}Name": name}
            )

    def delete(self, resource: Resource) -> None:
        for what, name in self._holders(resource.properties):
            with contextlib.suppress(resource.aws("iam").exceptions.NoSuchEntityException):
                call(
                    resource,
                    "iam",
                    f"delete_{what}_policy",
                    PolicyName=resource.properties["PolicyName"],
                    **{f"{what.title()}Name": name},
                )

    def attribute(self, resource: Resource, name: str) -> Any:
        return {"Id": resource.physical_id}[name]


@kind("AWS::IAM::ManagedPolicy")
class ManagedPolicy(ApiKind):
    """A managed policy, with those that it is attached to."""

    attributes = {"PolicyArn": "Arn", "PolicyId": "PolicyId"}  # noqa: RUF012

    @staticmethod
    def _holders(properties: dict[str, Any]) -> set[tuple[str, str]]:
        return {(what, name) for what in ("role", "user", "group") for name in properties.get(f"{what.title()}s") or []}

    def _attach(self, resource: Resource, holders: set[tuple[str, str]], verb: str) -> None:
        for what, name in sorted(holders):
            call(
                resource,
                "iam",
                f"{verb}_{what}_policy",
                PolicyArn=resource.physical_id,
                **{f"{what.title()}Name": name},
            )

    def create(self, resource: Resource) -> None:
        properties = resource.properties
        made = call(
            resource, "iam", "create_policy", PolicyName=properties.get("ManagedPolicyName") or resource.name(128),
            Path=properties.get("Path"), Description=properties.get("Description"), Tags=properties.get("Tags"),
            PolicyDocument=properties["PolicyDocument"],
        )  # fmt: skip
        resource.model, resource.physical_id = made["Policy"], made["Policy"]["Arn"]
        self._attach(resource, self._holders(properties), "attach")

    def update(self, resource: Resource, old: dict[str, Any]) -> None:
        client, arn = resource.aws("iam"), resource.physical_id
        if "PolicyDocument" in changed_properties(old, resource.properties):
            for version in client.list_policy_versions(PolicyArn=arn)["Versions"]:
                if not version["IsDefaultVersion"]:
                    client.delete_policy_version(PolicyArn=arn, VersionId=version["VersionId"])
            call(
                resource,
                "iam",
                "create_policy_version",
                PolicyArn=arn,
                PolicyDocument=resource.properties["PolicyDocument"],
                SetAsDefault=True,
            )
        before, after = self._holders(old), self._holders(resource.properties)
        self._attach(resource, after - before, "attach")
        self._attach(resource, before - after, "detach")

    def delete(self, resource: Resource) -> None:
        with contextlib.suppress(ClientError):
            self._attach(resource, self._holders(resource.properties), "detach")
        client = resource.aws("iam")
        for version in client.list_policy_versions(PolicyArn=resource.physical_id)["Versions"]:
            if not version["IsDefaultVersion"]:
                client.delete_policy_version(PolicyArn=resource.physical_id, VersionId=version["VersionId"])
        client.delete_policy(PolicyArn=resource.physical_id)


@kind("AWS::IAM::OIDCProvider")
class OidcProvider(ApiKind):
    """An OpenID Connect provider."""

    def create(self, resource: Resource) -> None:
        properties = resource.properties
        made = call(
            resource, "iam", "create_open_id_connect_provider", Url=properties["Url"], Tags=properties.get("Tags"),
            ClientIDList=properties.get("ClientIdList"), ThumbprintList=properties.get("ThumbprintList"),
        )  # fmt: skip
        resource.physical_id = made["OpenIDConnectProviderArn"]

    def update(self, resource: Resource, old: dict[str, Any]) -> None:
        client, arn = resource.aws("iam"), resource.physical_id
        before, after = set(old.get("ClientIdList") or []), set(resource.properties.get("ClientIdList") or [])
        for name in after - before:
            client.add_client_id_to_open_id_connect_provider(OpenIDConnectProviderArn=arn, ClientID=name)
        for name in before - after:
            client.remove_client_id_from_open_id_connect_provider(OpenIDConnectProviderArn=arn, ClientID=name)
        if "ThumbprintList" in changed_properties(old, resource.properties):
            thumbprints = resource.properties.get("ThumbprintList") or []
            client.update_open_id_connect_provider_thumbprint(OpenIDConnectProviderArn=arn, ThumbprintList=thumbprints)

    def delete(self, resource: Resource) -> None:
        call(resource, "iam", "delete_open_id_connect_provider", OpenIDConnectProviderArn=resource.physical_id)

    def attribute(self, resource: Resource, name: str) -> Any:
        return {"Arn": resource.physical_id}[name]


# --- Secrets, logs, alarms --------------------------------------------------------------------------------------------
@kind("AWS::SecretsManager::Secret")
class Secret(ApiKind):
    """A secret, with a generated value where the template asks for one."""

    @staticmethod
    def _value(properties: dict[str, Any]) -> str | None:
        wanted = properties.get("GenerateSecretString")
        if wanted is None:
            return properties.get("SecretString")
        letters = string.ascii_letters + ("" if wanted.get("ExcludeNumbers") else string.digits)
        letters += "" if wanted.get("ExcludePunctuation") else string.punctuation
        letters = "".join(letter for letter in letters if letter not in wanted.get("ExcludeCharacters", ""))
        value = "".join(secrets.choice(letters) for _ in range(int(wanted.get("PasswordLength", 32))))
        if "GenerateStringKey" in wanted:
            return json.dumps(
                json.loads(wanted.get("SecretStringTemplate", "{}")) | {wanted["GenerateStringKey"]: value}
            )
        return value

    def create(self, resource: Resource) -> None:
        properties = resource.properties
        made = call(
            resource, "secretsmanager", "create_secret", Name=properties.get("Name") or resource.name(),
            SecretString=self._value(properties),
            Description=properties.get("Description"), KmsKeyId=properties.get("KmsKeyId"), Tags=properties.get("Tags"),
        )  # fmt: skip
        resource.physical_id = made["ARN"]

    def update(self, resource: Resource, old: dict[str, Any]) -> None:
        properties, client = resource.properties, resource.aws("secretsmanager")
        changed = changed_properties(old, properties)
        if changed - {"Tags"}:
            value = self._value(properties) if changed & {"SecretString", "GenerateSecretString"} else None
            call(
                resource, "secretsmanager", "update_secret", SecretId=resource.physical_id, SecretString=value,
                Description=properties.get("Description", ""), KmsKeyId=properties.get("KmsKeyId"),
            )  # fmt: skip
        arn = resource.physical_id
        set_tags(
            resource,
            old,
            lambda t: client.tag_resource(SecretId=arn, Tags=pairs(t)),
            lambda k: client.untag_resource(SecretId=arn, TagKeys=k),
        )

    def delete(self, resource: Resource) -> None:
        call(
            resource, "secretsmanager", "delete_secret", SecretId=resource.physical_id, ForceDeleteWithoutRecovery=True
        )

    def attribute(self, resource: Resource, name: str) -> Any:
        return {"Id": resource.physical_id}[name]


@kind("AWS::Logs::LogGroup")
class LogGroup(ApiKind):
    """A log group."""

    def create(self, resource: Resource) -> None:
        properties = resource.properties
        name = properties.get("LogGroupName") or resource.name(512)
        call(
            resource,
            "logs",
            "create_log_group",
            logGroupName=name,
            kmsKeyId=properties.get("KmsKeyId"),
            tags=tag_map(properties) or None,
        )
        resource.physical_id = name
        self._retain(resource)

    @staticmethod
    def _retain(resource: Resource) -> None:
        days = resource.properties.get("RetentionInDays")
        if days is not None:
            call(resource, "logs", "put_retention_policy", logGroupName=resource.physical_id, retentionInDays=days)

    def update(self, resource: Resource, old: dict[str, Any]) -> None:
        if "RetentionInDays" in resource.properties:
            self._retain(resource)
        elif "RetentionInDays" in old:
            call(resource, "logs", "delete_retention_policy", logGroupName=resource.physical_id)
        client, name = resource.aws("logs"), resource.physical_id
        set_tags(
            resource,
            old,
            lambda t: client.tag_log_group(logGroupName=name, tags=t),
            lambda k: client.untag_log_group(logGroupName=name, tags=k),
        )

    def delete(self, resource: Resource) -> None:
        call(resource, "logs", "delete_log_group", logGroupName=resource.physical_id)

    def attribute(self, resource: Resource, name: str) -> Any:
        machine = resource.stack.engine.machine
        return {"Arn": f"arn:aws:logs:{machine.region}:{machine.account_id}:log-group:{resource.physical_id}:*"}[name]


@kind("AWS::Logs::MetricFilter")
class MetricFilter(ApiKind):
    """A metric made of log lines."""

    def create(self, resource: Resource) -> None:
        resource.physical_id = resource.properties.get("FilterName") or resource.name(512)
        self.update(resource, {})

    def update(self, resource: Resource, old: dict[str, Any]) -> None:
        properties = resource.properties
        transformations = [
            {key[0].lower() + key[1:]: value for key, value in item.items() if key != "Dimensions"}
            | ({"dimensions": {d["Key"]: d["Value"] for d in item["Dimensions"]}} if "Dimensions" in item else {})
            for item in properties["MetricTransformations"]
        ]
        call(
            resource, "logs", "put_metric_filter", filterName=resource.physical_id,
            logGroupName=properties["LogGroupName"], filterPattern=properties["FilterPattern"],
            metricTransformations=transformations,
        )  # fmt: skip

    def delete(self, resource: Resource) -> None:
        group = resource.properties["LogGroupName"]
        call(resource, "logs", "delete_metric_filter", logGroupName=group, filterName=resource.physical_id)


@kind("AWS::Logs::ResourcePolicy")
class LogsPolicy(ApiKind):
    """Which services may write logs."""

    def create(self, resource: Resource) -> None:
        resource.physical_id = resource.properties["PolicyName"]
        self.update(resource, {})

    def update(self, resource: Resource, old: dict[str, Any]) -> None:
        document = resource.properties["PolicyDocument"]
        call(resource, "logs", "put_resource_policy", policyName=resource.physical_id, policyDocument=document)

    def delete(self, resource: Resource) -> None:
        call(resource, "logs", "delete_resource_policy", policyName=resource.physical_id)


@kind("AWS::CloudWatch::Alarm")
class Alarm(ApiKind):
    """An alarm on a metric."""

    def create(self, resource: Resource) -> None:
        resource.physical_id = resource.properties.get("AlarmName") or resource.name()
        self.update(resource, {})

    def update(self, resource: Resource, old: dict[str, Any]) -> None:
        properties = without(resource.properties, "AlarmName", "Tags")
        call(
            resource,
            "cloudwatch",
            "put_metric_alarm",
            AlarmName=resource.physical_id,
            Tags=resource.properties.get("Tags"),
            **properties,
        )

    def delete(self, resource: Resource) -> None:
        call(resource, "cloudwatch", "delete_alarms", AlarmNames=[resource.physical_id])

    def attribute(self, resource: Resource, name: str) -> Any:
        machine = resource.stack.engine.machine
        return {"Arn": f"arn:aws:cloudwatch:{machine.region}:{machine.account_id}:alarm:{resource.physical_id}"}[name]


# --- Events, topics, queues -------------------------------------------------------------------------------------------
@kind("AWS::Events::Rule")
class Rule(ApiKind):
    """A rule with its targets."""

    def create(self, resource: Resource) -> None:
        resource.physical_id = resource.properties.get("Name") or resource.name(64)
        self.update(resource, {})

    def update(self, resource: Resource, old: dict[str, Any]) -> None:
        properties, bus = resource.properties, resource.properties.get("EventBusName")
        made = call(
            resource, "events", "put_rule", Name=resource.physical_id, Tags=properties.get("Tags") if not old else None,
            **without(properties, "Name", "Targets", "Tags"),
        )  # fmt: skip
        resource.model = made
        after, before = properties.get("Targets") or [], {target["Id"] for target in old.get("Targets") or []}
        if gone := sorted(before - {target["Id"] for target in after}):
            call(resource, "events", "remove_targets", Rule=resource.physical_id, EventBusName=bus, Ids=gone)
        if after:
            answer = call(resource, "events", "put_targets", Rule=resource.physical_id, EventBusName=bus, Targets=after)
            if answer["FailedEntryCount"]:
                raise invalid(f"PutTargets failed: {answer['FailedEntries']}")

    def delete(self, resource: Resource) -> None:
        bus = resource.properties.get("EventBusName")
        if targets := [target["Id"] for target in resource.properties.get("Targets") or []]:
            call(resource, "events", "remove_targets", Rule=resource.physical_id, EventBusName=bus, Ids=targets)
        call(resource, "events", "delete_rule", Name=resource.physical_id, EventBusName=bus)

    attributes = {"Arn": "RuleArn"}  # noqa: RUF012


@kind("AWS::Events::EventBusPolicy")
class EventBusPolicy(ApiKind):
    """A statement of an event bus's policy."""

    def create(self, resource: Resource) -> None:
        resource.physical_id = resource.name(64)
        self.update(resource, {})

    def update(self, resource: Resource, old: dict[str, Any]) -> None:
        properties, client = resource.properties, resource.aws("events")
        bus = properties.get("EventBusName", "default")
        name = {"EventBusName": bus}
        statement = properties.get("Statement")
        if statement is None:
            call(
                resource,
                "events",
                "put_permission",
                StatementId=properties["StatementId"],
                **name,
                **without(properties, "StatementId", "EventBusName"),
            )
            return
        described = client.describe_event_bus(Name=bus)
        policy = json.loads(described.get("Policy") or '{"Version": "2012-10-17", "Statement": []}')
        kept = [own for own in policy["Statement"] if own.get("Sid") != properties["StatementId"]]
        policy["Statement"] = [*kept, statement | {"Sid": properties["StatementId"]}]
        call(resource, "events", "put_permission", Policy=json.dumps(policy), **name)

    def delete(self, resource: Resource) -> None:
        bus = resource.properties.get("EventBusName", "default")
        call(resource, "events", "remove_permission", StatementId=resource.properties["StatementId"], EventBusName=bus)


@kind("AWS::SNS::Topic")
class Topic(ApiKind):
    """A topic with its subscriptions."""

    plain = (
        "DisplayName", "KmsMasterKeyId", "SignatureVersion", "TracingConfig", "FifoTopic", "ContentBasedDeduplication",
        "DataProtectionPolicy",
    )  # fmt: skip

    def create(self, resource: Resource) -> None:
        properties = resource.properties
        attributes = {key: text_of(properties[key]) for key in self.plain if key in properties}
        made = call(
            resource, "sns", "create_topic", Name=properties.get("TopicName") or resource.name(), Attributes=attributes,
            Tags=properties.get("Tags"),
        )  # fmt: skip
        resource.physical_id = made["TopicArn"]
        self._subscribe(resource, [])

    def _subscribe(self, resource: Resource, old: list[dict[str, Any]]) -> None:
        client, arn = resource.aws("sns"), resource.physical_id
        wanted = resource.properties.get("Subscription") or []
        for subscription in client.list_subscriptions_by_topic(TopicArn=arn)["Subscriptions"]:
            pair = {"Protocol": subscription["Protocol"], "Endpoint": subscription["Endpoint"]}
            if pair in old and pair not in wanted:
                client.unsubscribe(SubscriptionArn=subscription["SubscriptionArn"])
        for pair in wanted:
            if pair not in old:
                client.subscribe(TopicArn=arn, **pair)

    def update(self, resource: Resource, old: dict[str, Any]) -> None:
        client, arn = resource.aws("sns"), resource.physical_id
        for name in changed_properties(old, resource.properties) & set(self.plain):
            value = text_of(resource.properties.get(name, ""))
            client.set_topic_attributes(TopicArn=arn, AttributeName=name, AttributeValue=value)
        self._subscribe(resource, old.get("Subscription") or [])
        set_tags(
            resource,
            old,
            lambda t: client.tag_resource(ResourceArn=arn, Tags=pairs(t)),
            lambda k: client.untag_resource(ResourceArn=arn, TagKeys=k),
        )

    def delete(self, resource: Resource) -> None:
        call(resource, "sns", "delete_topic", TopicArn=resource.physical_id)

    def attribute(self, resource: Resource, name: str) -> Any:
        return {"TopicArn": resource.physical_id, "TopicName": resource.physical_id.rpartition(":")[2]}[name]


@kind("AWS::SNS::Subscription")
class Subscription(ApiKind):
    """A subscription to a topic."""

    plain = ("FilterPolicy", "FilterPolicyScope", "RawMessageDelivery", "RedrivePolicy", "DeliveryPolicy")

    def create(self, resource: Resource) -> None:
        properties = resource.properties
        attributes = {
            k: json.dumps(v) if isinstance(v, dict) else text_of(v) for k, v in properties.items() if k in self.plain
        }
        made = call(
            resource, "sns", "subscribe", TopicArn=properties["TopicArn"], Protocol=properties["Protocol"],
            Endpoint=properties.get("Endpoint"), Attributes=attributes or None, ReturnSubscriptionArn=True,
        )  # fmt: skip
        resource.physical_id = made["SubscriptionArn"]

    def update(self, resource: Resource, old: dict[str, Any]) -> None:
        for name in changed_properties(old, resource.properties) & set(self.plain):
            value = resource.properties.get(name, {} if name.endswith("Policy") else False)
            text = json.dumps(value) if isinstance(value, dict) else text_of(value)
            arn = resource.physical_id
            call(
                resource,
                "sns",
                "set_subscription_attributes",
                SubscriptionArn=arn,
                AttributeName=name,
                AttributeValue=text,
            )

    def delete(self, resource: Resource) -> None:
        call(resource, "sns", "unsubscribe", SubscriptionArn=resource.physical_id)

    def attribute(self, resource: Resource, name: str) -> Any:
        return {"Arn": resource.physical_id}[name]


@kind("AWS::SNS::TopicPolicy")
class TopicPolicy(ApiKind):
    """The policy of topics."""

    def create(self, resource: Resource) -> None:
        self.update(resource, {})
        resource.physical_id = resource.name()

    def update(self, resource: Resource, old: dict[str, Any]) -> None:
        document = json.dumps(resource.properties["PolicyDocument"])
        for arn in resource.properties["Topics"]:
            call(resource, "sns", "set_topic_attributes", TopicArn=arn, AttributeName="Policy", AttributeValue=document)

    def delete(self, resource: Resource) -> None:
        for arn in resource.properties["Topics"]:
            with contextlib.suppress(ClientError):  # the topic may be gone
                owner = {"Effect": "Allow", "Principal": {"AWS": arn.split(":")[4]}, "Action": "sns:*", "Resource": arn}
                policy = json.dumps({"Version": "2008-10-17", "Statement": [owner]})
                resource.aws("sns").set_topic_attributes(TopicArn=arn, AttributeName="Policy", AttributeValue=policy)

    def attribute(self, resource: Resource, name: str) -> Any:
        return {"Id": resource.physical_id}[name]


@kind("AWS::SQS::Queue")
class Queue(ApiKind):
    """A queue; its Ref is its URL."""

    @staticmethod
    def _attributes(properties: dict[str, Any]) -> dict[str, str]:
        plain = without(properties, "QueueName", "Tags")
        return {key: json.dumps(value) if isinstance(value, dict) else text_of(value) for key, value in plain.items()}

    def create(self, resource: Resource) -> None:
        properties = resource.properties
        fifo = text_of(properties.get("FifoQueue", False)) == "true"
        name = properties.get("QueueName") or resource.name(75) + (".fifo" if fifo else "")
        attributes = self._attributes(properties)
        if not fifo:
            attributes.pop("FifoQueue", None)
        made = call(
            resource, "sqs", "create_queue", QueueName=name, Attributes=attributes, tags=tag_map(properties) or None
        )
        resource.physical_id = made["QueueUrl"]

    def update(self, resource: Resource, old: dict[str, Any]) -> None:
        client, url = resource.aws("sqs"), resource.physical_id
        changed = {
            k: v
            for k, v in self._attributes(resource.properties).items()
            if k in changed_properties(old, resource.properties)
        }
        if changed:
            client.set_queue_attributes(QueueUrl=url, Attributes=changed)
        set_tags(
            resource,
            old,
            lambda t: client.tag_queue(QueueUrl=url, Tags=t),
            lambda k: client.untag_queue(QueueUrl=url, TagKeys=k),
        )

    def delete(self, resource: Resource) -> None:
        call(resource, "sqs", "delete_queue", QueueUrl=resource.physical_id)

    def attribute(self, resource: Resource, name: str) -> Any:
        machine, short = resource.stack.engine.machine, resource.physical_id.rpartition("/")[2]
        arn = f"arn:aws:sqs:{machine.region}:{machine.account_id}:{short}"
        return {"Arn": arn, "QueueName": short, "QueueUrl": resource.physical_id}[name]


@kind("AWS::SQS::QueuePolicy")
class QueuePolicy(ApiKind):
    """The policy of queues."""

    def create(self, resource: Resource) -> None:
        self.update(resource, {})
        resource.physical_id = resource.name()

    def update(self, resource: Resource, old: dict[str, Any]) -> None:
        document = json.dumps(resource.properties["PolicyDocument"])
        for url in resource.properties["Queues"]:
            call(resource, "sqs", "set_queue_attributes", QueueUrl=url, Attributes={"Policy": document})

    def delete(self, resource: Resource) -> None:
        for url in resource.properties["Queues"]:
            with contextlib.suppress(ClientError):  # the queue may be gone
                resource.aws("sqs").set_queue_attributes(QueueUrl=url, Attributes={"Policy": ""})

    def attribute(self, resource: Resource, name: str) -> Any:
        return {"Id": resource.physical_id}[name]


# --- Data -------------------------------------------------------------------------------------------------------------
@kind("AWS::DynamoDB::Table")
class Table(ApiKind):
    """A table. What other operations set (time to live, recovery) follows its creation."""

    attributes = {"Arn": "TableArn", "StreamArn": "LatestStreamArn"}  # noqa: RUF012
    later = ("TimeToLiveSpecification", "PointInTimeRecoverySpecification", "ContributorInsightsSpecification",
             "KinesisStreamSpecification", "ResourcePolicy")  # fmt: skip

    @staticmethod
    def _specified(properties: dict[str, Any]) -> dict[str, Any]:
        changed = dict(properties)
        if encryption := changed.pop("SSESpecification", None):
            changed["SSESpecification"] = {("Enabled" if k == "SSEEnabled" else k): v for k, v in encryption.items()}
        if stream := changed.pop("StreamSpecification", None):
            changed["StreamSpecification"] = {"StreamEnabled": True} | without(stream, "ResourcePolicy")
        return changed

    def create(self, resource: Resource) -> None:
        properties = self._specified(without(resource.properties, "TableName", *self.later))
        name = resource.properties.get("TableName") or resource.name()
        made = call(
            resource, "dynamodb", "create_table", TableName=name, **({"BillingMode": "PROVISIONED"} | properties)
        )
        resource.model, resource.physical_id = made["TableDescription"], name
        self._settle(resource, {})

    def _settle(self, resource: Resource, old: dict[str, Any]) -> None:
        name, properties = resource.physical_id, resource.properties
        changed = changed_properties(old, properties)
        if "TimeToLiveSpecification" in changed:
            wanted = properties.get("TimeToLiveSpecification") or {**old["TimeToLiveSpecification"], "Enabled": False}
            call(resource, "dynamodb", "update_time_to_live", TableName=name, TimeToLiveSpecification=wanted)
        if "PointInTimeRecoverySpecification" in changed:
            wanted = properties.get("PointInTimeRecoverySpecification") or {"PointInTimeRecoveryEnabled": False}
            call(
                resource,
                "dynamodb",
                "update_continuous_backups",
                TableName=name,
                PointInTimeRecoverySpecification=wanted,
            )

    def update(self, resource: Resource, old: dict[str, Any]) -> None:
        changed = changed_properties(old, resource.properties)
        if changed & {"KeySchema", "LocalSecondaryIndexes"}:
            raise invalid(
                "CloudFormation cannot update a stack when a custom-named resource requires replacing. "
                "Rename the table and update the stack again."
            )
        direct = changed - {*self.later, "Tags", "AttributeDefinitions", "GlobalSecondaryIndexes"}
        if direct:
            defaults = {"DeletionProtectionEnabled": False, "BillingMode": "PROVISIONED", "TableClass": "STANDARD"}
            values = self._specified({key: resource.properties.get(key, defaults.get(key)) for key in direct})
            call(resource, "dynamodb", "update_table", TableName=resource.physical_id, **values)
        if "GlobalSecondaryIndexes" in changed:
            self._index(resource, old)
        self._settle(resource, old)
        client, arn = resource.aws("dynamodb"), resource.model["TableArn"]
        set_tags(
            resource,
            old,
            lambda t: client.tag_resource(ResourceArn=arn, Tags=pairs(t)),
            lambda k: client.untag_resource(ResourceArn=arn, TagKeys=k),
        )

    @staticmethod
    def _index(resource: Resource, old: dict[str, Any]) -> None:
        before = {index["IndexName"]: index for index in old.get("GlobalSecondaryIndexes") or []}
        after = {index["IndexName"]: index for index in resource.properties.get("GlobalSecondaryIndexes") or []}
        steps = [{"Delete": {"IndexName": name}} for name in before.keys() - after.keys()]
        steps += [{"Create": index} for name, index in after.items() if name not in before]
        for step in steps:
            call(
                resource, "dynamodb", "update_table", TableName=resource.physical_id,
                GlobalSecondaryIndexUpdates=[step], AttributeDefinitions=resource.properties["AttributeDefinitions"],
            )  # fmt: skip

    def delete(self, resource: Resource) -> None:
        call(resource, "dynamodb", "delete_table", TableName=resource.physical_id)


@kind("AWS::ECR::Repository")
class EcrRepository(ApiKind):
    """An image repository."""

    attributes = {"Arn": "repositoryArn", "RepositoryUri": "repositoryUri"}  # noqa: RUF012

    @staticmethod
    def _camel(value: Any) -> Any:
        if isinstance(value, dict):
            return {key[0].lower() + key[1:]: EcrRepository._camel(item) for key, item in value.items()}
        return [EcrRepository._camel(item) for item in value] if isinstance(value, list) else value

    def create(self, resource: Resource) -> None:
        properties = resource.properties
        made = call(
            resource, "ecr", "create_repository",
            repositoryName=properties.get("RepositoryName") or resource.name(lower=True), tags=properties.get("Tags"),
            imageTagMutability=properties.get("ImageTagMutability"),
            imageScanningConfiguration=self._camel(properties.get("ImageScanningConfiguration")),
            encryptionConfiguration=self._camel(properties.get("EncryptionConfiguration")),
            imageTagMutabilityExclusionFilters=self._filters(properties),
        )  # fmt: skip
        resource.model, resource.physical_id = made["repository"], made["repository"]["repositoryName"]
        self._policies(resource, {})

    @staticmethod
    def _filters(properties: dict[str, Any]) -> list[dict[str, str]] | None:
        filters = properties.get("ImageTagMutabilityExclusionFilters")
        return filters and [
            {
                "filterType": f["ImageTagMutabilityExclusionFilterType"],
                "filter": f["ImageTagMutabilityExclusionFilterValue"],
            }
            for f in filters
        ]

    def _policies(self, resource: Resource, old: dict[str, Any]) -> None:
        properties, name = resource.properties, resource.physical_id
        changed = changed_properties(old, properties)
        if "LifecyclePolicy" in changed:
            text = (properties.get("LifecyclePolicy") or {}).get("LifecyclePolicyText")
            if text:
                call(resource, "ecr", "put_lifecycle_policy", repositoryName=name, lifecyclePolicyText=text)
            else:
                call(resource, "ecr", "delete_lifecycle_policy", repositoryName=name)
        if "RepositoryPolicyText" in changed:
            if "RepositoryPolicyText" in properties:
                call(
                    resource,
                    "ecr",
                    "set_repository_policy",
                    repositoryName=name,
                    policyText=properties["RepositoryPolicyText"],
                )
            else:
                call(resource, "ecr", "delete_repository_policy", repositoryName=name)

    def update(self, resource: Resource, old: dict[str, Any]) -> None:
        properties, name = resource.properties, resource.physical_id
        changed = changed_properties(old, properties)
        if changed & {"ImageTagMutability", "ImageTagMutabilityExclusionFilters"}:
            call(
                resource, "ecr", "put_image_tag_mutability", repositoryName=name,
                imageTagMutability=properties.get("ImageTagMutability", "MUTABLE"),
                imageTagMutabilityExclusionFilters=self._filters(properties),
            )  # fmt: skip
        if "ImageScanningConfiguration" in changed:
            wanted = self._camel(properties.get("ImageScanningConfiguration") or {"ScanOnPush": False})
            call(
                resource,
                "ecr",
                "put_image_scanning_configuration",
                repositoryName=name,
                imageScanningConfiguration=wanted,
            )
        self._policies(resource, old)
        client, arn = resource.aws("ecr"), resource.model["repositoryArn"]
        set_tags(
            resource,
            old,
            lambda t: client.tag_resource(resourceArn=arn, tags=pairs(t)),
            lambda k: client.untag_resource(resourceArn=arn, tagKeys=k),
        )

    def delete(self, resource: Resource) -> None:
        force = text_of(resource.properties.get("EmptyOnDelete", False)) == "true"
        call(resource, "ecr", "delete_repository", repositoryName=resource.physical_id, force=force)


@kind("AWS::S3::BucketPolicy")
class BucketPolicy(ApiKind):
    """The policy of a bucket."""

    def create(self, resource: Resource) -> None:
        resource.physical_id = resource.properties["Bucket"]
        self.update(resource, {})

    def update(self, resource: Resource, old: dict[str, Any]) -> None:
        call(
            resource,
            "s3",
            "put_bucket_policy",
            Bucket=resource.physical_id,
            Policy=resource.properties["PolicyDocument"],
        )

    def delete(self, resource: Resource) -> None:
        call(resource, "s3", "delete_bucket_policy", Bucket=resource.physical_id)

"""Templates: reading, transforming and checking them, and the values that their functions give."""

import base64
import copy
import ipaddress
import json
import re
from collections.abc import Callable, Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml
from moto.cloudformation.exceptions import ValidationError

SAM = "AWS::Serverless-2016-10-31"
NO_VALUE = object()
INTRINSICS = re.compile(r"Fn::\w+(::\w+)?$")
SUB = re.compile(r"\$\{([^}]*)\}")


def invalid(message: str) -> ValidationError:
    """CloudFormation's ValidationError with this message."""
    return ValidationError(message=message)


# --- Reading ----------------------------------------------------------------------------------------------------------
class _Loader(yaml.SafeLoader):
    """YAML as CloudFormation reads it: short forms of functions, and dates stay text."""


_Loader.yaml_implicit_resolvers = {
    letter: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for letter, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _short_form(loader: Any, name: str, node: yaml.Node) -> dict[str, Any]:
    if isinstance(node, yaml.ScalarNode):
        value: Any = loader.construct_scalar(node)
        if name == "GetAtt":
            value = value.split(".", 1)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        value = loader.construct_mapping(node, deep=True)
    return {name if name in ("Ref", "Condition") else f"Fn::{name}": value}


_Loader.add_multi_constructor("!", _short_form)


def read(body: str) -> dict[str, Any]:
    """Return the template in `body`, JSON or YAML. Raises ValidationError as AWS words it."""
    try:
        template = json.loads(body)
    except ValueError:
        try:
            template = yaml.load(body, _Loader)  # noqa: S506 - a SafeLoader
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            where = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
            raise invalid(f"Template format error: YAML not well-formed.{where}") from error
    if not isinstance(template, dict):
        raise invalid("Template format error: unsupported structure.")
    if not template.get("Resources"):
        raise invalid("Template format error: At least one Resources member must be defined.")
    return template


def transforms_of(template: dict[str, Any]) -> list[str]:
    """The names of the macros that the template asks for."""
    named = template.get("Transform") or []
    return [named] if isinstance(named, str) else list(named)


def transform(template: dict[str, Any], parameters: dict[str, Any], region: str) -> dict[str, Any]:
    """Return the template as its transforms leave it; SAM is done by AWS's own translator."""
    template = copy.deepcopy(template)
    for name in transforms_of(template):
        if name == "AWS::LanguageExtensions":
            continue  # Fn::Length and Fn::ToJsonString need no rewriting here
        if name != SAM:
            raise invalid(f"No transform named {name} found.")
    if SAM not in transforms_of(template):
        return template
    # Late, because these take half a second.
    import boto3
    from samtranslator.model.exceptions import InvalidDocumentException
    from samtranslator.parser.parser import Parser
    from samtranslator.translator.arn_generator import ArnGenerator
    from samtranslator.translator.translator import Translator
    from samtranslator.utils.py27hash_fix import to_py27_compatible_template, undo_mark_unicode_str_in_template

    # As `samtranslator.translator.transform.transform` does, but with a session: there may be no region around us.
    ArnGenerator.BOTO_SESSION_REGION_NAME = region
    del template["Transform"]
    values = dict(parameters)
    to_py27_compatible_template(template, values)
    translator = Translator(None, Parser(), boto_session=boto3.Session(region_name=region))
    try:
        translated = translator.translate(template, values, get_managed_policy_map=_managed_policies)
    except InvalidDocumentException as error:
        causes = " ".join(cause.message for cause in error.causes)
        raise invalid(f"Transform {SAM} failed with: {error.message} {causes}") from error
    plain: dict[str, Any] = undo_mark_unicode_str_in_template(translated)
    return plain


@cache
def _managed_policies() -> dict[str, str]:
    """AWS's managed policies by name, as moto knows them."""
    from moto.iam.aws_managed_policies import aws_managed_policies_data

    return {name: data["Arn"] for name, data in json.loads(aws_managed_policies_data).items()}


# --- What CloudFormation knows of each type ---------------------------------------------------------------------------
@cache
def _index(region: str) -> tuple[Path, dict[str, str]]:
    spec = find_spec("cfnlint")
    assert spec
    assert spec.origin
    folder = Path(spec.origin).parent / "data" / "schemas"
    return folder / "resources", json.loads((folder / "providers" / f"{region}.json").read_text())


@cache
def schema_of(resource_type: str, region: str) -> dict[str, Any] | None:
    """AWS's published schema of a resource type (as cfn-lint brings it), None for a type that AWS does not have."""
    folder, index = _index(region)
    name = index.get(resource_type)
    return json.loads((folder / f"{name}.json").read_text()) if name else None


def create_only(resource_type: str, region: str) -> set[str]:
    """The top-level properties whose change replaces a resource of this type."""
    schema = schema_of(resource_type, region) or {}
    paths = [*schema.get("createOnlyProperties", []), *schema.get("conditionalCreateOnlyProperties", [])]
    return {
        path.split("/")[2] for path in schema.get("createOnlyProperties", []) if path.count("/") == 2 and path in paths
    }


def check_properties(resource_type: str, properties: dict[str, Any], region: str) -> str | None:
    """Why CloudFormation refuses these properties, None if it does not."""
    schema = schema_of(resource_type, region) or {}
    if unknown := [name for name in properties if name not in schema.get("properties", properties)]:
        why = f"[#: extraneous key [{unknown[0]}] is not permitted]"
        return f"Properties validation failed for resource with message: {why}"
    if missing := [name for name in schema.get("required", []) if name not in properties]:
        return f"Properties validation failed for resource with message: [#: required key [{missing[0]}] not found]"
    return None


# --- Checking ---------------------------------------------------------------------------------------------------------
def references(value: Any) -> Iterator[tuple[str, str | None]]:
    """Every name that `value` refers to, with the attribute, or None where it is a Ref."""
    if isinstance(value, list):
        for item in value:
            yield from references(item)
    if not isinstance(value, dict):
        return
    if len(value) == 1:
        (name, argument), *_ = value.items()
        if name == "Ref":
            yield argument, None
            return
        if name == "Fn::GetAtt":
            logical, attribute = argument.split(".", 1) if isinstance(argument, str) else (argument[0], argument[1])
            yield logical, attribute if isinstance(attribute, str) else "?"
            return
        if name == "Fn::Sub":
            text, own = (argument, {}) if isinstance(argument, str) else (argument[0], argument[1])
            for found in SUB.findall(text):
                if not found.startswith("!") and found.strip() not in own:
                    logical, _, attribute = found.strip().partition(".")
                    yield logical, attribute or None
            yield from references(list(own.values()))
            return
    for item in value.values():
        yield from references(item)


def check(template: dict[str, Any], supported: Callable[[str], bool]) -> None:
    """Raise ValidationError for what CloudFormation finds wrong in a template before it does anything."""
    resources, parameters = template["Resources"], template.get("Parameters") or {}
    for name, resource in resources.items():
        if not re.fullmatch(r"[A-Za-z0-9]{1,255}", name):
            raise invalid(f"Template format error: Resource name {name} is non alphanumeric.")
        if not isinstance(resource, dict) or "Type" not in resource:
            raise invalid(
                f"Template format error: [/Resources/{name}] Every Resources object must contain a Type member."
            )
    unknown = sorted({resource["Type"] for resource in resources.values() if not supported(resource["Type"])})
    if unknown:
        raise invalid(f"Template format error: Unrecognized resource types: [{', '.join(unknown)}]")
    conditions = template.get("Conditions") or {}
    for name, resource in [*resources.items(), *(template.get("Outputs") or {}).items()]:
        condition = resource.get("Condition")
        if condition and condition not in conditions:
            what = "Resources" if name in resources else "Outputs"
            raise invalid(f"Template format error: Unresolved condition dependency {condition} in the {what} block")
    for block in ("Resources", "Outputs"):
        lost = set()
        for item in (template.get(block) or {}).values():
            for logical, attribute in references(item):
                if attribute is not None and logical not in resources:
                    raise invalid(f"Template error: instance of Fn::GetAtt references undefined resource {logical}")
                if logical not in resources and logical not in parameters and not logical.startswith("AWS::"):
                    lost.add(logical)
        if lost:
            names = ", ".join(sorted(lost))
            raise invalid(
                f"Template format error: Unresolved resource dependencies [{names}] "
                f"in the {block} block of the template"
            )
    for resource in resources.values():
        for needed in depends_on(resource):
            if needed not in resources:
                raise invalid(
                    f"Template format error: Unresolved resource dependencies [{needed}] "
                    "in the Resources block of the template"
                )
    in_order(resources)


def depends_on(resource: dict[str, Any]) -> list[str]:
    """What DependsOn names."""
    named = resource.get("DependsOn") or []
    return [named] if isinstance(named, str) else named


def needs(resource: dict[str, Any], resources: dict[str, Any]) -> set[str]:
    """The resources that must be there before this one."""
    parts = [resource.get("Properties"), resource.get("Metadata")]
    return {name for name, _ in references(parts) if name in resources} | {
        n for n in depends_on(resource) if n in resources
    }


def in_order(resources: dict[str, Any]) -> list[str]:
    """The names of the resources, each after what it needs. Raises ValidationError for a circle."""
    waiting = {name: needs(resource, resources) for name, resource in resources.items()}
    ordered: list[str] = []
    while waiting:
        ready = [name for name, needed in waiting.items() if not needed & waiting.keys()]
        if not ready:
            raise invalid(f"Circular dependency between resources: [{', '.join(sorted(waiting))}]")
        for name in ready:
            del waiting[name]
        ordered += ready
    return ordered


def capabilities_needed(template: dict[str, Any], original: dict[str, Any]) -> list[str]:
    """What the caller must acknowledge. Named IAM resources need more than unnamed ones."""
    named = {
        "AWS::IAM::Role": "RoleName", "AWS::IAM::ManagedPolicy": "ManagedPolicyName", "AWS::IAM::User": "UserName",
        "AWS::IAM::Group": "GroupName", "AWS::IAM::InstanceProfile": "InstanceProfileName",
    }  # fmt: skip
    found = []
    types = [(r["Type"], r.get("Properties") or {}) for r in template["Resources"].values()]
    if any(kind in named and named[kind] in properties for kind, properties in types):
        found.append("CAPABILITY_NAMED_IAM")
    elif any(
        kind in (*named, "AWS::IAM::Policy", "AWS::IAM::AccessKey", "AWS::IAM::UserToGroupAddition")
        for kind, _ in types
    ):
        found.append("CAPABILITY_IAM")
    if transforms_of(original):
        found.append("CAPABILITY_AUTO_EXPAND")
    return found


# --- Parameters -------------------------------------------------------------------------------------------------------
def parameter_values(
    template: dict[str, Any], given: dict[str, str], lookup: Callable[[str, str, str], str]
) -> dict[str, Any]:
    """Return the value of each parameter, lists as lists. Raises ValidationError in AWS's words.

    `lookup(kind, name, value)` resolves an SSM parameter, or raises when an AWS-specific value names nothing.
    """
    declared = template.get("Parameters") or {}
    if unknown := [name for name in given if name not in declared]:
        raise invalid(f"Parameters: [{', '.join(unknown)}] do not exist in the template")
    if missing := [name for name, spec in declared.items() if name not in given and "Default" not in spec]:
        raise invalid(f"Parameters: [{', '.join(missing)}] must have values")
    values: dict[str, Any] = {}
    for name, spec in declared.items():
        text = given[name] if name in given else _text(spec["Default"])
        kind = str(spec.get("Type", "String"))
        if ssm := re.fullmatch(r"AWS::SSM::Parameter::Value<(.+)>", kind):
            text, kind = lookup("AWS::SSM::Parameter::Value", name, text), ssm[1]
        listed = kind.startswith("List<") or kind == "CommaDelimitedList"
        items = [item.strip() for item in text.split(",")] if listed else [text]
        for item in items:
            _check_parameter(name, spec, item, number="Number" in kind)
            inner = kind.removeprefix("List<").removesuffix(">")
            if inner.startswith("AWS::"):
                lookup(inner, name, item)
        values[name] = items if listed else text
    return values


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _check_parameter(name: str, spec: dict[str, Any], value: str, number: bool) -> None:
    def refuse(why: str) -> ValidationError:
        constraint = spec.get("ConstraintDescription")
        return invalid(
            f"Parameter {name} failed to satisfy constraint: {constraint}"
            if constraint
            else f"Parameter '{name}' {why}"
        )

    allowed = [_text(item) for item in spec.get("AllowedValues", [value])]
    if value not in allowed:
        raise refuse(
            f"must be one of AllowedValues: [{', '.join(allowed)}]"
            if len(allowed) < 2
            else "must be one of AllowedValues"
        )
    if "AllowedPattern" in spec and not re.fullmatch(spec["AllowedPattern"], value):
        raise refuse(f"must match pattern {spec['AllowedPattern']}")
    if len(value) < int(spec.get("MinLength", 0)):
        raise refuse(f"must contain at least {spec['MinLength']} characters")
    if "MaxLength" in spec and len(value) > int(spec["MaxLength"]):
        raise refuse(f"must contain at most {spec['MaxLength']} characters")
    if number:
        try:
            amount = float(value)
        except ValueError:
            raise invalid(f"Parameter '{name}' must be a number") from None
        if amount < float(spec.get("MinValue", amount)):
            raise refuse(f"must be a number not less than {spec['MinValue']}")
        if amount > float(spec.get("MaxValue", amount)):
            raise refuse(f"must be a number not greater than {spec['MaxValue']}")


# --- Values -----------------------------------------------------------------------------------------------------------
class Values:
    """Evaluates a template's functions for one stack.

    `resource(logical id, attribute or None)` gives the value of a Ref or Fn::GetAtt to a resource.
    """

    def __init__(
        self,
        template: dict[str, Any],
        parameters: dict[str, Any],
        pseudo: dict[str, Any],
        resource: Callable[[str, str | None], Any],
        imported: Callable[[str], str],
        dynamic: Callable[[str], str],
        lenient: bool = False,
    ) -> None:
        # Lenient: what depends on resources that are not there yet evaluates to some text, for comparing templates.
        self.template, self.parameters, self.pseudo = template, parameters, pseudo
        self.resource, self.imported, self.dynamic = resource, imported, dynamic
        self.lenient = lenient
        self._conditions: dict[str, bool] = {}

    def condition(self, name: str) -> bool:
        """Whether the named condition holds."""
        if name not in self._conditions:
            declared = self.template.get("Conditions") or {}
            if name not in declared:
                raise invalid(
                    f"Template format error: Unresolved dependencies [{name}]. "
                    "Cannot reference resources in the Conditions block of the template"
                )
            self._conditions[name] = self.holds(declared[name])
        return self._conditions[name]

    def holds(self, test: Any) -> bool:
        """Evaluate a condition function."""
        if not isinstance(test, dict):
            return _text(self(test)) == "true"
        ((name, argument),) = test.items()
        match name:
            case "Condition":
                return self.condition(argument)
            case "Fn::Not":
                return not self.holds(argument[0])
            case "Fn::And":
                return all(self.holds(item) for item in argument)
            case "Fn::Or":
                return any(self.holds(item) for item in argument)
            case "Fn::Equals":
                left, right = self(argument[0]), self(argument[1])
                return bool(_comparable(left) == _comparable(right))
            case "Fn::Contains":
                return _comparable(self(argument[1])) in [_comparable(item) for item in self(argument[0])]
            case "Fn::EachMemberIn":
                return all(item in self(argument[1]) for item in self(argument[0]))
            case "Fn::EachMemberEquals":
                return all(item == self(argument[1]) for item in self(argument[0]))
        return bool(self(test))

    def check_rules(self) -> None:
        """Raise ValidationError for the first assertion of the template's Rules that does not hold."""
        for name, rule in (self.template.get("Rules") or {}).items():
            if "RuleCondition" in rule and not self.holds(rule["RuleCondition"]):
                continue
            for assertion in rule["Assertions"]:
                if not self.holds(assertion["Assert"]):
                    raise invalid(
                        f"Rule {name} failed: {assertion.get('AssertDescription', 'an assertion does not hold')}"
                    )

    def included(self, item: dict[str, Any]) -> bool:
        """Whether a resource or output is part of the stack."""
        return "Condition" not in item or self.condition(item["Condition"])

    def __call__(self, value: Any) -> Any:
        """Evaluate `value`; properties that come out as AWS::NoValue are left out."""
        if isinstance(value, list):
            return [item for item in map(self, value) if item is not NO_VALUE]
        if isinstance(value, str) and "{{resolve:" in value:
            return re.sub(r"\{\{resolve:([^}]*)\}\}", lambda found: self.dynamic(found[1]), value)
        if not isinstance(value, dict):
            return value
        if len(value) == 1:
            ((name, argument),) = value.items()
            if name == "Ref":
                return self._ref(argument)
            if (
                name == "Condition"
                and isinstance(argument, str)
                and argument in (self.template.get("Conditions") or {})
            ):
                return self.condition(argument)
            if INTRINSICS.match(str(name)):
                try:
                    return self._function(name, argument)
                except Exception:
                    if not self.lenient:
                        raise
                    return f"<{json.dumps(argument, default=str)}>"
        evaluated = {key: self(item) for key, item in value.items()}
        return {key: item for key, item in evaluated.items() if item is not NO_VALUE}

    def _ref(self, name: str) -> Any:
        if name == "AWS::NoValue":
            return NO_VALUE
        if name in self.pseudo:
            return self.pseudo[name]
        if name in self.parameters:
            return self.parameters[name]
        return self.resource(name, None)

    def _function(self, name: str, argument: Any) -> Any:
        match name:
            case "Fn::If":
                return self(argument[1] if self.condition(argument[0]) else argument[2])
            case "Fn::GetAtt":
                logical, attribute = argument.split(".", 1) if isinstance(argument, str) else argument
                return self.resource(logical, self(attribute))
            case "Fn::Sub":
                return self._sub(argument)
            case "Fn::Join":
                return str(argument[0]).join(_text(item) for item in self(argument[1]))
            case "Fn::Split":
                return str(self(argument[1])).split(argument[0])
            case "Fn::Select":
                index, items = int(self(argument[0])), self(argument[1])
                if index >= len(items):
                    raise invalid(f"Template error: Fn::Select cannot select nonexistent value at index {index}")
                return items[index]
            case "Fn::FindInMap":
                return self._find_in_map(argument)
            case "Fn::ImportValue":
                return self.imported(self(argument))
            case "Fn::GetAZs":
                region = self(argument) or self.pseudo["AWS::Region"]
                return [f"{region}{letter}" for letter in "abcdef"]
            case "Fn::Base64":
                return base64.b64encode(str(self(argument)).encode()).decode()
            case "Fn::Cidr":
                block, count, bits = self(argument[0]), int(self(argument[1])), int(self(argument[2]))
                subnets = ipaddress.ip_network(block).subnets(new_prefix=32 - bits)
                return [str(next(subnets)) for _ in range(count)]
            case "Fn::ToJsonString":
                return json.dumps(self(argument), separators=(",", ":"))
            case "Fn::Length":
                return len(self(argument))
            case "Fn::Equals" | "Fn::Not" | "Fn::And" | "Fn::Or":
                return self.holds({name: argument})
        raise invalid(f"Template error: {name} is not a function that local AWS evaluates")

    def _sub(self, argument: Any) -> str:
        text, own = (argument, {}) if isinstance(argument, str) else (argument[0], argument[1])

        def value(found: re.Match[str]) -> str:
            name = found[1].strip()
            if name.startswith("!"):
                return "${" + name[1:] + "}"
            if name in own:
                return _text(self(own[name]))
            logical, _, attribute = name.partition(".")
            return _text(self(self.resource(logical, attribute)) if attribute else self._ref(name))

        return SUB.sub(value, text)

    def _find_in_map(self, argument: list[Any]) -> Any:
        name, first, second, *rest = [self(item) for item in argument]
        found = (self.template.get("Mappings") or {}).get(name, {}).get(str(first), {})
        if second in found:
            return self(found[second])
        if rest:
            return rest[0]["DefaultValue"]
        raise invalid(f"Template error: Unable to get mapping for {name}::{first}::{second}")


def _comparable(value: Any) -> Any:
    return [_text(item) for item in value] if isinstance(value, list) else _text(value)

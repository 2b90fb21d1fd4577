"""The checker finds each defect that it is for, and the machines that we ship have none."""

import copy
from collections.abc import Callable
from typing import Any

import asl_checker
import fake_aws
import pytest

MACHINES = sorted(path.name.removesuffix(".asl.yaml") for path in (fake_aws.ROOT / "statemachines").glob("*.asl.yaml"))
PRISTINE = fake_aws.definition()
States = dict[str, Any]


@pytest.mark.parametrize("name", MACHINES)
def test_our_machines_have_no_defect(name: str) -> None:
    asl_checker.load((fake_aws.ROOT / "statemachines" / f"{name}.asl.yaml").read_text())  # raises on doubled keys
    assert asl_checker.check(fake_aws.definition(name)) == []


def seed(text: str) -> Callable[[Callable[[States], None]], Callable[[States], None]]:
    """Collect a defect with the words in which it is to be found."""

    def add(defect: Callable[[States], None]) -> Callable[[States], None]:
        DEFECTS.append(pytest.param(defect, text, id=defect.__name__))
        return defect

    return add


DEFECTS: list[Any] = []


@seed("Lost: cannot be reached")
def unreachable(states: States) -> None:
    states["Lost"] = {"Type": "Succeed"}


@seed("FindImage: leads to Nowhere, which is no state")
def leads_nowhere(states: States) -> None:
    states["FindImage"]["Next"] = "Nowhere"


@seed("BuildImage: leads to Nowhere, which is no state")
def catch_leads_nowhere(states: States) -> None:
    states["BuildImage"]["Catch"][0]["Next"] = "Nowhere"


@seed("ReadDigest: needs either Next or End")
def ends_by_accident(states: States) -> None:
    del states["ReadDigest"]["Next"]


@seed("WaitForStable: has no TimeoutSeconds")
def no_timeout(states: States) -> None:
    del states["WaitForStable"]["TimeoutSeconds"]


@seed("DeployServices: has no Catch")
def no_catch(states: States) -> None:
    del states["DeployServices"]["Catch"]


@seed("DeployServices: has no last Catch of States.ALL")
def catches_some(states: States) -> None:
    states["DeployServices"]["Catch"][0]["ErrorEquals"] = ["States.Timeout"]


@seed("FindImage: Retry[0]: States.ALL must be last")
def all_not_last(states: States) -> None:
    states["FindImage"]["Retry"].insert(0, {"ErrorEquals": ["States.ALL"]})


@seed("FindImage: Catch[0]: States.ALL must stand alone")
def all_not_alone(states: States) -> None:
    states["FindImage"]["Catch"][0]["ErrorEquals"] = ["States.ALL", "States.Timeout"]


@seed("IsTheImageBuilt: has no Default")
def no_default(states: States) -> None:
    del states["IsTheImageBuilt"]["Default"]


@seed("Finish.Arguments.Payload.rollback: $rollback is not assigned on every way")
def catch_assigns_less(states: States) -> None:
    del states["ValidateRequest"]["Catch"][0]["Assign"]["rollback"]


@seed("Finish.Arguments.Payload.failure: $failure is not assigned on every way")
def never_says_that_all_is_well(states: States) -> None:
    del states["ValidateRequest"]["Assign"]["failure"]


@seed("IsThereSomethingToBuild.Choices[0].Condition: $digest is not assigned on every way")
def not_assigned_at_all(states: States) -> None:
    del states["ValidateRequest"]["Assign"]["digest"]


@seed("NotDeployed.Error: $outcome is not assigned on every way")
def report_that_fails_assigns_nothing(states: States) -> None:
    del states["Finish"]["Catch"][0]["Assign"]


@seed("RegisterRevisions.Assign.second: $first is not assigned on every way")
def read_in_the_assign_that_makes_it(states: States) -> None:
    states["RegisterRevisions"]["Assign"] |= {"first": 1, "second": "{% $first %}"}


@seed("DeployServices.Arguments.Payload.revisions: $revision is not assigned on every way")
def misspelt(states: States) -> None:
    states["DeployServices"]["Arguments"]["Payload"]["revisions"] = "{% $revision %}"


@seed("IsTheImageThere.Choices[0].Assign.tag: $unknown is not assigned on every way")
def choice_assigns_from_nothing(states: States) -> None:
    states["IsTheImageThere"]["Choices"][0]["Assign"]["tag"] = "{% $map([1], function($v) { $v & $unknown }) %}"


@seed("FindImage.Assign.digest: $trimm is not assigned on every way")
def unknown_function(states: States) -> None:
    states["FindImage"]["Assign"]["digest"] = "{% $trimm('x') %}"


@seed("FindImage: Assign.digest: is not JSONata")
def no_jsonata(states: States) -> None:
    states["FindImage"]["Assign"]["digest"] = "{% $exists( %}"


@seed("FindImage: Assign.digest: uses $eval")
def evaluates_text(states: States) -> None:
    states["FindImage"]["Assign"]["digest"] = "{% $eval('1') %}"


@seed("ReportQueued: Arguments.Payload.step: an expression must be the whole string")
def expression_in_text(states: States) -> None:
    states["ReportQueued"]["Arguments"]["Payload"]["step"] = "queued {% $deployment.id %}"


@seed("ReportQueued: Arguments.Payload.step: there is no $states.result here")
def result_before_it_is_there(states: States) -> None:
    states["ReportQueued"]["Arguments"]["Payload"]["step"] = "{% $states.result.Payload %}"


@seed("BuildImage: Assign.failure: there is no $states.errorOutput here")
def error_without_one(states: States) -> None:
    states["BuildImage"]["Assign"] = {"failure": "{% $states.errorOutput.Error %}"}


@seed("ReportQueued: Arguments.Payload.token: a task token is there only with .waitForTaskToken")
def token_without_one(states: States) -> None:
    states["ReportQueued"]["Arguments"]["Payload"]["token"] = "{% $states.context.Task.Token %}"


@pytest.mark.parametrize(("defect", "text"), DEFECTS)
def test_a_seeded_defect_is_found(defect: Callable[[States], None], text: str) -> None:
    definition = copy.deepcopy(PRISTINE)
    defect(definition["States"])

    assert [problem for problem in asl_checker.check(definition) if problem.startswith(text)]


def test_a_machine_without_a_time_limit_is_found() -> None:
    definition = copy.deepcopy(PRISTINE)
    del definition["TimeoutSeconds"]
    assert asl_checker.check(definition) == ["the state machine has no TimeoutSeconds"]


def test_two_states_of_one_name_are_found() -> None:
    with pytest.raises(ValueError, match="line 2: the key 'A' is there twice"):
        asl_checker.load("States:\n  A: {Type: Succeed}\n  A: {Type: Fail}\n")


def test_a_variable_of_a_loop_and_of_a_map_is_followed() -> None:
    inner = {"StartAt": "I", "States": {"I": {"Type": "Pass", "Assign": {"x": "{% $outer + $missing %}"}, "End": True}}}
    definition = {
        "TimeoutSeconds": 1,
        "StartAt": "A",
        "States": {
            "A": {"Type": "Pass", "Assign": {"outer": 1}, "Next": "B"},
            "B": {"Type": "Map", "ItemProcessor": inner, "Catch": [{"ErrorEquals": ["States.ALL"], "Next": "C"}],
                  "Assign": {"late": 1}, "Next": "A"},
            "C": {"Type": "Pass", "Output": "{% $late %}", "End": True},
        },
    }  # fmt: skip
    assert asl_checker.check(definition) == [
        "B[0].I.Assign.x: $missing is not assigned on every way that leads here",
        "C.Output: $late is not assigned on every way that leads here",
    ]


def test_names_that_an_expression_makes_itself_are_not_missed() -> None:
    text = "{% ($a := 1; $f := function($b) { $a + $b }; items@$c#$d.($c & $d & $f(1)) ~> $join(',')) %}"
    assert [e.reads for e in asl_checker.expressions(text)] == [frozenset()]

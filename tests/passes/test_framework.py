import json

import pytest

from passes.framework import Context, Cost, LayerDecision, Plan, PlanError, keep

BEFORE = Cost(parameters=100, macs=None, nbytes=400)
DECISION = LayerDecision(
    layer="conv",
    op_type="Conv",
    action="apply",
    reason="rank 3 keeps 99 %",
    before=BEFORE,
    after=Cost(parameters=50, macs=10, nbytes=200),
    settings={"rank": 3, "density": 0.5, "pair": True, "bits": None},
    predicted_error=0.1,
    measured_error=0.2,
)
PLAN = Plan(
    pass_name="made-up", config={"rank": 3}, layers=(DECISION, keep(DECISION, "no")), notes=("a",)
)


def test_a_plan_survives_json() -> None:
    assert Plan.from_json(json.loads(json.dumps(PLAN.to_json()))) == PLAN
    assert PLAN.applied == (DECISION,)


@pytest.mark.parametrize("key", ["pass_name", "config", "layers"])
def test_a_plan_with_a_missing_field_is_refused(key: str) -> None:
    data = PLAN.to_json()
    del data[key]
    with pytest.raises(PlanError, match=key):
        Plan.from_json(data)


@pytest.mark.parametrize(
    "broken",
    [
        [],
        {"layers": 3, "pass_name": "x", "config": {}},
        {"layers": [{"layer": "conv"}], "pass_name": "x", "config": {}},
        {"layers": [], "pass_name": "x", "config": 5},
        {"layers": [], "pass_name": "x", "config": ["a"]},
    ],
)
def test_what_is_no_plan_is_refused(broken: object) -> None:
    with pytest.raises(PlanError, match="not a plan written by optc"):
        Plan.from_json(broken)  # type: ignore[arg-type]


def test_an_unknown_field_of_a_layer_is_refused() -> None:
    data = json.loads(json.dumps(PLAN.to_json()))
    data["layers"][0]["colour"] = "red"
    with pytest.raises(PlanError, match="colour"):
        Plan.from_json(data)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("layer", [1], r"layer is \[1\], expected str"),
        ("action", "drop", "action is 'drop', expected 'apply' or 'keep'"),
        ("reason", None, "reason is None, expected str"),
        ("before", None, "before is None, expected a mapping"),
        ("before", {"parameters": None, "macs": 1, "nbytes": 1}, "parameters is None, .* int"),
        ("after", {"parameters": 1, "macs": 1.5, "nbytes": 1}, "macs is 1.5, .* int or null"),
        ("settings", None, "settings is None, expected a mapping to str or int"),
        ("settings", {"rank": [3]}, "settings is"),
        ("predicted_error", "x", "predicted_error is 'x', expected float or null"),
        ("measured_error", True, "measured_error is True"),
    ],
)
def test_a_field_of_the_wrong_type_is_named(field: str, value: object, message: str) -> None:
    data = json.loads(json.dumps(PLAN.to_json()))
    data["layers"][0][field] = value
    with pytest.raises(PlanError, match=message):
        Plan.from_json(data)


@pytest.mark.parametrize(
    ("field", "value"),
    [("pass_name", ["penni"]), ("config", {"rank": []}), ("notes", [1]), ("colour", "red")],
)
def test_a_wrong_field_of_a_plan_is_named(field: str, value: object) -> None:
    with pytest.raises(PlanError, match=field):
        Plan.from_json({**json.loads(json.dumps(PLAN.to_json())), field: value})


def test_whole_numbers_are_numbers() -> None:
    data = json.loads(json.dumps(PLAN.to_json()))
    data["layers"][0]["predicted_error"] = 0
    assert Plan.from_json(data).layers[0].predicted_error == 0


def test_a_layer_that_is_kept_predicts_no_change() -> None:
    kept = keep(DECISION, "would be slower")
    assert not kept.applies
    assert (kept.reason, kept.before, kept.after) == ("would be slower", BEFORE, BEFORE)
    assert kept.predicted_error is kept.measured_error is None


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        ("/layer1/conv", None),
        ("/layer2/conv", "matched by --exclude /layer2/*"),
        ("/Layer1/conv", "not matched by --include /layer* head"),
        ("head", None),
        ("head2", "not matched by --include /layer* head"),
    ],
)
def test_globs_choose_layers_by_their_whole_name(layer: str, reason: str | None) -> None:
    context = Context(include=("/layer*", "head"), exclude=("x", "/layer2/*"))
    assert context.exclusion(layer) == reason

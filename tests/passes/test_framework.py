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

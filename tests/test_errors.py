from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from isthmus.errors import MOST_SHOWN, did_you_mean, explain


class Retrieval(BaseModel):
    model_config = ConfigDict(extra="forbid")
    temperature: float = Field(gt=0)
    epochs: int = 3


class Run(BaseModel):
    model_config = ConfigDict(extra="forbid")
    retrieval: Retrieval | None = None
    stages: dict[str, tuple[Retrieval, ...]] = {}
    name: str = ""


def message(content: object) -> str:
    with pytest.raises(ValidationError) as caught:
        Run.model_validate(content)
    return explain(caught.value, Path("run.yaml"), Run)


class Dense(BaseModel):
    kind: Literal["dense"]


class Sparse(BaseModel):
    kind: Literal["sparse"]
    loss: Literal["hinge", "softmax"] = "hinge"


class Chosen(BaseModel):
    backbone: Annotated[Dense | Sparse, Field(discriminator="kind")]


class Few(BaseModel):
    model_config = ConfigDict(extra="forbid")
    values: tuple[int, ...]


class Between(BaseModel):
    model_config = ConfigDict(extra="forbid")
    low: float
    high: float = Field(gt=0)


class Space(BaseModel):
    space: dict[str, Few | Between] = {}
    negatives: Literal["explicit"] | Between = "explicit"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"space": {"rate": {"low": 1, "high": -1}}}, "space.rate.high: -1: input should be greater than 0"),
        ({"space": {"rate": {"low": 1, "hihg": 2}}}, "space.rate.hihg: unknown setting; did you mean 'high'?"),
        ({"space": {"rate": {"values": ["x"]}}}, "space.rate.values.0: 'x': input should be a valid integer"),
        ({"negatives": {"low": 1, "high": -1}}, "negatives.high: -1: input should be greater than 0"),
        ({"negatives": "explicti"}, "negatives: 'explicti' is none of 'explicit'; did you mean 'explicit'?"),
    ],
)
def test_of_several_forms_the_one_that_was_meant_is_told_about(content: object, expected: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Space.model_validate(content)
    told = explain(caught.value, Path("run.yaml"), Space)
    told = told.replace("run.yaml: space.rate.high: missing, and it has no default; ", "run.yaml: ")
    assert told.startswith(f"run.yaml: {expected}")
    assert told.count("space.rate.") <= 1


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"kind": "spars"}, "backbone.kind: 'spars' is none of 'dense', 'sparse'; did you mean 'sparse'?"),
        ({"kind": "zzz"}, "backbone.kind: 'zzz' is none of 'dense', 'sparse'"),
        ({"hidden": 3}, "backbone.kind: missing, and it has no default"),
        ("dense", "backbone: 'dense': a mapping is wanted, such as {kind: ...}"),
        (
            {"kind": "sparse", "loss": "softmx"},
            "backbone.loss: 'softmx' is none of 'hinge', 'softmax'; did you mean 'softmax'?",
        ),
    ],
)
def test_a_choice_that_is_not_there_is_told_with_those_that_are(content: object, expected: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Chosen.model_validate({"backbone": content})
    assert explain(caught.value, Path("run.yaml"), Chosen) == f"run.yaml: {expected}"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (
            {"retrieval": {"temprature": 0.05, "temperature": 1}},
            "run.yaml: retrieval.temprature: unknown setting; did you mean 'temperature'?",
        ),
        (
            {"stages": {"first": [{"temperature": 1, "epohcs": 2}]}},
            "run.yaml: stages.first.0.epohcs: unknown setting; did you mean 'epochs'?",
        ),
        ({"zzz": 1}, "run.yaml: zzz: unknown setting; known are name, retrieval, stages"),
        ({"retrieval": {}}, "run.yaml: retrieval.temperature: missing, and it has no default"),
        ({"name": 7}, "run.yaml: name: 7 is int, a text is wanted; put it in quotes"),
        ({"retrieval": {"temperature": -1}}, "run.yaml: retrieval.temperature: -1: input should be greater than 0"),
    ],
)
def test_a_mistake_is_told_with_file_key_value_and_what_is_allowed(content: object, expected: str) -> None:
    assert message(content) == expected


def test_every_mistake_is_told_in_one_line_up_to_a_limit() -> None:
    told = message({f"unknown_{number}": 1 for number in range(MOST_SHOWN + 2)})
    assert "\n" not in told
    assert [f"unknown_{number}: unknown setting" in told for number in range(MOST_SHOWN + 1)] == [True] * 8 + [False]
    assert told.endswith("; and 2 more mistakes")
    assert told.count("run.yaml: ") == 1


def test_nothing_is_suggested_for_what_is_not_near() -> None:
    assert did_you_mean("xyz", ["user", "item"]) == ""
    assert did_you_mean("usr", ["user", "item"]) == "; did you mean 'user'?"

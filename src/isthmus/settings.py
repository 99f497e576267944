"""The settings of a run: read from a YAML file and the command line, checked once."""

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, assert_never

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from isthmus.errors import InputError, explain, mistaken_keys
from isthmus.files import read_yaml
from isthmus.models.cdanet import CDAnetSettings
from isthmus.models.ctr import CTRSettings
from isthmus.models.ddtcdr import DDTCDRSettings
from isthmus.models.factorisation_machine import FactorisationMachineSettings
from isthmus.models.keep import KEEPSettings
from isthmus.models.ranker import AnyRankingSettings, RankingSettings
from isthmus.models.two_tower import TwoTowerSettings
from isthmus.serving.index_settings import ExactIndexSettings, IndexSettings
from isthmus.training.ranking import RankingTrainingSettings
from isthmus.training.retrieval import TrainingSettings

DEFAULT_SETTINGS = """\
retrieval:
  embedding_dim: 256
  dropout: 0.5
training:
  seed: 0
  epochs: 8
"""
"""What `isthmus train` takes without a settings file."""

DEFAULT_RANKING_SETTINGS = """\
ranking:
  kind: cdanet
  extractor: {kind: mmoe, hidden_dims: [128], num_experts: 2, norm: none}
training:
  seed: 0
  epochs: 40
"""
"""What `isthmus train --task ranking` takes without a settings file."""

REMEDY = "a settings file needs 'training' and one of 'retrieval' and 'ranking'"
Task = Literal["retrieval", "ranking"]


class RunSettings(BaseModel):
    """All settings of a run.

    parameter_budget: trainable numbers of all networks together, the embedding tables left out. The backbone's hidden
        widths are scaled by one factor until the networks come within 2 % below it; widths that already do stay.
    index: how the items of a domain are searched when recommending.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    retrieval: TwoTowerSettings
    training: TrainingSettings
    parameter_budget: int | None = Field(default=None, ge=1)
    index: IndexSettings = ExactIndexSettings()

    def to_yaml(self) -> str:
        """Every setting, defaults among them."""
        text: str = yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        return text


class RankingRunSettings(BaseModel):
    """All settings of a run of a click model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ranking: RankingSettings
    training: RankingTrainingSettings

    @model_validator(mode="after")
    def targets_are_trained_on(self) -> "RankingRunSettings":
        targets = self.ranking.targets if isinstance(self.ranking, CDAnetSettings | KEEPSettings) else None
        domains = self.training.domains
        for name in targets or ():
            if domains is not None and name not in domains:
                raise ValueError(f"ranking.targets: {name!r} is not among training.domains ({', '.join(domains)})")
        return self

    @model_validator(mode="after")
    def a_rate_has_what_it_moves(self) -> "RankingRunSettings":
        if self.training.first_order_learning_rate is not None and not has_first_order_weights(self.ranking):
            raise ValueError(
                "training.first_order_learning_rate: this model has no first-order weights; give ranking.linear: "
                "true, or leave it out"
            )
        if self.training.later_rate_factor != 1 and not carries_over(self.ranking):
            raise ValueError(
                "training.later_rate_factor: no stage of this model goes on with what one before it has trained; only "
                "kind cdanet with ranking.stages: both has one; leave it out"
            )
        return self


def has_first_order_weights(ranking: AnyRankingSettings) -> bool:
    """Whether a click model's logit has a term that is a sum of weights, one a field value."""
    match ranking:
        case FactorisationMachineSettings():
            return True
        case CTRSettings() | CDAnetSettings() | DDTCDRSettings() | KEEPSettings():
            return ranking.linear
        case other:
            assert_never(other)


def carries_over(ranking: AnyRankingSettings) -> bool:
    """Whether a later stage of a click model goes on with trained parts of its first."""
    return isinstance(ranking, CDAnetSettings) and ranking.stages == "both"


AnyRunSettings = RunSettings | RankingRunSettings


def read_any_settings(file: Path | None, overrides: Sequence[str] = (), *, task: Task = "retrieval") -> AnyRunSettings:
    """The settings in a YAML file, or the defaults where there is none, with single values put in their place.

    Args:
        overrides: each `key.sub=value`; the value is read as YAML.
        task: whose defaults are taken where there is no file; a file says itself which it is for.

    Raises:
        InputError: the file cannot be read, or a setting is unknown, missing or out of range; the message names the
            file, the key, the value and what is allowed.
    """
    defaults = DEFAULT_SETTINGS if task == "retrieval" else DEFAULT_RANKING_SETTINGS
    content = yaml.safe_load(defaults) if file is None else read_yaml(file, remedy=REMEDY)
    if file is None and task == "ranking":
        _begin_from_kind(content["ranking"], overrides)
    _refuse_of_another_task(content, file, overrides)
    overridden = [_override(content, text) for text in overrides]
    form = RankingRunSettings if "ranking" in content and "retrieval" not in content else RunSettings

    def to_blame(places: Sequence[str]) -> Path:
        is_overridden = any(place.startswith(key) for place in places for key in overridden)
        return file if file is not None and not is_overridden else Path("--set")

    try:
        settings = form.model_validate(content)
    except ValidationError as error:
        shown = to_blame(mistaken_keys(error, form))
        _refuse_misplaced(error, shown, form)
        raise InputError(explain(error, shown, form)) from error
    if truths := truths_as_numbers(content, settings.model_dump(mode="json")):
        raise InputError(f"{to_blame(truths)}: {'; '.join(truths)}")
    return settings


def read_settings(file: Path | None, overrides: Sequence[str] = ()) -> RunSettings:
    """The settings of a retrieval run; see `read_any_settings`."""
    settings = read_any_settings(file, overrides)
    if not isinstance(settings, RunSettings):
        raise InputError(f"{file}: holds settings of ranking; say task='ranking', or give a file with 'retrieval'")
    return settings


def read_ranking_settings(file: Path | None, overrides: Sequence[str] = ()) -> RankingRunSettings:
    """The settings of a ranking run; see `read_any_settings`."""
    settings = read_any_settings(file, overrides, task="ranking")
    if not isinstance(settings, RankingRunSettings):
        raise InputError(
            f"{file}: holds settings of retrieval; leave task='ranking' out, or give a file with 'ranking'"
        )
    return settings


def truths_as_numbers(content: Any, read: Any, key: str = "") -> list[str]:
    """What is wrong where True or False is given and was read as a number, which Pydantic allows; key and remedy.

    Args:
        read: the settings that were made of the content, as YAML would hold them.
    """
    match content, read:
        case dict(), dict():
            inner = [(str(name), value, read.get(name)) for name, value in content.items()]
        case list(), list():
            inner = [(str(place), value, read[place]) for place, value in enumerate(content)]
        case bool(), int() | float() if not isinstance(read, bool):
            return [f"{key}: {content} is no number; YAML reads yes and on as True, no and off as False"]
        case _:
            return []
    return [
        found
        for name, value, of_it in inner
        for found in truths_as_numbers(value, of_it, f"{key}.{name}" if key else name)
    ]


def _refuse_of_another_task(content: dict[str, Any], file: Path | None, overrides: Sequence[str]) -> None:
    """Says which section a run's settings are under where an override is of the other task's."""
    sections = {"retrieval", "ranking"}
    if len(present := sections & content.keys()) != 1:
        return
    (task,) = present
    hint = "; --task ranking trains a click model" if file is None and task == "retrieval" else ""
    for text in overrides:
        key, _, _ = text.partition("=")
        if key.split(".")[0] in sections - present:
            raise InputError(f"--set: {key}: this is a {task} run, whose settings are under {task!r}{hint}")


def _refuse_misplaced(error: ValidationError, file: Path, form: type[BaseModel]) -> None:
    """Says where an unknown key belongs that is known, or nearly, in another section only."""
    sections: dict[str, type[BaseModel]] = {"training": RankingTrainingSettings}
    if form is RunSettings:
        sections = {"retrieval": TwoTowerSettings, "training": TrainingSettings}
    for details in error.errors(include_url=False):
        if details["type"] != "extra_forbidden":
            continue
        *above, key = (str(part) for part in details["loc"])
        if len(above) > 1 or not set(above) <= set(sections):
            continue
        here = set((sections[above[0]] if above else form).model_fields)
        place = {name: section for section, model in sections.items() for name in model.model_fields}
        nearest = get_close_matches(key, here | set(place), n=1)
        if nearest and nearest[0] not in here:
            known = f"{place[nearest[0]]}.{nearest[0]}"
            where = ".".join([*above, key])
            raise InputError(f"{file}: {where}: unknown setting; did you mean {known!r}?") from error


def _begin_from_kind(ranking: dict[str, Any], overrides: Sequence[str]) -> None:
    """Where another kind of click model is asked for, put that in place of the default one, its network kept."""
    network = ranking["extractor"]
    for text in overrides:
        key, _, kind = text.partition("=")
        if key == "ranking.kind" and kind != ranking["kind"]:
            ranking.clear()
            ranking["kind"] = kind
            if kind in ("ctr", "keep"):
                ranking["backbone"] = network


def _override(content: dict[str, Any], text: str) -> str:
    """Puts one `key.sub=value` into the content, and gives its key."""
    key, equals, value = text.partition("=")
    parts = key.split(".")
    if not equals or not all(parts):
        raise InputError(f"--set {text}: write it as key.sub=value, such as training.epochs=3")
    for part in parts[:-1]:
        inner = content.get(part)
        if inner is None:
            inner = content[part] = {}
        if not isinstance(inner, dict):
            raise InputError(f"--set {text}: {part!r} is {inner!r} and has no settings in it")
        content = inner
    try:
        content[parts[-1]] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise InputError(f"--set {text}: the value is not YAML; put it in quotes") from error
    return key

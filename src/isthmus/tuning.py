"""Search of settings on validation data: the same number of trials for every model, by grid or by Optuna's TPE."""

import json
from collections.abc import Callable, Iterator, Mapping
from itertools import islice, product
from pathlib import Path
from typing import Annotated, Any, Literal, assert_never

import yaml
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, model_validator

from isthmus.api import train
from isthmus.data.dataset import Dataset
from isthmus.errors import DivergedError, InputError, explain
from isthmus.files import markdown_table, read_yaml, write_text
from isthmus.settings import AnyRunSettings, RankingRunSettings, RunSettings, truths_as_numbers
from isthmus.training.ranking_runs import require_ranking_fit
from isthmus.training.runs import DatasetRecord, fit_budget, remove_weights, require_fit

BEST_SETTINGS, TRIALS, VALUE = "best.yaml", "trials", "value.json"
MOST_COMBINATIONS = 2000


class Choices(BaseModel):
    """A setting that takes one of some values."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    values: tuple[Any, ...] = Field(min_length=1)


class Range(BaseModel):
    """A setting that takes any number from `low` to `high`, whole where both are; `log`: evenly in its logarithm."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    low: int | float
    high: int | float
    log: bool = False

    @model_validator(mode="after")
    def is_a_range(self) -> "Range":
        if self.low >= self.high:
            raise ValueError(f"low must be below high, got {self.low} and {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"with log, low must be above 0, got {self.low}")
        return self

    @property
    def is_whole(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)


Place = Choices | Range


class Search(BaseModel):
    """What is searched, and how.

    sampler: `tpe` (Optuna's tree-structured Parzen estimator, which draws at random until ten trials have finished), or
        `grid`: all combinations of the choices, in order, which therefore may hold no range.
    trials: how many settings are tried; a grid may have fewer, and not more.
    begin_as_given: `tpe`: the first trial has the settings as they are given, where these lie in the space, so that
        what is found is no worse on validation rows.
    space: `key.sub` of a setting, and what it may be.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sampler: Literal["tpe", "grid"] = "tpe"
    trials: int = Field(default=8, ge=1)
    seed: int = Field(default=0, ge=0)
    begin_as_given: bool = True
    space: dict[str, Annotated[Place, Field(union_mode="smart")]] = Field(min_length=1)
    _file: Path = PrivateAttr(default=Path("search"))  # where it was declared, for messages

    @model_validator(mode="after")
    def a_grid_has_choices(self) -> "Search":
        if self.sampler == "grid":
            for key, place in self.space.items():
                if isinstance(place, Range):
                    raise ValueError(f"space.{key}: a grid takes 'values', not a range; or use sampler 'tpe'")
            if len(combinations := self.grid()) > self.trials:
                raise ValueError(
                    f"a grid of {len(combinations)} combinations, and trials is {self.trials}; give as many, or use "
                    "sampler 'tpe'"
                )
        return self

    def grid(self) -> list[dict[str, Any]]:
        """All combinations of the choices, in order."""
        values = [place.values for place in self.space.values() if isinstance(place, Choices)]
        return [dict(zip(self.space, combination, strict=True)) for combination in product(*values)]


def read_search(file: Path) -> Search:
    """The search that a YAML file declares.

    Raises:
        InputError: the file cannot be read, or a key is unknown or out of range.
    """
    try:
        search = Search.model_validate(read_yaml(file, remedy="a search needs 'space'"))
    except ValidationError as error:
        raise InputError(explain(error, file, Search)) from error
    search._file = file
    return search


def tune(
    dataset: Path, out: Path, base: AnyRunSettings, search: Search, *, say: Callable[[str], None] = print
) -> AnyRunSettings:
    """Train with each tried setting in `out`/trials/N; gives the settings of the best validation value.

    Finished trials are kept and not trained again: a search that was stopped goes on where it was. A trial whose
    training diverges counts as one and has no value. Writes `out`/best.yaml, which `isthmus train --settings` takes,
    and `out`/trials.md.

    Raises:
        InputError: before anything is trained or written: a searched key is no setting, what it may be is not allowed
            or does not fit the dataset, or `out` holds files of something else; then: a folder of `out` holds trials of
            another search or another dataset, or every trial diverged.
    """
    if out.is_file():
        raise InputError(f"{out}: is a file; give the path of a folder")
    if out.is_dir() and any(out.iterdir()) and not (out / TRIALS).is_dir():
        raise InputError(f"{out}: holds other files and no search; give a new or empty folder")
    tried: list[tuple[dict[str, Any], float | None]] = []
    is_checked = False

    def attempt(chosen: dict[str, Any]) -> float | None:
        nonlocal is_checked
        folder = out / TRIALS / str(len(tried))
        if not is_checked and not (folder / VALUE).is_file():
            require_possible(Dataset.open(dataset), base, search)
            is_checked = True
        value = run_trial(dataset, folder, base, chosen)
        say(f"trial {len(tried)}: {_shown(value, 4)}  {_in_words(chosen)}")
        tried.append((chosen, value))
        return value

    match search.sampler:
        case "grid":
            for combination in search.grid():
                attempt(combination)
        case "tpe":
            optuna = _optuna()
            optuna.logging.set_verbosity(optuna.logging.WARNING)
            study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=search.seed))
            if search.begin_as_given and (given := _as_given(base, search.space)) is not None:
                study.enqueue_trial(given)
            for _ in range(search.trials):
                trial = study.ask()
                value = attempt({key: _suggest(trial, key, place) for key, place in search.space.items()})
                study.tell(trial, value, state=optuna.trial.TrialState.FAIL if value is None else None)
        case other:
            assert_never(other)
    finished = [(value, chosen) for chosen, value in tried if value is not None]
    if not finished:
        raise InputError(f"{out}: every trial diverged; search lower learning rates, in a new folder")
    best_value, best = max(finished, key=lambda one: one[0])
    settings = with_values(base, best)
    write_text(out / BEST_SETTINGS, yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False))
    rows = [[str(n), _shown(value, 5), *map(str, chosen.values())] for n, (chosen, value) in enumerate(tried)]
    write_text(out / "trials.md", markdown_table(["trial", "validation", *search.space], rows) + "\n")
    say(f"best: {best_value:.4f}  {_in_words(best)}; settings in {out / BEST_SETTINGS}")
    return settings


def require_possible(dataset: Dataset, base: AnyRunSettings, search: Search) -> None:
    """Raises InputError where settings that may be tried are none or do not fit the dataset: a trial would end so.

    Every choice and both ends of every range are looked at, together as a trial may have them: each in settings that
    must fit the dataset, then their combinations, up to a number that takes a second, in settings that must be allowed.
    The message names the keys that bring the mistake about.
    """

    def refusal(chosen: Mapping[str, Any], *, fits: bool) -> str | None:
        try:
            settings = with_values(base, chosen)
            if fits:
                require_settings_fit(dataset, settings)
        except InputError as error:
            return str(error).removeprefix("space: ")
        return None

    def require(chosen: Mapping[str, Any], *, fits: bool) -> None:
        if (message := refusal(chosen, fits=fits)) is None:
            return
        to_blame = dict(chosen)
        for key in chosen:
            others = {name: value for name, value in to_blame.items() if name != key}
            if refusal(others, fits=fits) == message:
                to_blame = others
        match list(to_blame):
            case []:
                raise InputError(message)
            case [key]:
                raise InputError(f"{search._file}: space.{key}: {message.removeprefix(f'{key}: ')}")
            case _:
                raise InputError(f"{search._file}: space: with {_in_words(to_blame)}: {message}")

    for chosen in _each_value(search.space):
        require(chosen, fits=True)
    for values in islice(product(*_ends(search.space)), MOST_COMBINATIONS):
        require(dict(zip(search.space, values, strict=True)), fits=False)
    lowest = with_values(base, next(_each_value(search.space))).model_dump(mode="json")
    for key, place in search.space.items():
        if isinstance(place, Range) and not place.is_whole and isinstance(_value_at(lowest, key), int):
            raise InputError(
                f"{search._file}: space.{key}: a whole number is wanted; give whole 'low' and 'high', not {place.low} "
                f"and {place.high}"
            )


def require_settings_fit(dataset: Dataset, settings: AnyRunSettings) -> None:
    """Raises InputError where `train` would refuse the settings for this dataset."""
    if isinstance(settings, RankingRunSettings):
        require_ranking_fit(dataset, settings.ranking, settings.training)
        return
    if settings.parameter_budget is not None:
        fit_budget(dataset, settings.retrieval, settings.parameter_budget)
    require_fit(dataset, settings.retrieval)


def run_trial(dataset: Path, folder: Path, base: AnyRunSettings, chosen: Mapping[str, Any]) -> float | None:
    """The validation value of one choice, None where its training diverges: found now, or read where the folder has it.

    Raises:
        InputError: the folder holds a trial of other settings, or of another dataset.
    """
    settings = with_values(base, chosen)
    file = folder / VALUE
    if file.is_file():
        kept = json.loads(file.read_text(encoding="utf-8"))
        # As settings, so that one added since, which the trial left as it was, makes it no other search.
        if type(settings).model_validate(kept["settings"]) != settings:
            raise InputError(
                f"{folder}: holds a trial of another search, from other settings or over another space; give another "
                f"--out, or delete {folder.parent.parent}"
            )
        DatasetRecord.read(folder).require(Dataset.open(dataset))
        return None if kept["value"] is None else float(kept["value"])
    try:
        value: float | None = train(dataset, folder, settings, say=lambda _: None).validation_value()
    except DivergedError:
        value = None
    write_text(file, json.dumps({"value": value, "settings": settings.model_dump(mode="json")}, indent=1) + "\n")
    remove_weights(folder)
    return value


def with_values(base: AnyRunSettings, chosen: Mapping[str, Any]) -> AnyRunSettings:
    """The settings with single values put in their place.

    Where `ranking.linear: false` is chosen, `training.first_order_learning_rate` is left out, whatever it is: it has
    nothing to move, and a search may try both.

    Raises:
        InputError: a key is no setting, or its value is not allowed.
    """
    content = base.model_dump(mode="json")
    for key, value in chosen.items():
        *above, last = key.split(".")
        place = content
        for part in above:
            if not isinstance(place.get(part), dict):
                raise InputError(f"space: {key}: {part!r} is no section of the settings")
            place = place[part]
        place[last] = value
    if chosen.get("ranking.linear") is False:
        content["training"]["first_order_learning_rate"] = None
    form = RankingRunSettings if isinstance(base, RankingRunSettings) else RunSettings
    try:
        settings = form.model_validate(content)
    except ValidationError as error:
        raise InputError(explain(error, Path("space"), form)) from error
    if truths := truths_as_numbers(content, settings.model_dump(mode="json")):
        raise InputError(f"space: {'; '.join(truths)}")
    return settings


def _ends(space: Mapping[str, Place]) -> list[tuple[Any, ...]]:
    """Of each key the choices, or both ends of the range."""
    return [place.values if isinstance(place, Choices) else (place.low, place.high) for place in space.values()]


def _each_value(space: Mapping[str, Place]) -> Iterator[dict[str, Any]]:
    """As few combinations as hold each choice and both ends of each range."""
    ends = _ends(space)
    for number in range(max(map(len, ends))):
        yield {key: values[number % len(values)] for key, values in zip(space, ends, strict=True)}


def _suggest(trial: Any, key: str, place: Place) -> Any:
    match place:
        case Choices(values=values):
            # By number: a choice may be a list, which Optuna does not take.
            return values[trial.suggest_categorical(key, list(range(len(values))))]
        case Range(low=int() as low, high=int() as high, log=log):
            return trial.suggest_int(key, low, high, log=log)
        case Range(low=low, high=high, log=log):
            return trial.suggest_float(key, low, high, log=log)


def _as_given(base: AnyRunSettings, space: Mapping[str, Place]) -> dict[str, Any] | None:
    """The settings' own values in the words of `_suggest`; None where one lies outside the space."""
    content = base.model_dump(mode="json")
    given: dict[str, Any] = {}
    for key, place in space.items():
        value = _value_at(content, key)
        match place:
            case Choices(values=values) if value in values:
                given[key] = values.index(value)
            case Range(low=low, high=high) if isinstance(value, int | float) and low <= value <= high:
                given[key] = value
            case _:
                return None
    return given


def _value_at(content: dict[str, Any], key: str) -> Any:
    """What `key.sub` is in settings; None where they have no such key."""
    value: Any = content
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _shown(value: float | None, digits: int) -> str:
    return "diverged" if value is None else f"{value:.{digits}f}"


def _in_words(chosen: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in chosen.items()
    )


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise InputError("tune needs Optuna: pip install 'isthmus[tune]'") from error
    return optuna

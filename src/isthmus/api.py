"""The verbs on Python objects: train a run, open one, evaluate it, compare two, recommend from it, score by it."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, overload

from torch import nn

from isthmus.data.dataset import Dataset, Split
from isthmus.errors import InputError, did_you_mean
from isthmus.evaluation.compare import Comparison
from isthmus.evaluation.compare import compare as compare_results
from isthmus.evaluation.ranking import RankingResult, corrected_for_sampling, evaluate_ranking, score_impressions
from isthmus.evaluation.ranking_summary import (
    RankingSummary,
    SavedRanking,
    compare_rankings,
    is_ranking_file,
    load_ranking,
    save_ranking,
    summarise_ranking,
)
from isthmus.evaluation.retrieval import RetrievalResult, TwoTowerScorer, evaluate_retrieval
from isthmus.evaluation.summary import SavedResult, Summary, load_result, save_result, summarise
from isthmus.files import AnyPath, alone_in, optional_path
from isthmus.metrics import domain_means, macro_means
from isthmus.models.ranker import is_for_targets_alone
from isthmus.models.two_tower import TwoTower
from isthmus.settings import AnyRunSettings, RankingRunSettings, RunSettings, read_any_settings
from isthmus.training.ranking import Stage, over_domains, validate
from isthmus.training.ranking_runs import require_ranking_fit, train_ranking_in_folder
from isthmus.training.ranking_stages import domain_numbers, judged_domains, kept_shares, new_ranking_model
from isthmus.training.retrieval import selection_value
from isthmus.training.runs import (
    SETTINGS,
    DatasetRecord,
    Device,
    begin,
    choose_device,
    fit_budget,
    new_model,
    read_weights,
    require_fit,
    train_in_folder,
)

if TYPE_CHECKING:  # serving loads its indexes; a process that trains has no use for 40 MiB of them
    import isthmus.serving.recommend

AnySummary = Summary | RankingSummary


@dataclass(frozen=True, repr=False)
class Run:
    """A trained model with its settings and its dataset; the weights are those of the best epoch."""

    path: Path
    settings: RunSettings
    dataset: Dataset
    model: TwoTower

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}, on the dataset {str(self.dataset.path)!r})"

    @classmethod
    def open(cls, folder: AnyPath, dataset: AnyPath | None = None, *, device: Device = "auto") -> "Run":
        """Open the run folder of a retrieval model; arguments and errors are those of `open_run`."""
        opened = open_run(Path(folder), optional_path(dataset), device=device)
        if not isinstance(opened, Run):
            raise InputError(f"{folder}: is the run of a click model, which cannot search; give one of retrieval")
        return opened

    @cached_property
    def recommender(self) -> "isthmus.serving.recommend.Recommender":
        from isthmus.serving.recommend import Recommender

        return Recommender(self.model, self.settings.retrieval, self.dataset, self.settings.index)

    def result_file(self, split: Split) -> Path:
        """Where an evaluation on that split is kept."""
        return self.path / "evaluation" / f"{split}.parquet"

    def evaluate(self, split: Split = "test") -> RetrievalResult:
        """Rank every held-out positive of a split; the result is also written to `evaluation/SPLIT.parquet`."""
        scorer = TwoTowerScorer(self.model, self.settings.retrieval, self.dataset, split)
        result = evaluate_retrieval(scorer, self.dataset, split)
        save_result(self.saved(result, split), self.result_file(split))
        return result

    def saved(self, result: RetrievalResult, split: Split) -> SavedResult:
        """The result with the names of its domains, as summaries and comparisons take it."""
        return SavedResult(result, self.dataset.schema.domain_names, split)

    def recommend(
        self, domain: str, *, user: str | None = None, history: Sequence[str] | None = None, k: int = 10
    ) -> "isthmus.serving.recommend.Recommendations":
        """The k best items of a domain for a known user or for a history of item ids; see `Recommender.recommend`.

        Raises:
            InputError: also where an id is no text.
        """
        require_text_ids(user, history)
        most = min(k, self.dataset.num_items)  # a list as long as k is made before it is cut
        return self.recommender.recommend(domain, user=user, history=history, k=most)

    def recommend_all(self, out: AnyPath, *, k: int = 10, domain: str | None = None) -> int:
        """Write the k best items of all users to a Parquet file; see `Recommender.recommend_all`."""
        return self.recommender.recommend_all(Path(out), k=min(k, self.dataset.num_items), domain=domain)

    def validation_value(self) -> float:
        """What settings are chosen by: nDCG on validation, the mean over domains."""
        scorer = TwoTowerScorer(self.model, self.settings.retrieval, self.dataset, "valid")
        result = evaluate_retrieval(scorer, self.dataset, "valid")
        names = self.dataset.schema.domain_names
        means = {name: domain_means(values, result.domain, len(names)) for name, values in result.metrics.items()}
        return selection_value(macro_means(means, names, rows="validation"))


@dataclass(frozen=True, repr=False)
class RankingRun:
    """A trained click model with its settings and its dataset; the weights are those of each stage's best epoch."""

    path: Path
    settings: RankingRunSettings
    dataset: Dataset
    model: nn.Module

    def __repr__(self) -> str:
        return f"RankingRun({str(self.path)!r}, on the dataset {str(self.dataset.path)!r})"

    @property
    def kept_shares(self) -> tuple[float, ...]:
        """Of each domain's negatives, the share that the model was trained on."""
        return kept_shares(self.dataset, self.settings.training)

    @property
    def trained_domains(self) -> tuple[int, ...]:
        """Numbers of the domains whose rows it was trained to score, ascending."""
        ranking, training = self.settings.ranking, self.settings.training
        if is_for_targets_alone(ranking):
            return judged_domains(self.dataset, ranking, training)
        return domain_numbers(self.dataset, training.domains, "training.domains")

    @classmethod
    def open(
        cls,
        folder: AnyPath,
        dataset: AnyPath | None = None,
        *,
        device: Device = "auto",
        dataset_option: str = "--dataset",
    ) -> "RankingRun":
        """Open the run folder of a click model; arguments and errors are those of `open_run`."""
        opened = open_run(Path(folder), optional_path(dataset), device=device, dataset_option=dataset_option)
        if not isinstance(opened, RankingRun):
            raise InputError(f"{folder}: is the run of a retrieval model, which gives no probabilities; train a ranker")
        return opened

    def result_file(self, split: Split) -> Path:
        """Where an evaluation on that split is kept."""
        return self.path / "evaluation" / f"{split}.parquet"

    def evaluate(self, split: Split = "test") -> RankingResult:
        """Score every held-out row of a split; the result is also written to `evaluation/SPLIT.parquet`.

        Rows of domains that were not trained on are left out. Where a share of the negatives was trained on, logits are
        corrected for it.
        """
        domains = self.trained_domains
        logit = score_impressions(self.model, self.dataset, split, self.settings.ranking.fields, domains=domains)
        result = evaluate_ranking(logit, self.dataset, split, domains=domains)
        corrected = corrected_for_sampling(result.logit, result.domain, self.kept_shares)
        result = replace(result, logit=corrected)
        save_ranking(self.saved(result, split), self.result_file(split))
        return result

    def saved(self, result: RankingResult, split: Split) -> SavedRanking:
        """The result with the names of its domains, as summaries and comparisons take it."""
        return SavedRanking(result, self.dataset.schema.domain_names, split, self.kept_shares)

    def score(self, rows: AnyPath, out: AnyPath) -> int:
        """Write the probabilities of a file of rows to a Parquet file; see `serving.score.score_file`."""
        from isthmus.serving.score import score_file

        fields, domains = self.settings.ranking.fields, self.trained_domains
        return score_file(
            self.model, self.dataset, fields, Path(rows), Path(out), kept_shares=self.kept_shares, domains=domains
        )

    def validation_value(self) -> float:
        """What settings are chosen by: AUC on validation, the mean over the domains that were trained for."""
        ranking, training = self.settings.ranking, self.settings.training
        domains = judged_domains(self.dataset, ranking, training)
        stage = Stage("final", 0, domains, ranking.fields)
        return over_domains(self.dataset, validate(self.dataset, self.model, stage), stage)["auc"]


def require_text_ids(user: object, history: object) -> None:
    """Refuses ids that are no text: a number is nobody's, and the answer would be that for someone unknown."""
    if isinstance(history, str):
        raise InputError(f"history: {history!r} is one text; give a list of ids, the latest last")
    items = history if isinstance(history, Iterable) else ()
    for name, given in (("user", user), *(("history", item) for item in items)):
        if given is not None and not isinstance(given, str):
            raise InputError(f"{name}: {given!r} is {type(given).__name__}, ids are text; give {str(given)!r}")


def open_run(
    folder: Path, dataset: Path | None = None, *, device: Device = "auto", dataset_option: str = "--dataset"
) -> Run | RankingRun:
    """Open a run folder.

    Args:
        dataset: where the run's dataset lies now, if not where it lay in training.
        dataset_option: what gives `dataset` on the command line, for the message that it is gone.

    Raises:
        InputError: the folder is no run, its dataset is gone or another one, or its checkpoint is missing or damaged.
    """
    record = DatasetRecord.read(folder)
    settings = read_any_settings(folder / SETTINGS)
    place = Path(record.path) if dataset is None else dataset
    if dataset is None and not place.is_dir():
        raise InputError(f"{folder}: its dataset {place} is gone; say where it lies now with {dataset_option}")
    opened = Dataset.open(place)
    record.require(opened)
    if isinstance(settings, RankingRunSettings):
        network = new_ranking_model(opened, settings.ranking, settings.training).to(choose_device(device))
        read_weights(folder, network)
        return RankingRun(folder, settings, opened, network)
    model = new_model(opened, settings.retrieval, settings.training).to(choose_device(device))
    read_weights(folder, model)
    return Run(folder, settings, opened, model)


@overload
def train(
    dataset: Path,
    run: Path,
    settings: RunSettings,
    *,
    device: Device = "auto",
    say: Callable[[str], None] = print,
    show_progress: bool = False,
) -> Run: ...


@overload
def train(
    dataset: Path,
    run: Path,
    settings: RankingRunSettings,
    *,
    device: Device = "auto",
    say: Callable[[str], None] = print,
    show_progress: bool = False,
) -> RankingRun: ...


@overload
def train(
    dataset: Path,
    run: Path,
    settings: AnyRunSettings,
    *,
    device: Device = "auto",
    say: Callable[[str], None] = print,
    show_progress: bool = False,
) -> Run | RankingRun: ...


def train(
    dataset: Path,
    run: Path,
    settings: AnyRunSettings,
    *,
    device: Device = "auto",
    say: Callable[[str], None] = print,
    show_progress: bool = False,
) -> Run | RankingRun:
    """Train a model on a dataset folder, in a run folder; goes on where an interrupted training stopped.

    Args:
        say: takes one line an epoch, and what else there is to know.

    Raises:
        InputError: the run folder holds something else, or a run of other settings or another dataset, or another
            process trains there; a setting does not fit the dataset.
    """
    chosen = choose_device(device)
    opened = Dataset.open(dataset)
    if isinstance(settings, RankingRunSettings):
        require_ranking_fit(opened, settings.ranking, settings.training)
        with alone_in(run):
            begin(run, settings.model_dump(mode="json"), opened)
            network = train_ranking_in_folder(
                run, opened, settings.ranking, settings.training, device=chosen, say=say, show_progress=show_progress
            )
        return RankingRun(run, settings, opened, network)
    if settings.parameter_budget is not None:
        fitted = fit_budget(opened, settings.retrieval, settings.parameter_budget)
        settings = settings.model_copy(update={"retrieval": fitted})
    require_fit(opened, settings.retrieval)
    with alone_in(run):
        begin(run, settings.model_dump(mode="json"), opened)
        model = train_in_folder(
            run,
            opened,
            settings.retrieval,
            settings.training,
            device=chosen,
            say=say,
            show_progress=show_progress,
        )
    return Run(run, settings, opened, model)


def evaluate(run: Path, split: str = "test", *, dataset: Path | None = None, device: Device = "auto") -> AnySummary:
    """Evaluate a run folder on a split, keep the result there, and sum it up."""
    opened = open_run(run, dataset, device=device)
    chosen = split_named(split)
    if isinstance(opened, RankingRun):
        return summarise_ranking(opened.saved(opened.evaluate(chosen), chosen))
    return summarise(opened.saved(opened.evaluate(chosen), chosen))


def compare(
    a: Path, b: Path, split: str = "test", *, dataset: Path | None = None, device: Device = "auto"
) -> Comparison:
    """Compare two run folders, or two result files, on the same held-out rows.

    A run folder is evaluated now, so that the result is that of its present weights.

    Args:
        dataset: where the dataset of the runs lies now, if it was moved.

    Raises:
        InputError: one is of retrieval and the other of ranking, or they are not over the same rows.
    """
    chosen = split_named(split)
    result_a, result_b = (_result_of(path, chosen, dataset, device) for path in (a, b))
    match result_a, result_b:
        case SavedRanking(), SavedRanking():
            return compare_rankings(result_a, result_b, name_a=str(a), name_b=str(b))
        case SavedResult(), SavedResult():
            return compare_results(result_a, result_b, name_a=str(a), name_b=str(b))
        case _:
            raise InputError(f"{a} and {b}: one is of retrieval and one of ranking; compare two of a kind")


def split_named(split: str) -> Split:
    """The held-out split of that name."""
    match split:
        case "valid" | "test":
            return split
        case _:
            raise InputError(f"split: {split!r} is not 'valid' or 'test'{did_you_mean(split, ('valid', 'test'))}")


def _result_of(path: Path, split: Split, dataset: Path | None, device: Device) -> SavedResult | SavedRanking:
    if not path.is_dir():
        return load_ranking(path) if is_ranking_file(path) else load_result(path)
    run = open_run(path, dataset, device=device)
    if isinstance(run, RankingRun):
        return run.saved(run.evaluate(split), split)
    return run.saved(run.evaluate(split), split)

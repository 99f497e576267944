"""The verbs on Python objects: train a run, open one, evaluate it, compare two, recommend from it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from isthmus.data.dataset import Dataset, Split
from isthmus.errors import InputError, did_you_mean
from isthmus.evaluation.compare import Comparison
from isthmus.evaluation.compare import compare as compare_results
from isthmus.evaluation.retrieval import RetrievalResult, TwoTowerScorer, evaluate_retrieval
from isthmus.evaluation.summary import SavedResult, Summary, load_result, save_result, summarise
from isthmus.models.two_tower import TwoTower
from isthmus.serving.recommend import Recommendations, Recommender
from isthmus.settings import RunSettings, read_settings
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


@dataclass(frozen=True)
class Run:
    """A trained model with its settings and its dataset; the weights are those of the best epoch."""

    path: Path
    settings: RunSettings
    dataset: Dataset
    model: TwoTower

    @classmethod
    def open(cls, folder: Path, dataset: Path | None = None, *, device: Device = "auto") -> "Run":
        """Open a run folder.

        Args:
            dataset: where the run's dataset lies now, if not where it lay in training.

        Raises:
            InputError: the folder is no run, its dataset is gone or another one, or its checkpoint is missing or
                damaged.
        """
        record = DatasetRecord.read(folder)
        settings = read_settings(folder / SETTINGS)
        place = Path(record.path) if dataset is None else dataset
        if dataset is None and not place.is_dir():
            raise InputError(f"{folder}: its dataset {place} is gone; say where it lies now with --dataset")
        opened = Dataset.open(place)
        record.require(opened)
        model = new_model(opened, settings.retrieval, settings.training).to(choose_device(device))
        read_weights(folder, model)
        return cls(folder, settings, opened, model)

    @cached_property
    def recommender(self) -> Recommender:
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
    ) -> Recommendations:
        """The k best items of a domain for a known user or for a history of item ids; see `Recommender.recommend`."""
        return self.recommender.recommend(domain, user=user, history=history, k=k)

    def recommend_all(self, out: Path, *, k: int = 10, domain: str | None = None) -> int:
        """Write the k best items of all users to a Parquet file; see `Recommender.recommend_all`."""
        return self.recommender.recommend_all(out, k=k, domain=domain)


def train(
    dataset: Path,
    run: Path,
    settings: RunSettings,
    *,
    device: Device = "auto",
    say: Callable[[str], None] = print,
    show_progress: bool = False,
) -> Run:
    """Train a model on a dataset folder, in a run folder; goes on where an interrupted training stopped.

    Args:
        say: takes one line an epoch, and what else there is to know.

    Raises:
        InputError: the run folder holds something else, or a run of other settings or another dataset; a setting does
            not fit the dataset.
    """
    chosen = choose_device(device)
    opened = Dataset.open(dataset)
    if settings.parameter_budget is not None:
        fitted = fit_budget(opened, settings.retrieval, settings.parameter_budget)
        settings = settings.model_copy(update={"retrieval": fitted})
    require_fit(opened, settings.retrieval)
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


def evaluate(run: Path, split: str = "test", *, dataset: Path | None = None, device: Device = "auto") -> Summary:
    """Evaluate a run folder on a split, keep the result there, and sum it up."""
    opened = Run.open(run, dataset, device=device)
    chosen = split_named(split)
    return summarise(opened.saved(opened.evaluate(chosen), chosen))


def compare(a: Path, b: Path, split: str = "test") -> Comparison:
    """Compare two run folders, or two result files, on the same held-out positives.

    A run folder is evaluated now, so that the result is that of its present weights.
    """
    chosen = split_named(split)
    return compare_results(_result_of(a, chosen), _result_of(b, chosen), name_a=str(a), name_b=str(b))


def split_named(split: str) -> Split:
    """The held-out split of that name."""
    match split:
        case "valid" | "test":
            return split
        case _:
            raise InputError(f"split: {split!r} is not 'valid' or 'test'{did_you_mean(split, ('valid', 'test'))}")


def _result_of(path: Path, split: Split) -> SavedResult:
    if not path.is_dir():
        return load_result(path)
    run = Run.open(path)
    return run.saved(run.evaluate(split), split)

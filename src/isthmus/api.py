"""The verbs on Python objects: train a run, open one, evaluate it, compare two, recommend from it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
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
from isthmus.files import alone_in
from isthmus.metrics import domain_means, macro_mean
from isthmus.models.cdanet import CDAnet
from isthmus.models.ranker import is_for_targets_alone
from isthmus.models.two_tower import TwoTower
from isthmus.settings import AnyRunSettings, RankingRunSettings, RunSettings, read_any_settings
from isthmus.training.checkpoint import BEST
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
    import isthmus.serving.bundle_files
    import isthmus.serving.recommend

AnySummary = Summary | RankingSummary


@dataclass(frozen=True)
class Run:
    """A trained model with its settings and its dataset; the weights are those of the best epoch."""

    path: Path
    settings: RunSettings
    dataset: Dataset
    model: TwoTower

    @classmethod
    def open(cls, folder: Path, dataset: Path | None = None, *, device: Device = "auto") -> "Run":
        """Open the run folder of a retrieval model; arguments and errors are those of `open_run`."""
        opened = open_run(folder, dataset, device=device)
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
        """The k best items of a domain for a known user or for a history of item ids; see `Recommender.recommend`."""
        return self.recommender.recommend(domain, user=user, history=history, k=k)

    def recommend_all(self, out: Path, *, k: int = 10, domain: str | None = None) -> int:
        """Write the k best items of all users to a Parquet file; see `Recommender.recommend_all`."""
        return self.recommender.recommend_all(out, k=k, domain=domain)

    def validation_value(self) -> float:
        """What settings are chosen by: nDCG on validation, the mean over domains."""
        scorer = TwoTowerScorer(self.model, self.settings.retrieval, self.dataset, "valid")
        result = evaluate_retrieval(scorer, self.dataset, "valid")
        names = self.dataset.schema.domain_names
        means = {name: domain_means(values, result.domain, len(names)) for name, values in result.metrics.items()}
        return selection_value({name: float(macro_mean(values, names)) for name, values in means.items()})


@dataclass(frozen=True)
class RankingRun:
    """A trained click model with its settings and its dataset; the weights are those of each stage's best epoch."""

    path: Path
    settings: RankingRunSettings
    dataset: Dataset
    model: nn.Module

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
    def open(cls, folder: Path, dataset: Path | None = None, *, device: Device = "auto") -> "RankingRun":
        """Open the run folder of a click model; arguments and errors are those of `open_run`."""
        opened = open_run(folder, dataset, device=device)
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

    def score(self, rows: Path, out: Path) -> int:
        """Write the probabilities of a file of rows to a Parquet file; see `serving.score.score_file`."""
        from isthmus.serving.score import score_file

        fields, domains = self.settings.ranking.fields, self.trained_domains
        return score_file(self.model, self.dataset, fields, rows, out, kept_shares=self.kept_shares, domains=domains)

    def validation_value(self) -> float:
        """What settings are chosen by: AUC on validation, the mean over the domains that were trained for."""
        ranking, training = self.settings.ranking, self.settings.training
        domains = judged_domains(self.dataset, ranking, training)
        stage = Stage("final", 0, domains, ranking.fields)
        return over_domains(self.dataset, validate(self.dataset, self.model, stage), stage)["auc"]


def open_run(folder: Path, dataset: Path | None = None, *, device: Device = "auto") -> Run | RankingRun:
    """Open a run folder.

    Args:
        dataset: where the run's dataset lies now, if not where it lay in training.

    Raises:
        InputError: the folder is no run, its dataset is gone or another one, or its checkpoint is missing or damaged.
    """
    record = DatasetRecord.read(folder)
    settings = read_any_settings(folder / SETTINGS)
    place = Path(record.path) if dataset is None else dataset
    if dataset is None and not place.is_dir():
        raise InputError(f"{folder}: its dataset {place} is gone; say where it lies now with --dataset")
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


def bundle(
    retrieval: Path,
    out: Path,
    *,
    ranking: Path | None = None,
    score_field: str | None = None,
    num_candidates: int = 200,
    dataset: Path | None = None,
    ranking_dataset: Path | None = None,
    exact_below: int = 100_000,
    with_onnx: bool = True,
    drift_rows: int = 1000,
    shard: tuple[int, int] | None = None,
) -> "isthmus.serving.bundle_files.Manifest":
    """Put all that serving needs of a retrieval run and, where given, a ranking run into one folder.

    Args:
        score_field: the number field of side `row` in the ranker's data that takes retrieval's score.
        num_candidates: items that retrieval hands to the click model, at least as many as are asked for.
        dataset, ranking_dataset: where the runs' datasets lie now, if they were moved.
        exact_below: a domain with fewer items is searched exactly.
        with_onnx: also write copies of the networks for ONNX Runtime, which is what then serves.
        drift_rows: of each domain, the training rows that drift is measured from; 0: none.
        shard: (i, n): of every corpus only the items whose row leaves i when divided by n; see docs/deployment.md.

    Raises:
        InputError: a run cannot be opened, the runs do not fit each other, or `out` holds something else than a bundle.
    """
    from isthmus.serving.bundle import RankingParts, RetrievalParts, write_bundle
    from isthmus.serving.bundle_files import Shard

    if drift_rows < 0:
        raise InputError(f"drift_rows: {drift_rows} is below 0")
    if shard is not None and not 0 <= shard[0] < shard[1]:
        raise InputError(f"shard: {shard[0]}/{shard[1]} is none; of n there are 0/n to (n - 1)/n")
    run = Run.open(retrieval, dataset, device="cpu")
    parts = RetrievalParts(run.model, run.settings.retrieval, run.settings.index, run.dataset, retrieval / BEST)
    click = None
    if ranking is not None:
        ranker = RankingRun.open(ranking, ranking_dataset, device="cpu")
        chosen, names = ranker.settings.ranking, ranker.dataset.schema.domain_names
        judged = judged_domains(ranker.dataset, chosen, ranker.settings.training)
        click = RankingParts(
            model=ranker.model,
            settings=chosen,
            dataset=ranker.dataset,
            domains=tuple(names[number] for number in judged),
            targets=ranker.model.targets if isinstance(ranker.model, CDAnet) else (),
            num_candidates=num_candidates,
            score_field=score_field,
            kept_shares=ranker.kept_shares,
            weights=ranking / BEST,
        )
    elif score_field is not None:
        raise InputError(f"score_field: {score_field!r} is of the ranker's data, and no ranking run is given")
    return write_bundle(
        out,
        parts,
        click,
        exact_below=exact_below,
        now=datetime.now(UTC),
        with_onnx=with_onnx,
        drift_rows=drift_rows,
        shard=None if shard is None else Shard(place=shard[0], count=shard[1]),
    )


def evaluate(run: Path, split: str = "test", *, dataset: Path | None = None, device: Device = "auto") -> AnySummary:
    """Evaluate a run folder on a split, keep the result there, and sum it up."""
    opened = open_run(run, dataset, device=device)
    chosen = split_named(split)
    if isinstance(opened, RankingRun):
        return summarise_ranking(opened.saved(opened.evaluate(chosen), chosen))
    return summarise(opened.saved(opened.evaluate(chosen), chosen))


def compare(a: Path, b: Path, split: str = "test") -> Comparison:
    """Compare two run folders, or two result files, on the same held-out rows.

    A run folder is evaluated now, so that the result is that of its present weights.

    Raises:
        InputError: one is of retrieval and the other of ranking, or they are not over the same rows.
    """
    chosen = split_named(split)
    result_a, result_b = _result_of(a, chosen), _result_of(b, chosen)
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


def _result_of(path: Path, split: Split) -> SavedResult | SavedRanking:
    if not path.is_dir():
        return load_ranking(path) if is_ranking_file(path) else load_result(path)
    run = open_run(path)
    if isinstance(run, RankingRun):
        return run.saved(run.evaluate(split), split)
    return run.saved(run.evaluate(split), split)

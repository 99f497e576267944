"""Click models side by side: every row of a table trained and judged on every problem with every seed.

A problem is a prepared dataset and the domains that its test rows are judged in. Each finished (row, problem, seed) is
kept, so that an interrupted reproduction goes on where it stopped.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from isthmus.api import RankingRun, train
from isthmus.data.dataset import Dataset
from isthmus.errors import InputError
from isthmus.evaluation.ranking import RankingResult, evaluate_ranking, ranking_metrics
from isthmus.evaluation.ranking_references import RankingReference, reference_logits
from isthmus.evaluation.ranking_summary import SavedRanking, load_ranking, save_ranking
from isthmus.experiments.jobs import run_jobs
from isthmus.files import read_yaml, write_text
from isthmus.models.cdanet import CDAnetSettings
from isthmus.models.keep import KEEPSettings
from isthmus.settings import RankingRunSettings
from isthmus.training.runs import SETTINGS, count_parameters, remove_weights
from isthmus.tuning import Search, tune

RESULT, FACTS = "result.parquet", "facts.json"


@dataclass(frozen=True)
class Problem:
    """What is asked: in these domains of this dataset, which rows are positives.

    Attributes:
        name: also of the folder of its results.
        targets: names of the domains that are judged.
    """

    name: str
    dataset: Path
    targets: tuple[str, ...]


@dataclass(frozen=True)
class Row:
    """A line of the table: a click model with its settings.

    Attributes:
        is_single: trained on the target's rows alone, one model a target.
        search: the settings that are searched for it on validation rows; empty: none.
        by_target: what a search found for single targets, where the row has a model of each; else `settings` hold.
        judge: how its trained models are judged, a function of a module; None: on the test rows as they are.
    """

    method: str
    group: str
    settings: RankingRunSettings
    is_single: bool = False
    search: Mapping[str, Any] = field(default_factory=dict)
    by_target: Mapping[str, RankingRunSettings] = field(default_factory=dict)
    judge: Callable[[RankingRun], RankingResult] | None = None

    @property
    def folder(self) -> str:
        return "".join(letter if letter.isalnum() else "-" for letter in self.method.lower())

    def models(self, targets: tuple[str, ...]) -> list[tuple[str, ...]]:
        """The targets of each of its models: one for all, or one for each where it is trained on one alone."""
        return [(target,) for target in targets] if self.is_single else [targets]

    def settings_for(self, targets: tuple[str, ...]) -> RankingRunSettings:
        """Its settings where these domains are judged."""
        if self.is_single:
            settings = self.by_target.get(targets[0], self.settings)
            return settings.model_copy(update={"training": settings.training.model_copy(update={"domains": targets})})
        if isinstance(self.settings.ranking, CDAnetSettings | KEEPSettings):
            ranking = self.settings.ranking.model_copy(update={"targets": targets})
            return self.settings.model_copy(update={"ranking": ranking})
        return self.settings

    def changed(self, change: Callable[[RankingRunSettings], RankingRunSettings], **named: Any) -> "Row":
        """A row with all its settings changed, and what else is named."""
        by_target = {target: change(found) for target, found in self.by_target.items()}
        return replace(self, settings=change(self.settings), by_target=by_target, **named)


@dataclass(frozen=True)
class ReferenceRow:
    """A line of the table: a simple method without a network."""

    method: str
    group: str
    reference: RankingReference


@dataclass(frozen=True)
class Job:
    """One model to train and judge."""

    method: str
    problem: Problem
    settings: RankingRunSettings
    folder: Path
    judge: Callable[[RankingRun], RankingResult] | None = None

    @property
    def file(self) -> Path:
        return self.folder / RESULT

    def run(self) -> str:
        return run_job(self)

    def __str__(self) -> str:
        return (
            f"{self.method}, {self.problem.name}, {'+'.join(self.problem.targets)}, seed {self.settings.training.seed}"
        )


@dataclass(frozen=True)
class ReferenceJob:
    """One simple method to fit and judge."""

    row: ReferenceRow
    problem: Problem
    folder: Path

    @property
    def file(self) -> Path:
        return self.folder / RESULT

    def run(self) -> str:
        return run_reference(self)

    def __str__(self) -> str:
        return f"{self.row.method}, {self.problem.name}"


@dataclass(frozen=True)
class TuneJob:
    """The search of the settings of one of a row's models on the validation rows of the targets that it is for."""

    row: Row
    problem: Problem
    search: Search
    train_share: float
    folder: Path

    @property
    def file(self) -> Path:
        return self.folder / f"best-of-{self.search.trials}.json"

    def run(self) -> str:
        return run_tuning(self)

    def __str__(self) -> str:
        return f"search for {self.row.method}" + (f", {self.problem.targets[0]}" if self.row.is_single else "")


Results = dict[tuple[str, str, str], list[RankingResult]]
"""By method, problem and target: the judged rows of each seed."""


def chosen(rows: Sequence[Row], methods: Sequence[str] | None, control: str) -> list[Row]:
    """The rows of these methods and the control, which paired tests are against; None: all rows.

    Raises:
        InputError: a method has no row.
    """
    known = [row.method for row in rows]
    for method in methods or ():
        if method not in known:
            raise InputError(f"method: no row is called {method!r}; known are {'; '.join(known)}")
    return [row for row in rows if methods is None or row.method in (*methods, control)]


def tuned(
    rows: Sequence[Row],
    problem: Problem,
    out: Path,
    *,
    trials: int,
    say: Callable[[str], None],
    share: float = 1.0,
) -> list[Row]:
    """The rows with the settings that do best on one problem's validation rows: as many trials for each, one seed.

    A row with a model a target is searched for each; what is found for the first holds for targets of other problems.

    Args:
        trials: 0: the rows as they are.
        share: of the training rows, the share that trials are trained on.

    Raises:
        InputError: `trials` is below 0, or a finished search was of other settings.
    """
    if trials < 0:
        raise InputError(f"trials: {trials} is below 0")
    searched = [row for row in rows if row.search and trials]
    jobs = [
        TuneJob(
            row,
            replace(problem, targets=targets),
            search_of(row, trials),
            share,
            out / "tuning" / row.folder / (targets[0] if row.is_single else ""),
        )
        for row in searched
        for targets in row.models(problem.targets)
    ]
    for job in jobs:
        if job.file.is_file():
            job.run()  # reads the kept trials again, and refuses them where the search is another one now
    run_jobs(jobs, None, say)
    found: dict[str, dict[str, RankingRunSettings]] = {}
    for job in jobs:
        settings = RankingRunSettings.model_validate(json.loads(job.file.read_text(encoding="utf-8")))
        found.setdefault(job.row.method, {})[job.problem.targets[0]] = settings

    def with_found(row: Row) -> Row:
        by_target = found[row.method]
        return replace(row, settings=by_target[problem.targets[0]], by_target=by_target if row.is_single else {})

    return [with_found(row) if row.method in found else row for row in rows]


def search_of(row: Row, trials: int) -> Search:
    """A row's search: all that it tries is drawn, for a row's declared settings are what was found for others."""
    return Search(trials=trials, begin_as_given=False, space=dict(row.search))


def run_tuning(job: TuneJob) -> str:
    """Search the settings of one of a row's models, by the mean over its targets; gives those of the best trial."""
    settings = job.row.settings_for(job.problem.targets)
    settings = settings.model_copy(
        update={"training": settings.training.model_copy(update={"train_share": job.train_share})}
    )
    lines: list[str] = []
    best = tune(job.problem.dataset, job.folder, settings, job.search, say=lines.append)
    assert isinstance(best, RankingRunSettings)
    # Targets and the share of the rows belong to the problem, not to what was found.
    declared = job.row.settings.training
    found = best.model_copy(
        update={
            "training": best.training.model_copy(
                update={"domains": declared.domains, "train_share": declared.train_share}
            ),
            "ranking": job.row.settings.ranking.model_validate(
                best.ranking.model_dump() | only_targets(job.row.settings.ranking.model_dump())
            ),
        }
    )
    write_text(job.file, json.dumps(found.model_dump(mode="json"), indent=1) + "\n")
    return lines[-1]


def only_targets(settings: dict[str, Any]) -> dict[str, Any]:
    """Which domains the model was declared for, where it can be."""
    return {"targets": settings["targets"]} if "targets" in settings else {}


def run_grid(
    rows: Sequence[Row],
    references: Sequence[ReferenceRow],
    problems: Sequence[Problem],
    seeds: Sequence[int],
    out: Path,
    say: Callable[[str], None],
) -> Results:
    """Train and judge what is not finished yet; gives all results.

    Raises:
        InputError: a finished row was trained with other settings.
    """
    jobs: list[Job | ReferenceJob] = [
        ReferenceJob(
            row, problem, out / "references" / problem.name / "".join(c if c.isalnum() else "-" for c in row.method)
        )
        for row in references
        for problem in problems
    ]
    for seed in seeds:
        for problem in problems:
            for row in rows:
                for targets in row.models(problem.targets):
                    settings = row.settings_for(targets)
                    settings = settings.model_copy(
                        update={"training": settings.training.model_copy(update={"seed": seed})}
                    )
                    folder = out / "rows" / row.folder / problem.name / "+".join(targets) / str(seed)
                    part = replace(problem, targets=targets)
                    jobs.append(Job(row.method, part, settings, folder, row.judge))
    for job in jobs:
        if isinstance(job, Job) and job.file.is_file():
            require_same_settings(job)
    run_jobs(jobs, None, say)
    results: Results = {}
    for job in jobs:
        method = job.method if isinstance(job, Job) else job.row.method
        saved = load_ranking(job.file)
        for target in job.problem.targets:
            of_target = saved.result.select(saved.result.domain == saved.domain_names.index(target))
            results.setdefault((method, job.problem.name, target), []).append(of_target)
    return results


def require_same_settings(job: Job) -> None:
    """Refuse a finished row of other settings, which would stand in the table as what it is not."""
    kept = read_yaml(job.folder / SETTINGS, remedy="delete the folder, and the row is trained again")
    if RankingRunSettings.model_validate(kept) != job.settings:
        raise InputError(
            f"{job.folder}: a finished run of {job.method} with other settings than it has now, by another search or "
            "number of trials; give another --out, or delete this folder"
        )


def run_reference(job: ReferenceJob) -> str:
    """Fit a simple method and judge it on the test rows; gives its result in short."""
    dataset = Dataset.open(job.problem.dataset)
    result = evaluate_ranking(reference_logits(job.row.reference, dataset, "test"), dataset, "test")
    return keep(result, dataset.schema.domain_names, job.problem, job.file)


def run_job(job: Job) -> str:
    """Train a click model and judge it on the test rows; gives its result in short."""
    start = time.perf_counter()
    run = train(job.problem.dataset, job.folder, job.settings, device="cpu", say=lambda _: None)
    result = run.evaluate("test") if job.judge is None else job.judge(run)
    seconds = time.perf_counter() - start
    facts = {"parameters": count_parameters(run.model).networks, "seconds": seconds}
    write_text(job.folder / FACTS, json.dumps(facts) + "\n")
    remove_weights(job.folder)
    return f"{keep(result, run.dataset.schema.domain_names, job.problem, job.file)} ({seconds:.0f} s)"


def keep(result: RankingResult, names: tuple[str, ...], problem: Problem, file: Path) -> str:
    """Write a result; gives it in short."""
    save_ranking(SavedRanking(result, names, "test"), file)
    values = ranking_metrics(result, names)
    return "AUC " + ", ".join(f"{target} {values[target]['auc']:.4f}" for target in problem.targets)

"""Click models of books and movies with readable titles: what the content study and the lists side by side look into.

The data set has purchases and no clock: positives are split at random and negatives drawn by popularity. A finished
run keeps its weights, so that what looks into a model trains nothing again.
"""

import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from isthmus.api import RankingRun, train
from isthmus.data.dataset import Dataset
from isthmus.data.prepare import prepare
from isthmus.data.public.amazon_pairs import ingest_kg_books_movies
from isthmus.data.text import tfidf_vectors
from isthmus.errors import InputError
from isthmus.experiments.cdanet_rows import CDANET, EXTRACTORS, JOINT, MAIN
from isthmus.experiments.jobs import run_jobs
from isthmus.experiments.ranking_grid import Row
from isthmus.files import write_text
from isthmus.models.cdanet import CDAnetSettings
from isthmus.models.ctr import CTRSettings
from isthmus.settings import RankingRunSettings
from isthmus.training.ranking import RankingTrainingSettings

BOOKS, MOVIES = "Books", "Movies_and_TV"
WITHOUT_TITLES = ("user_id", "history", "other_history", "item_id")
TITLE_DIM = 256  # titles are short: fewer dimensions hold little but words such as 'the' and 'of'
EPOCHS, QUICK_EPOCHS = 8, 2
DROPOUT, INITIAL_STD = 0.2, 0.1
FACTS = "facts.json"
DISAMBIGUATION = re.compile(r"\s*\([^()]*\)$")


@dataclass(frozen=True)
class TitledJob:
    """One model to train; its folder keeps settings and weights."""

    method: str
    dataset: Path
    settings: RankingRunSettings
    folder: Path

    @property
    def file(self) -> Path:
        return self.folder / FACTS

    def run(self) -> str:
        return run_job(self)

    def __str__(self) -> str:
        return f"{self.method}, seed {self.settings.training.seed}"


Runs = dict[str, list[RankingRun]]
"""By method, the run of each seed."""


def main_row(*, with_titles: bool, quick: bool) -> Row:
    """CDAnet+MMoE."""
    fields = None if with_titles else WITHOUT_TITLES
    ranking = CDAnetSettings(
        fields=fields,
        extractor=EXTRACTORS["MMoE"],
        dropout=DROPOUT,
        initial_std=INITIAL_STD,
        stages="both" if with_titles else "translation",  # without titles, only the first stage is looked into
    )
    method = f"{MAIN}, {'with' if with_titles else 'without'} titles"
    return Row(method, CDANET, RankingRunSettings(ranking=ranking, training=training(quick=quick)))


def base_row(*, quick: bool) -> Row:
    """The same extractor as a plain click model of both domains, with titles: CDAnet without translation."""
    ranking = CTRSettings(backbone=EXTRACTORS["MMoE"], dropout=DROPOUT, initial_std=INITIAL_STD)
    return Row("Base (MMoE), with titles", JOINT, RankingRunSettings(ranking=ranking, training=training(quick=quick)))


def training(*, quick: bool) -> RankingTrainingSettings:
    """How all of these models are trained; nothing is searched."""
    return RankingTrainingSettings(
        seed=0,
        epochs=QUICK_EPOCHS if quick else EPOCHS,
        batch_size=2048,
        learning_rate=1e-2,
        network_learning_rate=2e-3,
        patience=1,
    )


def prepared(data: Path, out: Path, say: Callable[[str], None]) -> Dataset:
    """The dataset in the output folder, prepared unless it is there.

    Args:
        data: the folder of the data set's own files.
    """
    folder = out / "dataset"
    if not folder.is_dir():
        say("preparing books and movies")
        prepare(ingest_kg_books_movies(data, out / "log"), folder)
    return Dataset.open(folder)


def trained(
    rows: Sequence[Row], dataset: Dataset, num_seeds: int, out: Path, *, quick: bool, say: Callable[[str], None]
) -> Runs:
    """The runs of every row with every seed, trained unless they are there; the weights are those of the best epoch.

    Raises:
        InputError: there is less than one seed.
    """
    if num_seeds < 1:
        raise InputError(f"seeds: {num_seeds} is not 1 or more")
    jobs = []
    for seed in range(1 if quick else num_seeds):
        for row in rows:
            training = row.settings.training.model_copy(update={"seed": seed})
            settings = row.settings.model_copy(update={"training": training})
            folder = out / ("quick-rows" if quick else "rows") / row.folder / str(seed)
            jobs.append(TitledJob(row.method, dataset.path, settings, folder))
    run_jobs(jobs, None, say)
    runs: Runs = {}
    for job in jobs:
        runs.setdefault(job.method, []).append(RankingRun.open(job.folder, dataset.path, device="cpu"))
    return runs


def run_job(job: TitledJob) -> str:
    """Train a click model; gives its result on validation rows in short."""
    start = time.perf_counter()
    run = train(job.dataset, job.folder, job.settings, device="cpu", say=lambda _: None)
    value, seconds = run.validation_value(), time.perf_counter() - start
    write_text(job.file, json.dumps({"validation_auc": value, "seconds": seconds}) + "\n")
    return f"validation AUC {value:.4f} ({seconds:.0f} s)"


def item_titles(dataset: Dataset) -> list[str]:
    """The title of each item row; row 0, which stands for all unknown items, has an empty one."""
    titles = dataset.titles()
    assert titles is not None, "the data set's declaration names its titles"
    return [str(title).strip() for title in titles]


def without_disambiguation(title: str) -> str:
    """The title without brackets at its end: `(novel)` or `(1995 film)` say what a thing is, not what it is about."""
    return DISAMBIGUATION.sub("", title)


def title_vectors(titles: Sequence[str], dim: int = TITLE_DIM) -> Float[torch.Tensor, "item dim"]:
    """Unit vectors of titles, all of them known; zero where a title has no word. A product is a cosine."""
    texts = [without_disambiguation(title) for title in titles]
    vectors = torch.from_numpy(tfidf_vectors(texts, np.array([bool(text) for text in texts]), dim=dim))
    return torch.nn.functional.normalize(vectors, dim=1)

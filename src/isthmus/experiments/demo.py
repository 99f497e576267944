"""The whole way once, on real data where it is at hand: prepare, train ADI, compare, recommend, rank, serve."""

import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from isthmus.api import Run, train
from isthmus.data.audit import audit
from isthmus.data.dataset import Dataset
from isthmus.data.describe import describe
from isthmus.data.prepare import prepare
from isthmus.data.public.xmrec import ingest_xmrec
from isthmus.data.simulator import simulate
from isthmus.errors import InputError
from isthmus.evaluation.reference_rows import ReferenceScorer, popularity_by_domain, training_interactions
from isthmus.evaluation.references import Reference, fit_ease, fit_item_knn
from isthmus.evaluation.retrieval import evaluate_retrieval
from isthmus.experiments.adi_table_3 import by_domain
from isthmus.experiments.adi_table_3_rows import BEST_ADI, ROWS
from isthmus.experiments.demo_ranking import rank_retrieved
from isthmus.experiments.demo_serving import answer_from_bundle
from isthmus.experiments.table import Table, TableRow
from isthmus.settings import RunSettings

XMREC = "xmrec_wsdm22"
NUM_USERS_SHOWN = 2


def demo(data: Path | None, out: Path) -> Path:
    """Make a dataset, trained runs, a table and a bundle in `out`, and print what came of it; gives the bundle.

    Args:
        data: a folder that may hold the folder `xmrec_wsdm22`; without it, a three-domain log is generated.

    Raises:
        InputError: `data` is no folder.
    """
    if data is not None and not data.is_dir():
        raise InputError(f"{data}: no such folder; give one that holds {XMREC}, or none")
    settings = next(row.settings for row in ROWS if row.method == BEST_ADI)
    source = None if data is None else data / XMREC
    if source is not None and source.is_dir():
        print(f"data: the WSDM Cup 2022 cross-market purchases in {source}")
        log, dataset = out / "xmrec" / "log", out / "xmrec" / "dataset"
        if not log.is_dir():
            log.parent.mkdir(parents=True, exist_ok=True)
            ingest_xmrec(source, log)
        run = out / "xmrec" / "run"
    else:
        reason = "no real data at hand (set ISTHMUS_DATA)" if data is None else f"no {XMREC} in {data}"
        print(f"data: {reason}, so three domains are generated")
        log, dataset = out / "generated" / "log", out / "generated" / "dataset"
        if not log.is_dir():
            log.parent.mkdir(parents=True, exist_ok=True)
            simulate(log, seed=0)
        run = out / "generated" / "run"
        settings = settings.model_copy(
            update={"retrieval": settings.retrieval.model_copy(update={"fields": None, "embedding_dim": 64})}
        )
    opened = Dataset.open(dataset) if dataset.is_dir() else prepare(log / "log.yaml", dataset)
    print(f"\n{describe(dataset).to_markdown()}\n")
    show_audit(dataset)
    print("\ntraining ADI: one model for all domains")
    trained = train(dataset, run, settings, show_progress=sys.stderr.isatty())
    table = compared(opened, trained, settings)
    print(f"\n{table.to_markdown()}")
    print(f"table and picture: {table.write(out).parent}\n")
    show_recommendations(opened, trained)
    rank_retrieved(opened, trained, run.parent / "ranking")
    answer_from_bundle(opened, run, run.parent / "ranking" / "run", run.parent / "bundle")
    return run.parent / "bundle"


def show_audit(dataset: Path) -> None:
    """Print whether the split is clean.

    Raises:
        InputError: it is not.
    """
    findings = audit(dataset)
    if wrong := [finding for finding in findings if not finding.ok]:
        raise InputError(f"{dataset}: {wrong[0].check}: {wrong[0].detail}; delete the folder and run the demo again")
    print(f"audit: {len(findings)} checks passed; nothing held out is known to training")


def compared(dataset: Dataset, run: Run, settings: RunSettings) -> Table:
    """ADI beside the simple methods, on the test positives."""
    names = dataset.schema.domain_names
    interactions = training_interactions(dataset)
    everywhere = range(dataset.num_domains)
    references: Mapping[str, dict[int, Reference]] = {
        "popularity of the domain": popularity_by_domain(dataset),
        "item-kNN, all domains": dict.fromkeys(
            everywhere, fit_item_knn(interactions, num_neighbours=5000, shrink=50.0)
        ),
        "EASE, all domains": dict.fromkeys(everywhere, fit_ease(interactions, l2=300.0)),
    }
    rows = []
    for name, by_number in references.items():
        result = evaluate_retrieval(ReferenceScorer(by_number, dataset, "test"), dataset, "test")
        rows.append(TableRow(name, "simple methods", [by_domain(result, names)], 0, {}, ""))
    result = run.evaluate("test")
    rows.append(TableRow("ADI", "trained here", [by_domain(result, names)], 0, {}, ""))
    return Table(
        title="Held-out positives of all users",
        domains=names,
        main_metric="recall@10",
        macro_metrics=("ndcg@10", "corpus_recall@100"),
        rows=tuple(rows),
        notes=(f"`recall@10` is against lists of 100 candidates; ADI: seed {settings.training.seed}.",),
    )


def show_recommendations(dataset: Dataset, run: Run) -> None:
    """Print the best items of a few users of each domain."""
    users = dataset.vocabulary("user")
    events = dataset.events["test"]
    bounds = events.domain_bounds(dataset.num_domains)
    for domain, name in enumerate(dataset.schema.domain_names):
        rows = np.asarray(events.user_row[bounds[domain] : bounds[domain + 1]])
        known = np.unique(rows[rows > 0])[:NUM_USERS_SHOWN]
        for user_row in known.tolist():
            answer = run.recommend(name, user=users[user_row - 1], k=5)
            print(f"{name}, user {users[user_row - 1]} (by {answer.basis}):")
            for item in answer.items:
                print(f"    {item.score:8.3f}  {item.item}  {item.title or ''}".rstrip())

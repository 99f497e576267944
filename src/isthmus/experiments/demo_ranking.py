"""The second half of the demo: a ranker trained on what retrieval found, and what it makes of the retrieved lists.

The data has purchases and nothing that was shown and not bought, so the ranker's negatives are items that retrieval
finds for a user and that training does not know as bought. Half of the users give these rows; the other half, whom the
ranker has seen nothing of, are re-ranked.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
import yaml
from jaxtyping import Float

from isthmus.api import RankingRun, Run, train
from isthmus.data.dataset import Dataset
from isthmus.data.prepare import prepare
from isthmus.evaluation.retrieval import TwoTowerScorer
from isthmus.experiments.cdanet_rows import EXTRACTORS
from isthmus.files import markdown_table
from isthmus.models.cdanet import CDAnetSettings
from isthmus.settings import RankingRunSettings
from isthmus.training.ranking import RankingTrainingSettings

NUM_RETRIEVED, NUM_LISTED = 50, 10
BLOCK = 4096
NUM_NEGATIVES = 10  # of each training user and domain, drawn among what was retrieved
SETTINGS = RankingRunSettings(
    ranking=CDAnetSettings(extractor=EXTRACTORS["MMoE"], embedding_dim=32, dropout=0.2),
    training=RankingTrainingSettings(seed=0, epochs=6, patience=1, batch_size=2048),
)


def rank_retrieved(dataset: Dataset, run: Run, out: Path) -> None:
    """Train CDAnet on retrieved lists in `out`, re-rank those of the other users, and print what changed."""
    print("\nranking: no one was shown anything in this data, so labels are made: 1 bought in training and scored high")
    print("enough to be retrieved, 0 retrieved but not bought in training, with retrieval's own score as a feature;")
    print("half of the users train the ranker, the others' lists are re-ranked")
    retrieved = out / "retrieved.parquet"
    out.mkdir(parents=True, exist_ok=True)
    if not retrieved.is_file():
        run.recommend_all(retrieved, k=NUM_RETRIEVED)
    lists = pq.read_table(retrieved)
    folder = out / "dataset"
    ranked = Dataset.open(folder) if folder.is_dir() else prepare(write_log(dataset, run, lists, out / "log"), folder)
    ranker = train(ranked.path, out / "run", SETTINGS)
    show(dataset, lists, ranker, out)


def trains_ranker(users: pa.ChunkedArray) -> np.ndarray:
    """Whether each user belongs to the half that the ranker is trained on: by the user's id alone."""
    sums = [sum(text.encode()) % 2 == 0 for text in users.to_pylist()]
    return np.array(sums, dtype=bool)


def write_log(dataset: Dataset, run: Run, lists: pa.Table, folder: Path) -> Path:
    """The training half's purchases and some of its retrieved items as a labelled log; gives its declaration."""
    users, items = pa.array(["", *dataset.vocabulary("user")]), pa.array(["", *dataset.vocabulary("item")])
    names = pa.array(dataset.schema.domain_names)
    bought = dataset.events["train"]
    positives = pa.table(
        {
            "user": users.take(pa.array(np.asarray(bought.user_row))),
            "item": items.take(pa.array(np.asarray(bought.item_row))),
            "domain": names.take(pa.array(np.asarray(bought.domain))),
            "score": pa.array(own_scores(dataset, run)),
            "bought": pa.array(np.ones(bought.num_rows, np.int64)),
        }
    )
    # Anywhere in the list: the first places alone would teach the ranker to undo what retrieval has done.
    is_drawn = np.random.default_rng(0).random(len(lists)) < NUM_NEGATIVES / NUM_RETRIEVED
    drawn = lists.filter(pa.array(is_drawn)).select(["user", "item", "domain", "score"])
    negatives = drawn.append_column("bought", pa.array(np.zeros(len(drawn), np.int64)))
    log = pa.concat_tables([within_reach(positives, lists), negatives.cast(positives.schema)])
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(log.filter(pa.array(trains_ranker(log["user"]))), folder / "events.parquet")
    content = {
        "name": "retrieved",
        "events": {
            "files": ["events.parquet"],
            "user": "user",
            "item": "item",
            "domain": "domain",
            "positive": {"column": "bought"},
        },
        "domains": {name: {} for name in dataset.schema.domain_names},
        "fields": [
            {"name": "history", "side": "user", "kind": "history", "scope": "own", "table": "item"},
            {"name": "item", "side": "item", "kind": "id", "table": "item"},
            {"name": "score", "side": "row", "kind": "number"},
        ],
        "split": {"by": "random"},
        "ranking": {"negatives": "explicit"},
    }
    (folder / "log.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return folder / "log.yaml"


def within_reach(positives: pa.Table, lists: pa.Table) -> pa.Table:
    """The purchases that retrieval's score would bring into the user's list: the ranker meets no others. With all of
    them, low scores were bought and higher ones were not, and the ranker learned to turn retrieval's order round.
    """
    last = lists.group_by(["user", "domain"]).aggregate([("score", "min")])
    joined = positives.join(last, keys=["user", "domain"], join_type="inner")
    kept = joined.filter(pc.greater_equal(joined["score"], joined["score_min"])).select(positives.column_names)
    return kept.sort_by([("domain", "ascending"), ("user", "ascending"), ("item", "ascending")])


@torch.inference_mode()
def own_scores(dataset: Dataset, run: Run) -> Float[np.ndarray, " row"]:
    """Retrieval's score of each training purchase, the purchase itself left out of the history, as in training."""
    events = dataset.events["train"]
    scorer = TwoTowerScorer(run.model, run.settings.retrieval, dataset, "train")
    bounds = events.domain_bounds(dataset.num_domains)
    scores = np.zeros(events.num_rows, np.float32)
    for domain in range(dataset.num_domains):
        corpus = dataset.corpus(domain)
        for start in range(bounds[domain], bounds[domain + 1], BLOCK):
            rows = np.arange(start, min(start + BLOCK, bounds[domain + 1]))
            place = np.searchsorted(corpus, np.asarray(events.item_row[rows]))
            scores[rows] = scorer(domain, rows).cpu().numpy()[np.arange(len(rows)), place]
    return scores


def show(dataset: Dataset, lists: pa.Table, ranker: RankingRun, out: Path) -> None:
    """Print, by domain, how often the held-out purchase is among the first ten as retrieved and as ranked."""
    asked = lists.filter(pa.array(~trains_ranker(lists["user"])))
    rows = out / "rows.parquet"
    pq.write_table(asked.select(["user", "item", "domain", "score"]), rows)
    ranker.score(rows, out / "scored.parquet")
    asked = asked.append_column("probability", pq.read_table(out / "scored.parquet")["probability"])
    held_out = held_out_pairs(dataset)
    table = []
    for name in dataset.schema.domain_names:
        ours = asked.filter(pc.equal(asked["domain"], name))
        as_retrieved, as_ranked = hits(ours, held_out, "rank"), hits(ours, held_out, "probability")
        table.append([name, f"{len(pc.unique(ours['user'])):,}", f"{as_retrieved:,}", f"{as_ranked:,}"])
    header = ["domain", "users", f"held-out items in the first {NUM_LISTED} as retrieved", "as ranked"]
    print(f"\n{markdown_table(header, table)}\n")
    print(
        "(labels made in this way say what training has, not what is bought next: where logs of what was shown exist,"
    )
    print("declare them with 'ranking' and train on those)\n")
    show_one(asked, dataset.schema.domain_names)


def held_out_pairs(dataset: Dataset) -> set[tuple[str, str, str]]:
    """User, item and domain of every test positive."""
    users, items = ["", *dataset.vocabulary("user")], ["", *dataset.vocabulary("item")]
    test, names = dataset.events["test"], dataset.schema.domain_names
    return {
        (users[user], items[item], names[domain])
        for user, item, domain in zip(test.user_row, test.item_row, test.domain, strict=True)
    }


def hits(lists: pa.Table, held_out: set[tuple[str, str, str]], by: str) -> int:
    """How many users' held-out item is among the first of their list, ordered by `rank` or by `probability`."""
    order = [("user", "ascending"), (by, "ascending" if by == "rank" else "descending")]
    ordered = lists.sort_by(order)
    users = ordered["user"].to_pylist()
    place, last, count = 0, "", 0
    for user, item, domain in zip(users, ordered["item"].to_pylist(), ordered["domain"].to_pylist(), strict=True):
        place = place + 1 if user == last else 1
        last = user
        count += place <= NUM_LISTED and (user, item, domain) in held_out
    return count


def show_one(lists: pa.Table, names: Sequence[str]) -> None:
    """Print one user's list of each domain as retrieved and as ranked."""
    for name in names:
        ours = lists.filter(pc.equal(lists["domain"], name))
        if not len(ours):
            continue
        own = ours.filter(pc.equal(ours["user"], ours["user"][0]))
        best = own.sort_by([("probability", "descending")]).slice(0, 5).to_pylist()
        print(f"{name}, user {best[0]['user']}, ranked:")
        for row in best:
            print(f"    {row['probability']:8.3f}  {row['item']}  (retrieved at place {row['rank']})")

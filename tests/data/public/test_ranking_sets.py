"""The public sets for ranking: small files in their own forms become logs that prepare takes."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.io import savemat

from isthmus.data.prepare import prepare
from isthmus.data.public import amazon_pairs
from isthmus.data.public.epinions import ingest_epinions
from isthmus.data.read_schema import read_schema
from isthmus.errors import InputError


def write_ratings(folder: Path, *, matlab: bool = False) -> Path:
    rng = np.random.default_rng(0)
    columns = [rng.integers(1, 20, 300), rng.integers(1, 40, 300), rng.integers(1, 3, 300), rng.integers(1, 6, 300)]
    folder.mkdir(parents=True, exist_ok=True)
    if matlab:
        savemat(folder / "rating.mat", {"rating": np.column_stack([*columns, np.ones(300)])})
        return folder
    names = ("user", "item", "category", "rating")
    pq.write_table(pa.table(dict(zip(names, columns, strict=True))), folder / "ratings.parquet")
    (folder / "categories.tsv").write_text("category\tname\n1\tMovies\n2\tBooks\n", encoding="utf-8")
    return folder


def test_epinions_takes_the_chosen_categories_with_their_names(tmp_path: Path) -> None:
    log = ingest_epinions(
        write_ratings(tmp_path / "raw"), tmp_path / "log", domains=["Books", "Movies"], statistics=True
    )
    dataset = prepare(log, tmp_path / "dataset")
    assert dataset.schema.domain_names == ("Books", "Movies")
    assert dataset.impressions is not None
    assert sum(dataset.impressions[split].num_rows for split in ("train", "valid", "test")) <= 300
    assert "user_mean_other" in dataset.impressions["train"].context


def test_epinions_leaves_out_categories_with_few_of_a_label_and_names_them(tmp_path: Path) -> None:
    raw = write_ratings(tmp_path / "raw")
    ratings = pq.read_table(raw / "ratings.parquet").slice(0, 2)
    lonely = ratings.set_column(2, "category", pa.array([3, 3])).set_column(3, "rating", pa.array([5, 4]))
    pq.write_table(pa.concat_tables([pq.read_table(raw / "ratings.parquet"), lonely]), raw / "ratings.parquet")
    with (raw / "categories.tsv").open("a", encoding="utf-8") as file:
        file.write("3\tPhoto & Optics\n4\tEmpty\n")
    with pytest.warns(
        UserWarning, match=r"fewer than 50 positives or negatives: Photo & Optics \(2, 0\), Empty \(0, 0\)"
    ):
        log = ingest_epinions(raw, tmp_path / "log")
    assert prepare(log, tmp_path / "dataset").schema.domain_names == ("Movies", "Books")
    asked = ingest_epinions(raw, tmp_path / "asked", domains=["Movies", "Photo & Optics"])
    with pytest.raises(InputError, match="Photo & Optics: no training row is a negative"):
        prepare(asked, tmp_path / "refused")


def test_a_sample_of_epinions_without_any_category_to_judge_is_refused(tmp_path: Path) -> None:
    raw = write_ratings(tmp_path / "raw")
    pq.write_table(pq.read_table(raw / "ratings.parquet").slice(0, 40), raw / "ratings.parquet")
    with pytest.raises(InputError, match=r"no category has 50 positives .* give the whole data set"):
        ingest_epinions(raw, tmp_path / "log")
    assert not (tmp_path / "log").exists()


def test_epinions_reads_the_matlab_form(tmp_path: Path) -> None:
    log = ingest_epinions(write_ratings(tmp_path / "raw", matlab=True), tmp_path / "log")
    assert read_schema(log).domain_names == ("category 1", "category 2")
    parquet = ingest_epinions(write_ratings(tmp_path / "other"), tmp_path / "otherlog")
    both = [
        pq.read_table(path.parent / "events.parquet").select(["user_id", "item_id", "rating"])
        for path in (log, parquet)
    ]
    assert both[0].equals(both[1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "categories.tsv").unlink(), "categories.tsv: missing"),
        (lambda folder: (folder / "ratings.parquet").unlink(), "neither ratings.parquet nor rating.mat"),
    ],
)
def test_missing_files_of_epinions_are_named(tmp_path: Path, change: Callable[[Path], None], message: str) -> None:
    change(write_ratings(tmp_path / "raw"))
    with pytest.raises(InputError, match=message):
        ingest_epinions(tmp_path / "raw", tmp_path / "log")
    with pytest.raises(InputError, match="no category 'Film'"):
        ingest_epinions(write_ratings(tmp_path / "whole"), tmp_path / "log", domains=["Film"])


def write_pair(folder: Path, order: str, titles: str) -> Path:
    rng = np.random.default_rng(0)
    folder.mkdir()
    domain = np.array(["Grocery", "Kitchen"])[rng.integers(0, 2, 400)]
    item = rng.integers(0, 30, 400)
    events = {
        "user": [f"u{n}" for n in rng.integers(0, 25, 400)],
        "asin": [f"{name[0]}{number}" for name, number in zip(domain, item, strict=True)],
        "domain": domain,
        order: rng.integers(1_000, 9_000, 400),
    }
    pq.write_table(pa.table(events), folder / "events.parquet")
    asins = [f"{letter}{number}" for letter in "GK" for number in range(30)]
    names = pa.table({"asin": asins, "title": [f"thing {asin} of green tea" for asin in asins]})
    pq.write_table(names, folder / titles)
    return folder


def test_grocery_and_kitchen_have_a_clock_titles_and_drawn_negatives(tmp_path: Path) -> None:
    source = write_pair(tmp_path / "raw", "timestamp", "titles.parquet")
    dataset = prepare(amazon_pairs.ingest_grocery_kitchen(source, tmp_path / "log"), tmp_path / "dataset")
    assert dataset.impressions is not None
    train = dataset.impressions["train"]
    assert train.time is not None
    assert train.label is not None
    assert 0.1 < float(np.mean(train.label)) < 0.3
    assert np.asarray(dataset.features["words"]).shape == (dataset.num_items, 32)
    assert dataset.titles() is not None


def test_movie_and_book_hold_out_each_users_last(tmp_path: Path) -> None:
    source = write_pair(tmp_path / "raw", "position", "movie_titles.parquet")
    log = amazon_pairs.ingest_movie_book(source, tmp_path / "log")
    assert read_schema(log).split.by == "last_out"
    # Last purchases are of new items often, so negatives that training all knows would tell them by that.
    test = prepare(log, tmp_path / "dataset").impressions
    assert test is not None
    rows = test["test"]
    label, item = np.asarray(rows.label), np.asarray(rows.item_row)
    assert set(item[label == 0].tolist()) <= set(item[label == 1].tolist())
    assert (label == 0).any()


def test_titles_of_the_knowledge_graph_are_readable(tmp_path: Path) -> None:
    source = tmp_path / "raw"
    source.mkdir()
    for name, prefix in (("Books", "B"), ("Movies_and_TV", "M")):
        rows = "".join(f"u{n % 9}\t{prefix}{n % 7}\t1\n" for n in range(60))
        (source / f"{name}.inter").write_text("user_id:token\titem_id:token\trating:float\n" + rows, encoding="utf-8")
        links = "".join(f"{prefix}{n}\tres:The_Prophet_(book)\n" for n in range(7))
        (source / f"{name}.link").write_text("item_id:token\tentity_id:token\n" + links, encoding="utf-8")
    dataset = prepare(amazon_pairs.ingest_kg_books_movies(source, tmp_path / "log"), tmp_path / "dataset")
    titles = dataset.titles()
    assert titles is not None
    assert set(titles[1:].tolist()) == {"The Prophet (book)"}
    (source / "Books.link").unlink()
    with pytest.raises(InputError, match=r"Books\.link: missing"):
        amazon_pairs.ingest_kg_books_movies(source, tmp_path / "again")


@pytest.mark.skipif("ISTHMUS_DATA" not in os.environ, reason="ISTHMUS_DATA names no folder of public data sets")
def test_the_real_epinions_has_the_counts_of_its_description(tmp_path: Path) -> None:
    source = Path(os.environ["ISTHMUS_DATA"]) / "epinions"
    if not source.is_dir():
        pytest.skip(f"{source} is not there")
    log = ingest_epinions(source, tmp_path / "log", domains=["Movies", "Books"])
    table = pq.read_table(log.parent / "events.parquet")
    assert len(table) == 167_263 + 102_957

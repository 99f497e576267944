"""The seed of `isthmus ingest` reaches what a data set draws."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from isthmus.data.public.catalogue import ingest_public
from isthmus.data.read_schema import read_schema
from isthmus.errors import InputError


def write_pair(folder: Path) -> Path:
    """The files of all three pairs."""
    folder.mkdir()
    events = {"user": ["u1", "u2"], "asin": ["G1", "K1"], "domain": ["Grocery", "Kitchen"], "timestamp": [1, 2]}
    pq.write_table(pa.table({**events, "position": [0, 0]}), folder / "events.parquet")
    for name in ("titles.parquet", "movie_titles.parquet"):
        pq.write_table(pa.table({"asin": ["G1"], "title": ["tea"]}), folder / name)
    for name in ("Books", "Movies_and_TV"):
        (folder / f"{name}.inter").write_text("user_id:token\titem_id:token\nu1\tB1\n", encoding="utf-8")
        (folder / f"{name}.link").write_text("item_id:token\tentity_id:token\nB1\tres:One\n", encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("name", "draw", "split", "folds_seed"),
    [
        ("grocery_kitchen", "time_window", {"by": "time", "valid": 0.1, "test": 0.1}, 0),
        ("movie_book", "same_split", {"by": "last_out", "seed": 0}, 0),  # a user's order says which is the last
        ("kg_books_movies", "popularity", {"by": "random", "valid": 0.1, "test": 0.1, "seed": 5}, 5),
    ],
)
def test_the_seed_of_a_pair_is_that_of_all_it_draws(
    tmp_path: Path, name: str, draw: str, split: dict[str, object], folds_seed: int
) -> None:
    schema = read_schema(ingest_public(name, write_pair(tmp_path / "raw"), tmp_path / "log", seed=5))
    assert schema.split.model_dump() == split
    assert schema.ranking is not None
    assert schema.ranking.seed == folds_seed
    assert schema.ranking.negatives != "explicit"
    assert (schema.ranking.negatives.draw, schema.ranking.negatives.seed) == (draw, 5)


@pytest.mark.parametrize(
    ("name", "header"), [("ali_ccp", "click,101,205,301"), ("kuairand", "is_click,user_id,video_id,tab")]
)
def test_the_seed_of_rows_without_a_clock_is_that_of_their_split(tmp_path: Path, name: str, header: str) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "rows.csv").write_text(f"{header}\n1,u1,i1,1\n0,u1,i2,1\n", encoding="utf-8")
    schema = read_schema(ingest_public(name, tmp_path / "raw", tmp_path / "log", seed=5))
    assert schema.split.model_dump() == {"by": "random", "valid": 0.1, "test": 0.1, "seed": 5}


def test_a_name_of_no_data_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="films: unknown data set"):
        ingest_public("films", tmp_path, tmp_path / "log")

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from isthmus.data.audit import audit
from isthmus.data.prepare import prepare
from isthmus.data.public.xmrec import ingest_xmrec
from isthmus.errors import InputError


def write_market(folder: Path, market: str, *, run: str | None = None) -> None:
    """Three users u0 to u2 who bought three of the items p0 to p4 each, and a fourth as the held-out purchase."""
    (folder / market).mkdir(parents=True)
    rows = [(f"{market}u{user}", f"p{(user + place) % 5}") for user in range(3) for place in range(3)]
    rows.append(rows[0])
    train = ["userId\titemId\trating", *(f"{user}\t{item}\t1.0" for user, item in rows)]
    test = ["userId\titemId\trating", *(f"{market}u{user}\tp{(user + 3) % 5}\t1" for user in range(3))]
    (folder / market / "train_5core.tsv").write_text("\n".join(train) + "\n")
    (folder / market / "valid_qrel.tsv").write_text("\n".join(test) + "\n")
    if run is not None:
        lists = [f"{market}u{user}\tp{(user + 3) % 5},p{(user + 4) % 5},p9" for user in range(3)]
        (folder / market / run).write_text("\n".join(lists) + "\n")


def test_markets_become_domains_with_their_lists(tmp_path: Path) -> None:
    write_market(tmp_path / "source/DATA", "s1", run="valid_run.tsv")
    write_market(tmp_path / "source/DATA", "t1", run="valid_run_regenerated.tsv")
    log = ingest_xmrec(tmp_path / "source", tmp_path / "log")
    events = pq.read_table(tmp_path / "log/events.parquet")
    assert events.column_names == ["user_id", "item_id", "rating", "market", "split"]
    assert events.num_rows == 2 * 13
    dataset = prepare(log, tmp_path / "out")
    assert dataset.schema.domain_names == ("s1", "t1")
    candidates = dataset.events["test"].candidates
    assert candidates is not None
    # p9 is in no purchase, so it is row 0 in every list.
    assert candidates.shape == (6, 3)
    assert (candidates[:, 0] == 0).all()
    assert [finding for finding in audit(dataset.path) if not finding.ok] == []


def test_lists_that_are_lost_are_drawn_from_what_the_user_has_not_bought(tmp_path: Path) -> None:
    write_market(tmp_path / "source", "s1")
    ingest_xmrec(tmp_path / "source", tmp_path / "a", seed=1)
    lists = pq.read_table(tmp_path / "a/candidates.parquet").to_pylist()
    # Of five items a user bought three and is asked for a fourth: the fifth is all that can be drawn.
    assert [row["items"] for row in lists] == ["p3,p4", "p4,p0", "p0,p1"]
    assert {row["domain"] for row in lists} == {"s1"}
    ingest_xmrec(tmp_path / "source", tmp_path / "b", seed=1)
    assert (tmp_path / "a/candidates.parquet").read_bytes() == (tmp_path / "b/candidates.parquet").read_bytes()


def test_a_source_without_markets_or_with_half_a_market_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no market folder"):
        ingest_xmrec(tmp_path, tmp_path / "out")
    write_market(tmp_path, "s1")
    (tmp_path / "s1/valid_qrel.tsv").unlink()
    with pytest.raises(InputError, match=r"valid_qrel\.tsv: missing"):
        ingest_xmrec(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "s1/valid_qrel.tsv").write_text("something\telse\n1\t2\n")
    with pytest.raises(InputError, match=r"valid_qrel\.tsv: not readable"):
        ingest_xmrec(tmp_path, tmp_path / "out")

"""Names by bisection, histories by scope, and what is asked for by the name of a domain that a model does not have."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.data.dataset import Dataset
from isthmus.schema import FieldSpec
from isthmus.serving.view import ELSEWHERE, Names, Taken, View, write_mapped

TAKEN = Taken(np.array([5, 3, 8, 3, 1]), np.array([0, 1, 0, 0, ELSEWHERE]))


def seen(scope: str, *, max_length: int = 10, domain: int = 0) -> list[int]:
    field = FieldSpec.model_validate(
        {"name": "h", "side": "user", "kind": "history", "scope": scope, "max_length": max_length}
    )
    rows: list[int] = TAKEN.seen_by(field, domain).tolist()
    return rows


def test_a_history_field_sees_its_scope_and_the_latest() -> None:
    assert seen("own") == [5, 8, 3]
    assert seen("other") == [3, 1]
    assert seen("all") == [5, 3, 8, 3, 1]
    assert seen("all", max_length=2) == [3, 1]
    assert seen("own", max_length=2) == [8, 3]
    assert seen("own", domain=2) == []


def test_what_was_taken_before_in_the_same_domain_is_not_taken_again() -> None:
    later = Taken(np.array([3, 3, 9]), np.array([0, 2, 1]))
    both = TAKEN.then(later)
    assert both.item_row.tolist() == [5, 3, 8, 3, 1, 3, 9]
    assert both.domain.tolist() == [0, 1, 0, 0, ELSEWHERE, 2, 1]


@given(st.sets(st.text(st.characters(exclude_categories=["Cs"]))), st.text(st.characters(exclude_categories=["Cs"])))
def test_a_name_is_found_where_it_stands_and_nothing_else_is(texts: set[str], other: str) -> None:
    ordered = sorted(texts)
    names = Names(pa.array(ordered, pa.string()))
    assert names.rows(ordered).tolist() == list(range(1, len(ordered) + 1))
    assert [names.text(row) for row in range(1, len(ordered) + 1)] == ordered
    assert names.row(other) == (ordered.index(other) + 1 if other in texts else 0)


def test_vocabularies_of_a_prepared_log_are_found_by_bisection(tiny_dataset: Dataset) -> None:
    for name in ("user", "item", "category"):
        texts = tiny_dataset.vocabulary(name)
        assert Names.of(tiny_dataset, name).rows(texts).tolist() == list(range(1, len(texts) + 1))


@pytest.mark.parametrize("texts", [[], [f"item-{number:06}" for number in range(20_000)]])
def test_a_mapped_vocabulary_takes_no_memory_of_its_own(
    texts: list[str], tiny_dataset: Dataset, tmp_path: Path
) -> None:
    file = tmp_path / "vocabularies" / "item.parquet"
    file.parent.mkdir()
    pq.write_table(pa.table({"value": pa.array(texts, pa.string())}), file)
    assert write_mapped(file) == file.with_suffix(".arrow")
    file.unlink()
    dataset = replace(tiny_dataset, path=tmp_path)
    before = pa.total_allocated_bytes()
    names = Names.of(dataset, "item")
    assert pa.total_allocated_bytes() - before < 10_000
    assert names.texts.to_pylist() == texts
    assert names.rows(texts).tolist() == list(range(1, len(texts) + 1))
    assert names.row("item-x") == 0


def test_items_and_domains_come_by_name(tiny_dataset: Dataset) -> None:
    view = View(tiny_dataset, None, by_time=False)
    taken = view.taken([("i3", "video"), ("zzz", "shop"), ("i1", "abroad")])
    assert [view.items.text(row) for row in taken.item_row.tolist()] == ["i3", "i1"]
    assert taken.domain.tolist() == [1, ELSEWHERE]

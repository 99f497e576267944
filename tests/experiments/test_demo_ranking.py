"""Which purchases may stand as positives beside retrieved items."""

import pyarrow as pa

from isthmus.experiments.demo_ranking import within_reach


def table(*rows: tuple[str, str, str, float]) -> pa.Table:
    return pa.Table.from_pylist([dict(zip(("user", "item", "domain", "score"), row, strict=True)) for row in rows])


def test_a_purchase_below_the_users_list_is_no_row_of_the_ranker() -> None:
    lists = table(("u", "i1", "a", 5.0), ("u", "i2", "a", 2.0), ("v", "i1", "a", 9.0), ("u", "i1", "b", 0.0))
    bought = table(
        ("u", "i8", "a", 2.0),
        ("u", "i9", "a", 1.9),
        ("v", "i9", "a", 8.0),
        ("v", "i8", "a", 9.5),
        ("u", "i9", "b", 0.5),
    )
    kept = within_reach(bought, lists)
    assert kept.column_names == bought.column_names
    assert [tuple(row.values()) for row in kept.to_pylist()] == [
        ("u", "i8", "a", 2.0),
        ("v", "i8", "a", 9.5),
        ("u", "i9", "b", 0.5),
    ]

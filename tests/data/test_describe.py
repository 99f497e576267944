import os
from dataclasses import replace
from pathlib import Path

import pytest
from tests.small_logs import EVENTS, declaration, write_log

from isthmus.data.audit import audit
from isthmus.data.dataset import DatasetError
from isthmus.data.describe import describe
from isthmus.data.prepare import prepare
from isthmus.data.public.xmrec import ingest_xmrec


def test_counts_are_those_of_the_log(tmp_path: Path) -> None:
    # A row twice, and a test row of what u2 took before.
    log = write_log(tmp_path / "log", events=EVENTS + "007,i1,a,1,9\nu2,i1,b,10,9\n")
    description = describe(prepare(log, tmp_path / "out").path)
    a, b = description.domains
    # Eleven positives without the repeat: the last two (time 10) are test, the one at 9 validation.
    assert (a.users, a.items, a.train, a.valid, a.test, a.repeats) == (3, 2, 4, 1, 0, 1)
    assert (b.users, b.items, b.train, b.valid, b.test, b.dropped_by_split) == (3, 3, 4, 0, 1, 1)
    assert (b.test_items_unseen, b.test_items_new_to_domain, b.test_users_unseen) == (1, 1, 0)
    assert description.user_overlap == ((3, 3), (3, 3))
    assert description.item_overlap == ((2, 1), (1, 3))
    text = description.to_markdown()
    assert "| test positives, item not in training | 0 | 1 |" in text
    assert "| a | 3 / 2 | 3 / 1 |" in text


def test_labelled_rows_are_counted_with_their_share_of_positives(tmp_path: Path) -> None:
    content = declaration(ranking={"negatives": "explicit"})
    content["events"]["positive"] = {"column": "hour", "at_least": 10}
    description = describe(prepare(write_log(tmp_path / "log", content), tmp_path / "out").path)
    # In a the hours 9, 10, 9, 12 are training and 13 is validation; in b 9, 11, 9, 10 and, for test, 14.
    assert description.labelled == {"train": ((4, 2), (4, 2)), "valid": ((1, 1), (0, 0)), "test": ((0, 0), (1, 1))}
    assert "| train | 4 / 50.0% | 4 / 50.0% |" in description.to_markdown()
    assert "Labelled rows" not in describe(prepare(write_log(tmp_path / "plain"), tmp_path / "two").path).to_markdown()


def test_many_domains_stand_one_a_line_with_their_nearest(tmp_path: Path) -> None:
    description = describe(prepare(write_log(tmp_path / "log"), tmp_path / "out").path)
    a, b = description.domains
    names = [f"d{number}" for number in range(9)]
    many = replace(
        description,
        domains=(a, *(replace(b, name=name, users=number) for number, name in enumerate(names))),
        user_overlap=tuple(tuple(range(10)) for _ in range(10)),
        item_overlap=tuple((0,) * 10 for _ in range(10)),
    )
    lines = many.to_markdown().splitlines()
    assert lines[2].startswith("|  | users | items | records")
    assert any(line.startswith(f"| d5 | 5 | {b.items} |") for line in lines)
    assert "| a | d8 9, d7 8, d6 7 | none |" in lines
    assert "| d8 | d7 8, d6 7, d5 6 | none |" in lines


def test_a_folder_without_a_dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="isthmus prepare"):
        describe(tmp_path)


@pytest.mark.skipif("ISTHMUS_DATA" not in os.environ, reason="ISTHMUS_DATA names no folder of public data")
def test_xmrec_has_its_published_counts(tmp_path: Path) -> None:
    log = ingest_xmrec(Path(os.environ["ISTHMUS_DATA"]) / "xmrec_wsdm22", tmp_path / "log")
    path = prepare(log, tmp_path / "out").path
    description = describe(path)
    domains = description.domains
    assert [d.name for d in domains] == ["s1", "s2", "s3"]
    assert [d.train + d.valid + d.repeats for d in domains] == [77_173, 48_302, 23_367]
    assert [d.users for d in domains] == [6_466, 7_109, 3_328]
    assert [d.items for d in domains] == [9_762, 2_198, 1_245]
    assert [d.repeats for d in domains] == [208, 137, 131]
    assert [d.test_items_new_to_domain for d in domains] == [222, 25, 21]
    assert [d.test for d in domains] == [6_466, 7_109, 3_328]
    # One user in ten: 646.6, 710.9 and 332.8.
    assert [d.valid for d in domains] == [647, 711, 333]
    assert description.item_overlap == ((9_762, 1_198, 752), (1_198, 2_198, 816), (752, 816, 1_245))
    assert description.user_overlap == ((6_466, 0, 0), (0, 7_109, 0), (0, 0, 3_328))
    assert [finding for finding in audit(path) if not finding.ok] == []

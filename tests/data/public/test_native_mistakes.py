"""What is wrong with the files of Taobao, Ali-CCP and KuaiRand: the line is named, and nothing is lost in silence."""

import os
import re
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from tests.data.public.test_native_logs import packed, write_ali_ccp, write_csv, write_kuairand, write_taobao

from isthmus.data.prepare import prepare
from isthmus.data.public.impression_logs import ingest_ali_ccp, ingest_kuairand
from isthmus.data.public.native_files import NativeFiles, filled
from isthmus.data.public.taobao import ingest_taobao
from isthmus.errors import InputError


def change(file: Path, line: int, text: str) -> None:
    """Replace a line, counted from 1, by a text; a line after the last is added."""
    lines = file.read_text(encoding="utf-8").splitlines()
    lines[line - 1 : line] = [text]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


@contextmanager
def opened(folder: Path) -> Iterator[NativeFiles]:
    files = NativeFiles(folder, folder / "spill")
    with closing(files.connection):
        yield files


def rows_of(file: Path, header: Sequence[str] | None = None) -> list[tuple[object, ...]]:
    with opened(file.parent) as files:
        files.view("rows", [file], (), header=header, rules=(filled("a"),))
        return files.rows("SELECT * FROM rows", [file])


@pytest.mark.parametrize("row", ["1,2,3,4", "1,2"])
def test_a_row_of_another_length_deep_in_a_file_is_named(tmp_path: Path, row: str) -> None:
    file = tmp_path / "deep.csv"
    file.write_text("a,b,c\n" + "1,2,3\n" * 30_000 + row + "\n" + "1,2,3\n" * 10)
    with pytest.raises(InputError, match=rf"deep\.csv: line 30002 has {row.count(',') + 1} values, the header names 3"):
        rows_of(file)


def test_a_label_is_not_read_from_a_row_with_a_value_too_many(tmp_path: Path) -> None:
    source = write_taobao(tmp_path / "raw")
    change(source / "raw_sample.csv", 200, "7,1494011880,5,430548_1007,9,1,0")
    with pytest.raises(InputError, match=r"raw_sample\.csv: line 200 has 7 values, the header names 6"):
        ingest_taobao(source, tmp_path / "log")


def test_a_file_without_a_header_loses_no_line_and_its_first_is_judged_too(tmp_path: Path) -> None:
    file = tmp_path / "bare.csv"
    file.write_text("1,2\n" + "1,2,3\n" * 100)
    with pytest.raises(InputError, match=r"line 1 has 2 values, 3 are wanted \(a, b, c\)"):
        rows_of(file, ("a", "b", "c"))
    file.write_text("1,2,3\n" * 100 + "1\n")
    with pytest.raises(InputError, match="line 101 has 1 values, line 1 has 3"):
        rows_of(file, ("a", "b", "c"))


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_values_are_taken_as_they_stand(tmp_path: Path, end: str, mark: str) -> None:
    lines = ["a,b ", *["1,2"] * 30_000, '#3,"4,5"', "'6','7'", '"8""",', '"9\n9",x']
    file = tmp_path / "made.csv"
    file.write_bytes((mark + end.join(lines)).encode())
    wanted = {("1", "2"), ("#3", "4,5"), ("'6'", "'7'"), ('8"', None), ("9\n9", "x")}
    rows = rows_of(file)
    assert set(rows) == wanted
    assert len(rows) == 30_004
    file.write_bytes((mark + end.join(lines[1:])).encode())
    assert set(rows_of(file, ("a", "b"))) == wanted


def test_lines_that_end_in_two_ways_are_named(tmp_path: Path) -> None:
    file = tmp_path / "mixed.csv"
    file.write_bytes(b"a,b\r\n1,2\r\n3,4\n5,6\r\n")
    with pytest.raises(InputError, match="line 3 ends in LF, line 1 in CR LF; end all lines alike"):
        rows_of(file)


def test_files_of_one_form_are_matched_by_the_names_of_their_columns(tmp_path: Path) -> None:
    (tmp_path / "one.csv").write_text("a,b\n1,2\n")
    (tmp_path / "two.csv").write_text("c,b,a\n3,4,5\n")
    files = [tmp_path / "one.csv", tmp_path / "two.csv"]
    with opened(tmp_path) as native:
        assert native.view("rows", files, ("b",), rules=(filled("a"),)) == ["a", "b"]
        assert sorted(native.rows("SELECT b, a FROM rows", files)) == [("2", "1"), ("4", "5")]
    with opened(tmp_path) as native, pytest.raises(InputError, match=r"one\.csv: no column 'c'; it has a, b"):
        native.view("rows", files[::-1], (), rules=(filled("a"),))


@pytest.mark.parametrize("name", ["raw[1]", "raw*", "raw?"])
def test_a_folder_whose_name_is_a_pattern_is_read_itself(tmp_path: Path, name: str) -> None:
    write_kuairand(tmp_path / "raw1")
    write_kuairand(tmp_path / name)
    for file in (tmp_path / name).glob("log_*.csv"):
        file.write_text(re.sub(r"(?m)^(\d)", r"7\1", file.read_text()))
    ingest_kuairand(tmp_path / name, tmp_path / f"{name} log")
    users = pq.read_table(tmp_path / f"{name} log" / "events.parquet")["user_id"].to_pylist()
    assert len(users) == 400
    assert all(user.startswith("7") for user in users)


def test_a_file_whose_name_is_no_sql_name_is_read(tmp_path: Path) -> None:
    source = write_ali_ccp(tmp_path / "raw")
    for name in ("sample_skeleton", "common_features"):
        (source / f"{name}_train.csv").rename(source / f"{name}_train-1's.csv")
    ingest_ali_ccp(source, tmp_path / "log")
    assert pq.read_table(tmp_path / "log" / "events.parquet").num_rows == 360


@pytest.mark.parametrize("label", ["2", "0.6", "", "yes", "nan", "-1"])
def test_a_label_that_is_neither_0_nor_1_is_named(tmp_path: Path, label: str) -> None:
    source = write_kuairand(tmp_path / "kuai")
    change(source / "log_random_4_22_to_5_08_pure.csv", 5, f"1,2,20220408,900,1649012000123,{label},0,1")
    wrong = f"{label!r} is neither 0 nor 1; correct the row or take it out"
    with pytest.raises(InputError, match=rf"log_random.*pure\.csv: line 5, is_click: {wrong}"):
        ingest_kuairand(source, tmp_path / "log")
    source = write_ali_ccp(tmp_path / "ali")
    change(source / "sample_skeleton_train.csv", 3, f"2,{label},0,train1,4,{packed({'205': 1, '301': 1})}")
    with pytest.raises(InputError, match=rf"sample_skeleton_train\.csv: line 3, click: {wrong}"):
        ingest_ali_ccp(source, tmp_path / "log")
    source = write_taobao(tmp_path / "taobao")
    change(source / "raw_sample.csv", 9, f"1,1494000000,5,430548_1007,1,{label}")
    with pytest.raises(InputError, match=rf"raw_sample\.csv: line 9, clk: {wrong}"):
        ingest_taobao(source, tmp_path / "log")


def test_a_domain_without_a_click_is_left_out_with_a_warning(tmp_path: Path) -> None:
    source = write_kuairand(tmp_path / "raw")
    with (source / "log_random_4_22_to_5_08_pure.csv").open("a") as file:
        file.write("1,2,20220408,900,1649012000123,0,0,7\n" * 3)
    with pytest.warns(UserWarning, match=r"raw: left out, without a click to learn from: tab 7 \(3 rows\)"):
        log = ingest_kuairand(source, tmp_path / "log")
    assert set(pq.read_table(log.parent / "events.parquet")["domain"].to_pylist()) == {"tab 0", "tab 1"}


@pytest.mark.parametrize(("place", "name"), [(1, "101"), (2, "205"), (3, "301")])
def test_an_empty_user_item_or_domain_of_ali_ccp_is_named(tmp_path: Path, place: int, name: str) -> None:
    values = ["1", "2", "3", "4"]
    values[place] = ""
    write_csv(tmp_path / "raw" / "ali.csv", [["click,101,205,301"], ["1,2,3,4"], ["0,2,3,4"], values])
    with pytest.raises(InputError, match=rf"ali\.csv: line 4, {name}: '' is empty"):
        ingest_ali_ccp(tmp_path / "raw", tmp_path / "log")
    source = write_ali_ccp(tmp_path / "native")
    if name == "101":
        change(source / "common_features_test.csv", 2, f"test1,4,{packed({'121': 1})}")
        wrong = r"common_features_test\.csv: line 2, field 101: '' is empty"
    else:
        kept: dict[str, object] = {field: 1 for field in ("205", "301") if field != name}
        change(source / "sample_skeleton_test.csv", 2, f"1,0,0,test1,4,{packed(kept)}")
        wrong = rf"sample_skeleton_test\.csv: line 2, field {name}: '' is empty"
    with pytest.raises(InputError, match=wrong):
        ingest_ali_ccp(source, tmp_path / "log")


@pytest.mark.parametrize(
    ("row", "name"),
    [
        (",2,20220408,900,1649012000123,0,0,1", "user_id"),
        ("1,,20220408,900,1649012000123,0,0,1", "video_id"),
        ("1,2,20220408,900,1649012000123,0,0,", "tab"),
    ],
)
def test_an_empty_user_item_or_domain_of_kuairand_is_named(tmp_path: Path, row: str, name: str) -> None:
    source = write_kuairand(tmp_path / "raw")
    change(source / "log_random_4_22_to_5_08_pure.csv", 5, row)
    with pytest.raises(InputError, match=rf"pure\.csv: line 5, {name}: '' is empty"):
        ingest_kuairand(source, tmp_path / "log")


def test_common_ids_of_ali_ccp_that_repeat_or_are_empty_are_named(tmp_path: Path) -> None:
    source = write_ali_ccp(tmp_path / "twice")
    change(source / "common_features_train.csv", 21, f"train4,4,{packed({'101': 4})}")
    with pytest.raises(
        InputError, match=r"common_features_train\.csv: line 5, common: 'train4' stands again in line 21"
    ):
        ingest_ali_ccp(source, tmp_path / "log")
    source = write_ali_ccp(tmp_path / "empty")
    change(source / "sample_skeleton_train.csv", 3, f"2,1,0,,4,{packed({'205': 1, '301': 1})}")
    with pytest.raises(InputError, match=r"sample_skeleton_train\.csv: line 3, common id: '' is empty"):
        ingest_ali_ccp(source, tmp_path / "log")


def test_a_user_of_ali_ccp_with_several_common_ids_is_in_one_part_of_the_split(tmp_path: Path) -> None:
    source = write_ali_ccp(tmp_path / "raw")
    users = [[f"train{n}", 4, packed({"101": n % 10, "121": 1})] for n in range(20)]
    write_csv(source / "common_features_train.csv", users)
    log = ingest_ali_ccp(source, tmp_path / "log")
    parts: dict[str, set[str]] = {}
    for row in pq.read_table(log.parent / "events.parquet").to_pylist():
        if row["split"] != "test":
            parts.setdefault(row["user_id"], set()).add(row["split"])
    assert len(parts) == 10
    assert all(len(part) == 1 for part in parts.values())
    assert set.union(*parts.values()) == {"train", "valid"}


@pytest.mark.parametrize(
    ("name", "line", "text", "message"),
    [
        ("ad_feature.csv", 3, "2,2,2,2,77,cheap", "line 3, price: 'cheap' is no number of 0 or more"),
        ("ad_feature.csv", 3, "2,2,2,2,77,-0.5", "line 3, price: '-0.5' is no number of 0 or more"),
        ("ad_feature.csv", 3, "2,2,2,2,77,inf", "line 3, price: 'inf' is no number of 0 or more"),
        ("ad_feature.csv", 3, ",2,2,2,77,1", "line 3, adgroup_id: '' is empty"),
        ("ad_feature.csv", 30, "7,2,2,2,77,1", "line 8, adgroup_id: '7' stands again in line 30; leave one"),
        ("ad_feature.csv", 30, '7,2,2,2,"77,1', r"line 3\d: .*is a quote not closed"),
        ("user_profile.csv", 16, "3,0,0,1,3,,3,0,", "line 4, userid: '3' stands again in line 16; leave one"),
        ("user_profile.csv", 2, ",0,0,1,3,,3,0,", "line 2, userid: '' is empty"),
        ("raw_sample.csv", 8, "1,,5,430548_1007,1,0", "line 8, time_stamp: '' is no time in whole seconds"),
        ("raw_sample.csv", 8, ",1494000000,5,430548_1007,1,0", "line 8, user: '' is empty"),
        ("behavior_log.csv", 8, "1,soon,pv,1,1", "line 8, time_stamp: 'soon' is no time in whole seconds"),
        ("UserBehavior.csv", 8, "1,2,3,pv,1494000000000", "line 8, time_stamp: '1494000000000' is no time in seconds"),
        ("UserBehavior.csv", 8, "1,2,3,,1494000000", "line 8, kind: '' is none of pv, buy, cart, fav"),
        ("UserBehavior.csv", 8, "1,,3,pv,1494000000", "line 8, item: '' is empty"),
        ("UserBehavior.csv", 401, "1,2", "line 401 has 2 values, line 1 has 5"),
    ],
)
def test_the_line_of_a_wrong_value_of_taobao_is_named(
    tmp_path: Path, name: str, line: int, text: str, message: str
) -> None:
    source = write_taobao(tmp_path / "raw")
    change(source / name, line, text)
    with pytest.raises(InputError, match=f"{re.escape(str(source / name))}: {message}"):
        ingest_taobao(source, tmp_path / "log")
    assert not (tmp_path / "log").exists()


@pytest.mark.parametrize(
    ("name", "line", "text", "message"),
    [
        ("video_features_basic_pure.csv", 4, '2,2,NORMAL,Web,2,"3,12",long', "line 4, video_duration: 'long' is no"),
        ("video_features_basic_pure.csv", 42, "2,2,LIVE,Web,2,3,5", "line 4, video_id: '2' stands again in line 42"),
        ("user_features_pure.csv", 22, "5,low,0,1,0,1,0,31-60", "line 7, user_id: '5' stands again in line 22"),
        (
            "log_random_4_22_to_5_08_pure.csv",
            9,
            "1,2,3,4,soon,0,0,1",
            "line 9, time_ms: 'soon' is no time in whole mill",
        ),
        ("log_random_4_22_to_5_08_pure.csv", 9, f"1,2,3,4,{10**15},0,0,1", "line 9, time_ms: '1000000000000000' is no"),
    ],
)
def test_the_line_of_a_wrong_value_of_kuairand_is_named(
    tmp_path: Path, name: str, line: int, text: str, message: str
) -> None:
    source = write_kuairand(tmp_path / "raw")
    change(source / name, line, text)
    with pytest.raises(InputError, match=f"{re.escape(str(source / name))}: {message}"):
        ingest_kuairand(source, tmp_path / "log")


def test_a_row_of_features_that_repeats_exactly_counts_once(tmp_path: Path) -> None:
    source = write_kuairand(tmp_path / "raw")
    file = source / "user_features_pure.csv"
    (source / "user_features_1k.csv").write_text(file.read_text())
    log = ingest_kuairand(source, tmp_path / "log")
    assert pq.read_table(log.parent / "users.parquet").num_rows == 20


@pytest.mark.parametrize("name", ["raw_sample.csv", "user_profile.csv", "ad_feature.csv", "behavior_log.csv"])
def test_a_file_with_a_header_alone_is_named(tmp_path: Path, name: str) -> None:
    source = write_taobao(tmp_path / "raw")
    (source / name).write_text((source / name).read_text().splitlines()[0] + "\n")
    with pytest.raises(InputError, match=f"{name}: no rows, only a header"):
        ingest_taobao(source, tmp_path / "log")


def test_visits_that_are_all_too_late_are_left_out_with_a_warning(tmp_path: Path) -> None:
    source = write_taobao(tmp_path / "raw")
    (source / "behavior_log.csv").write_text("user,time_stamp,btag,cate,brand\n1,1500000000,pv,1,77\n")
    with pytest.warns(UserWarning, match=r"behavior_log\.csv: left out; it has no row"):
        dataset = prepare(ingest_taobao(source, tmp_path / "log"), tmp_path / "dataset")
    assert "visited_brands" not in [field.name for field in dataset.schema.fields]


def test_the_line_is_right_after_a_value_of_two_lines_and_an_empty_line(tmp_path: Path) -> None:
    file = tmp_path / "made.csv"
    file.write_text('a,b\n1,"x\ny"\n\n2,3\n,4\n')
    with pytest.raises(InputError, match=r"made\.csv: line 6, a: '' is empty"):
        rows_of(file)


def test_ctrl_c_in_a_query_is_a_keyboard_interrupt(tmp_path: Path) -> None:
    file = tmp_path / "made.csv"
    file.write_text("a,b\n" + "1,2\n" * 50_000)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    try:
        with opened(tmp_path) as files:
            files.view("rows", [file] * 300, (), rules=(filled("a"),))
            timer.start()
            with pytest.raises(KeyboardInterrupt):
                files.write("SELECT * FROM rows", tmp_path / "made.parquet", [file])
    finally:
        timer.cancel()
        signal.signal(signal.SIGINT, before)

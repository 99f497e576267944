"""Taobao, Ali-CCP, KuaiRand and Amazon's reviews: small files in the published form become logs that prepare takes."""

import gzip
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from isthmus.data.dataset import SPLITS, Dataset
from isthmus.data.prepare import prepare
from isthmus.data.public.amazon_reviews import ingest_amazon_reviews
from isthmus.data.public.impression_logs import ingest_ali_ccp, ingest_kuairand
from isthmus.data.public.native_files import new_log
from isthmus.data.public.taobao import ingest_taobao
from isthmus.errors import InputError

Ingest = Callable[[Path, Path], Path]


def write_csv(file: Path, lines: Sequence[Sequence[object]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(",".join(map(str, line)) + "\n" for line in lines), encoding="utf-8")


def labelled_rows(dataset: Dataset) -> int:
    assert dataset.impressions is not None
    return sum(dataset.impressions[split].num_rows for split in ("train", "valid", "test"))


def write_taobao(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    ads: list[list[object]] = [["user", "time_stamp", "adgroup_id", "pid", "nonclk", "clk"]]
    for n in range(300):
        click = int(rng.integers(0, 3) == 0)
        ads.append([rng.integers(1, 20), 1_494_000_000 + 60 * n, rng.integers(1, 30), "430548_1007", 1 - click, click])
    write_csv(folder / "raw_sample.csv", ads)
    # The published header of the last column ends in a blank.
    head = "userid,cms_segid,cms_group_id,final_gender_code,age_level,pvalue_level,shopping_level,occupation"
    profiles: list[list[object]] = [[head, "new_user_class_level "]]
    profiles += [[user, 0, user % 5, 1 + user % 2, 3, "", 3, 0, ""] for user in range(1, 15)]
    write_csv(folder / "user_profile.csv", profiles)
    features: list[list[object]] = [["adgroup_id", "cate_id", "campaign_id", "customer", "brand", "price"]]
    features += [[ad, ad % 4, ad, ad % 6, "NULL" if ad % 2 else 77, 9.5 * ad] for ad in range(1, 30)]
    write_csv(folder / "ad_feature.csv", features)
    visits: list[list[object]] = [["user", "time_stamp", "btag", "cate", "brand"]]
    visits += [[user, 1_493_000_000 + place, "pv", place % 4, 77] for user in range(1, 15) for place in range(60)]
    visits += [[1, 1_500_000_000, "buy", 999, 999]]
    write_csv(folder / "behavior_log.csv", visits)
    kinds = ("pv", "pv", "pv", "buy", "cart", "fav")
    behaviour = [
        [
            rng.integers(1, 25),
            rng.integers(1, 40),
            rng.integers(1, 9),
            kinds[rng.integers(0, 6)],
            1_494_000_000 + 60 * n,
        ]
        for n in range(400)
    ]
    write_csv(folder / "UserBehavior.csv", behaviour)
    return folder


def test_taobao_is_two_domains_with_real_negatives_and_what_a_user_visited_before(tmp_path: Path) -> None:
    log = ingest_taobao(write_taobao(tmp_path / "raw"), tmp_path / "log")
    events = pq.read_table(tmp_path / "log" / "events.parquet").to_pylist()
    assert len(events) == 700
    bought = sum(",buy," in line for line in (tmp_path / "raw" / "UserBehavior.csv").read_text().splitlines())
    assert sum(row["label"] for row in events if row["domain"] == "rec") == bought
    assert {row["item_id"].split(":")[0] for row in events if row["domain"] == "ad"} == {"ad"}
    visits = pq.read_table(tmp_path / "log" / "visits.parquet").to_pylist()
    assert {len(row["visited_categories"]) for row in visits} == {50}
    assert all("ad:999" not in row["visited_categories"] for row in visits)  # was after the first impression
    dataset = prepare(log, tmp_path / "dataset")
    assert dataset.schema.domain_names == ("ad", "rec")
    assert dataset.schema.ranking is not None
    assert labelled_rows(dataset) > 600


def test_taobaos_two_periods_are_each_cut_by_their_own_time(tmp_path: Path) -> None:
    source = write_taobao(tmp_path / "raw")
    later = [line.split(",") for line in (source / "UserBehavior.csv").read_text().splitlines()]
    write_csv(source / "UserBehavior.csv", [[*line[:4], int(line[4]) + 17_000_000] for line in later])
    with pytest.warns(UserWarning, match="the periods of the two domains do not meet"):
        log = ingest_taobao(source, tmp_path / "log")
    dataset = prepare(log, tmp_path / "dataset")
    assert dataset.impressions is not None
    for split, share in zip(SPLITS, (0.8, 0.1, 0.1), strict=True):
        events = dataset.impressions[split]
        counts = np.bincount(events.domain, minlength=2)
        assert np.allclose(counts, [300 * share, 400 * share], atol=12)  # repeats of a user and an item count once
    for domain in range(2):
        times = []
        for split in SPLITS:
            events = dataset.impressions[split]
            assert events.time is not None
            times.append(events.time[events.domain == domain])
        assert times[0].max() < times[1].min()
        assert times[1].max() < times[2].min()


def test_a_few_strange_times_do_not_hide_that_taobaos_periods_do_not_meet(tmp_path: Path) -> None:
    """The published log of purchases has rows decades before and after its nine days."""
    source = write_taobao(tmp_path / "raw")
    lines = [line.split(",") for line in (source / "UserBehavior.csv").read_text().splitlines()]
    later = [[*line[:4], str(int(line[4]) + 17_000_000)] for line in lines]
    later[3][4], later[5][4] = "-2134949234", "2122867355"
    write_csv(source / "UserBehavior.csv", later)
    with pytest.warns(UserWarning, match="the periods of the two domains do not meet"):
        dataset = prepare(ingest_taobao(source, tmp_path / "log"), tmp_path / "dataset")
    assert dataset.impressions is not None
    assert all(np.bincount(dataset.impressions[split].domain, minlength=2).min() > 20 for split in SPLITS)


def test_taobao_without_the_log_of_visits_leaves_these_fields_out(tmp_path: Path) -> None:
    source = write_taobao(tmp_path / "raw")
    (source / "behavior_log.csv").unlink()
    dataset = prepare(ingest_taobao(source, tmp_path / "log"), tmp_path / "dataset")
    assert "visited_brands" not in [field.name for field in dataset.schema.fields]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "ad_feature.csv").unlink(), r"ad_feature\.csv: missing \(advertisements"),
        (lambda folder: (folder / "raw_sample.csv").write_text(""), r"raw_sample\.csv: is empty"),
        (lambda folder: write_csv(folder / "raw_sample.csv", [["user", "clk"], [1, 1]]), "no column 'time_stamp'"),
        (
            lambda folder: write_csv(folder / "UserBehavior.csv", [[1, 2, 3, "look", 5]]),
            "line 1, kind: 'look' is none of pv",
        ),
        (lambda folder: write_csv(folder / "UserBehavior.csv", [[1, 2, 3, "pv", "noon"]]), "UserBehavior.*noon"),
    ],
)
def test_what_is_wrong_with_taobaos_files_is_named(
    tmp_path: Path, change: Callable[[Path], object], message: str
) -> None:
    source = write_taobao(tmp_path / "raw")
    change(source)
    with pytest.raises(InputError, match=message):
        ingest_taobao(source, tmp_path / "log")
    assert not (tmp_path / "log").exists()


def packed(values: dict[str, object]) -> str:
    return "\x01".join(f"{field}\x02{value}\x031.0" for field, value in values.items())


def write_ali_ccp(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    for part, count in (("train", 300), ("test", 60)):
        common, rows = [], []
        for user in range(20):
            lists = packed({"109_14": user % 3}) + "\x01" + packed({"109_14": 7})
            common.append([f"{part}{user}", 4, packed({"101": user, "121": user % 4}) + "\x01" + lists])
        for n in range(count):
            of_row = {"205": rng.integers(1, 30), "206": rng.integers(1, 5), "301": rng.integers(1, 4), "508": 3}
            rows.append([n, int(rng.integers(0, 4) == 0), 0, f"{part}{rng.integers(0, 20)}", 4, packed(of_row)])
        write_csv(folder / f"common_features_{part}.csv", common)
        write_csv(folder / f"sample_skeleton_{part}.csv", rows)
    return folder


def test_ali_ccp_in_the_published_form_joins_what_a_users_rows_have_in_common(tmp_path: Path) -> None:
    log = ingest_ali_ccp(write_ali_ccp(tmp_path / "raw"), tmp_path / "log")
    rows = pq.read_table(tmp_path / "log" / "events.parquet").to_pylist()
    assert len(rows) == 360
    assert all(row["field_121"] == str(int(row["user_id"]) % 4) for row in rows)
    assert all(row["field_109_14"] == f"{int(row['user_id']) % 3}|7" for row in rows)
    dataset = prepare(log, tmp_path / "dataset")
    assert dataset.schema.domain_names == ("scenario 1", "scenario 2", "scenario 3")
    assert dataset.impressions is not None
    assert dataset.impressions["test"].num_rows > 0
    assert dataset.impressions["valid"].num_rows > 0


def test_rows_of_ali_ccp_without_their_common_features_are_named_and_not_lost(tmp_path: Path) -> None:
    source = write_ali_ccp(tmp_path / "raw")
    file = source / "common_features_train.csv"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[1:]))
    with pytest.raises(InputError, match=r"common_features_train\.csv has no 'train0'"):
        ingest_ali_ccp(source, tmp_path / "log")


def write_kuairand(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    head = ["user_id", "video_id", "date", "hourmin", "time_ms", "is_click", "is_like", "tab"]
    for name, start in (("log_standard_4_08_to_4_21_pure", 0), ("log_random_4_22_to_5_08_pure", 200)):
        rows: list[list[object]] = [list(head)]
        for n in range(start, start + 200):
            time = 1_649_000_000_123 + 60_000 * n
            rows.append(
                [rng.integers(0, 20), rng.integers(0, 40), 20220408, 900, time, n % 3 == 0, 0, rng.integers(0, 2)]
            )
        write_csv(folder / f"{name}.csv", [[int(v) if isinstance(v, bool) else v for v in row] for row in rows])
    ranges = "follow_user_num_range,fans_user_num_range,friend_user_num_range,register_days_range"
    users: list[list[object]] = [["user_id,user_active_degree,is_live_streamer,is_video_author", ranges]]
    users += [[user, "full_active", 0, 1, "0", "[1,10)".replace(",", "-"), "0", "31-60"] for user in range(20)]
    write_csv(folder / "user_features_pure.csv", users)
    videos: list[list[object]] = [["video_id,author_id,video_type,upload_type,music_id,tag,video_duration"]]
    videos += [[v, v % 7, "NORMAL", "Web", v % 5, '"3,12"', "" if v == 3 else 15000 + v] for v in range(40)]
    write_csv(folder / "video_features_basic_pure.csv", videos)
    return folder


def test_kuairand_in_the_published_form_has_tabs_as_domains_and_seconds(tmp_path: Path) -> None:
    log = ingest_kuairand(write_kuairand(tmp_path / "raw"), tmp_path / "log")
    rows = pq.read_table(tmp_path / "log" / "events.parquet")
    assert min(rows["time"].to_pylist()) == 1_649_000_000
    dataset = prepare(log, tmp_path / "dataset")
    assert dataset.schema.domain_names == ("tab 0", "tab 1")
    assert dataset.schema.split.by == "time"
    assert labelled_rows(dataset) > 300


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no file here that is always full")
def test_a_full_disk_is_not_blamed_on_the_published_file(tmp_path: Path) -> None:
    source = write_kuairand(tmp_path / "raw")
    with (
        pytest.raises(InputError, match="log: no space left on the disk, nothing was changed"),
        new_log(source, tmp_path / "log", "made") as (files, _),
    ):
        files.write("SELECT 1 AS one", Path("/dev/full"), [source / "log.csv"])


def test_kuairand_needs_its_features(tmp_path: Path) -> None:
    source = write_kuairand(tmp_path / "raw")
    (source / "video_features_basic_pure.csv").unlink()
    with pytest.raises(InputError, match=r"video_features_basic_\*\.csv: missing"):
        ingest_kuairand(source, tmp_path / "log")


@pytest.mark.parametrize("ingest", [ingest_ali_ccp, ingest_kuairand, ingest_amazon_reviews, ingest_taobao])
def test_an_empty_folder_and_none_are_named(tmp_path: Path, ingest: Ingest) -> None:
    (tmp_path / "empty").mkdir()
    for source in (tmp_path / "empty", tmp_path / "nowhere"):
        with pytest.raises(InputError, match=source.name):
            ingest(source, tmp_path / "log")


@pytest.mark.filterwarnings("ignore:.*left out, without a click to learn from")
@pytest.mark.skipif("ISTHMUS_DATA" not in os.environ, reason="ISTHMUS_DATA does not name the folder of public data")
@pytest.mark.parametrize(
    ("ingest", "name", "num_domains"),
    [(ingest_ali_ccp, "ali_ccp_train_sample.csv", 1), (ingest_kuairand, "kuairand_sample.csv", 1)],
)
def test_real_rows_as_others_prepare_them_are_taken(
    tmp_path: Path, ingest: Ingest, name: str, num_domains: int
) -> None:
    sample = Path(os.environ["ISTHMUS_DATA"]) / "format_samples" / name
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / name).symlink_to(sample)
    dataset = prepare(ingest(tmp_path / "raw", tmp_path / "log"), tmp_path / "dataset")
    assert len(dataset.schema.domain_names) >= num_domains
    assert labelled_rows(dataset) > 50


def write_reviews(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    folder.mkdir()
    old = [
        {
            "reviewerID": f"U{rng.integers(0, 20)}",
            "asin": f"G{rng.integers(0, 30)}",
            "overall": float(rng.integers(1, 6)),
            "unixReviewTime": 1_390_000_000 + 86_400 * n,
        }
        for n in range(300)
    ]
    with gzip.open(folder / "reviews_Grocery_and_Gourmet_Food_5.json.gz", "wt", encoding="utf-8") as packed_file:
        packed_file.write("".join(json.dumps(one) + "\n" for one in old))
    new = [
        {
            "user_id": f"U{rng.integers(0, 20)}",
            "parent_asin": f"K{rng.integers(0, 30)}",
            "rating": 5.0 if n % 2 else 2.0,
            "timestamp": 1_390_000_000_000 + 86_400_000 * n,
        }
        for n in range(300)
    ]
    (folder / "Home_and_Kitchen.jsonl").write_text("".join(json.dumps(one) + "\n" for one in new), encoding="utf-8")
    # Metadata of 2014 are Python's literals.
    metas = [
        {"asin": f"G{n}", "title": f"green tea {n}", "brand": "Brand", "categories": [["Grocery", "Tea"]]}
        for n in range(30)
    ]
    (folder / "meta_Grocery_and_Gourmet_Food.json").write_text("".join(f"{one!r}\n" for one in metas), "utf-8")
    kitchen = [
        {"parent_asin": f"K{n}", "title": f"pan {n}", "store": "S", "categories": ["Kitchen", "Pans"]}
        for n in range(30)
    ]
    (folder / "meta_Home_and_Kitchen.jsonl").write_text("".join(json.dumps(one) + "\n" for one in kitchen), "utf-8")
    return folder


def test_amazon_reviews_of_both_forms_have_one_clock_and_titles(tmp_path: Path) -> None:
    log = ingest_amazon_reviews(write_reviews(tmp_path / "raw"), tmp_path / "log")
    rows = pq.read_table(tmp_path / "log" / "events.parquet").to_pylist()
    assert {row["time"] for row in rows if row["domain"] == "Home_and_Kitchen"} == {
        row["time"] for row in rows if row["domain"] == "Grocery_and_Gourmet_Food"
    }
    items = pq.read_table(tmp_path / "log" / "items.parquet").to_pylist()
    assert items[0] == {"item_id": "G0", "title": "green tea 0", "brand": "Brand", "category": "Tea"}
    assert items[-1] == {"item_id": "K29", "title": "pan 29", "brand": "S", "category": "Pans"}
    dataset = prepare(log, tmp_path / "dataset")
    assert dataset.schema.domain_names == ("Grocery_and_Gourmet_Food", "Home_and_Kitchen")
    assert labelled_rows(dataset) > 500
    assert dataset.titles() is not None


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"user_id": "U1", "asin"', r"Home_and_Kitchen\.jsonl, line 1: is no JSON object"),
        ("[1, 2]", "line 1: is no JSON object"),
        ('{"user_id": "U1", "asin": "A"}', "line 1: has neither 'rating' nor 'overall'"),
        ('{"user_id": "U1", "asin": "A", "rating": "good", "timestamp": 1}', "rating 'good' is not a number"),
        ('{"user_id": "U1", "asin": "A", "rating": 5, "timestamp": NaN}', "time nan is not a number"),
    ],
)
def test_a_broken_review_is_named_with_its_line(tmp_path: Path, line: str, message: str) -> None:
    source = write_reviews(tmp_path / "raw")
    (source / "Home_and_Kitchen.jsonl").write_text(line + "\n", encoding="utf-8")
    with pytest.raises(InputError, match=message):
        ingest_amazon_reviews(source, tmp_path / "log")


def test_a_cut_gzip_file_is_named(tmp_path: Path) -> None:
    source = write_reviews(tmp_path / "raw")
    file = source / "reviews_Grocery_and_Gourmet_Food_5.json.gz"
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(InputError, match=r"not readable.*fetch the file again"):
        ingest_amazon_reviews(source, tmp_path / "log")

"""Public logs of impressions with several scenarios: Ali-CCP (by where an item was shown) and KuaiRand (by tab)."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from isthmus.data.public.native_files import (
    NativeFiles,
    amount,
    binary,
    columns_of,
    filled,
    identifier,
    new_log,
    pattern,
    quoted,
    whole_time,
)
from isthmus.data.written_log import DECLARATION, write_declaration
from isthmus.errors import InputError

ALI_NAME, KUAI_NAME = "ali_ccp", "kuairand"
ALI_USER = ("121", "122", "124", "125", "126", "127", "128", "129")
ALI_USER_LISTS = ("109_14", "110_14", "127_14", "150_14")
ALI_ITEM = ("206", "207", "210", "216")
ALI_ROW = ("508", "509", "702", "853")
KUAI_USER = (
    "user_active_degree",
    "is_live_streamer",
    "is_video_author",
    "follow_user_num_range",
    "fans_user_num_range",
    "friend_user_num_range",
    "register_days_range",
)
KUAI_VIDEO = ("author_id", "video_type", "upload_type", "music_id", "tag")


def ingest_ali_ccp(source: Path, out: Path, *, seed: int = 0) -> Path:
    """Write the log of Ali-CCP, whose domain is field 301; gives the path of its declaration.

    Read are `sample_skeleton_{train,test}.csv` with `common_features_{train,test}.csv`, as published (test rows are
    test, a tenth of the training users' rows validation), or one CSV a name with a column a field, as others prepare it
    (`click`, `101`, `205`, `301` and what it has of the other fields), whose rows are split at random.

    Raises:
        InputError: a file, a column or a value is missing, a label is neither 0 nor 1, or no row is a click.
    """
    with new_log(source, out, ALI_NAME) as (files, folder):
        skeletons = files.find("sample_skeleton_*.csv")
        prepared = files.find("*.csv")
        if skeletons:
            present = _native_ali_ccp(files, skeletons)
        elif prepared:
            rules = (binary("click"), filled("101"), filled("205"), filled("301"))
            present = files.view("rows", prepared, ("click", "101", "205", "301"), rules=rules)
        else:
            raise InputError(
                f"{source}: no sample_skeleton_train.csv, nor another CSV with columns click, 101, 205, 301"
            )
        split = ", split" if skeletons else ""
        user, item = [f for f in ALI_USER if f in present], [f for f in ALI_ITEM if f in present]
        lists, rows = [f for f in ALI_USER_LISTS if f in present], [f for f in ALI_ROW if f in present]
        of_row = "".join(f", {identifier(f)} AS {_name(f)}" for f in (*user, *lists, *item, *rows))
        files.write(
            f'SELECT "101" AS user_id, "205" AS item_id, \'scenario \' || "301" AS domain, '
            f"CAST(click AS TINYINT) AS label{of_row}{split} FROM rows",
            folder / "events.parquet",
            skeletons or prepared,
        )
        domains = _domains(files, folder, source)
        fields = [
            {"name": "user_id", "side": "user", "kind": "id"},
            *({"name": _name(f), "side": "user", "kind": "categorical"} for f in user),
            # A prepared file keeps one value of each list.
            *(
                {"name": _name(f), "side": "user", "kind": "multi_valued" if skeletons else "categorical"}
                for f in lists
            ),
            {"name": "item_id", "side": "item", "kind": "id"},
            *({"name": _name(f), "side": "item", "kind": "categorical"} for f in item),
            *({"name": _name(f), "side": "row", "kind": "categorical"} for f in rows),
        ]
        by = {"by": "given", "column": "split"} if skeletons else {"by": "random", "seed": seed}
        write_declaration(_declaration(ALI_NAME, domains, fields, by, {}), folder)
    return out / DECLARATION


def _native_ali_ccp(files: NativeFiles, skeletons: Sequence[Path]) -> list[str]:
    """The published form as a view `rows`: what users share is kept apart there, and fields are packed into texts."""
    parts = []
    for skeleton in skeletons:
        part = skeleton.stem.removeprefix("sample_skeleton_")
        common = files.need(f"common_features_{part}.csv", "what the rows of a user have in common")
        rows, lines, users = f"skeleton_{part}", f"common_lines_{part}", f"common_{part}"
        files.view(
            rows,
            [skeleton],
            (),
            header=("row", "click", "buy", "common", "num", "features"),
            rules=(
                binary("click"),
                filled("common id", "common"),
                filled("field 205", _packed("205")),
                filled("field 301", _packed("301")),
            ),
        )
        files.view(
            lines,
            [common],
            (),
            header=("common", "num", "features"),
            rules=(filled("common id", "common"), filled("field 101", _packed("101"))),
        )
        of_user = [f"{_packed(f)} AS {identifier(f)}" for f in ("101", *ALI_USER)]
        of_user += [f"{_all_packed(f)} AS {identifier(f)}" for f in ALI_USER_LISTS]
        files.table(users, f"SELECT common, {', '.join(of_user)} FROM {identifier(lines)}", [common])
        files.require_unique(lines, "common", among=identifier(users))
        columns = [f"c.{identifier(f)}" for f in ("101", *ALI_USER, *ALI_USER_LISTS)]
        columns += [f"{_packed(f)} AS {identifier(f)}" for f in ("205", "301", *ALI_ITEM, *ALI_ROW)]
        split = quoted("test") if part == "test" else "CASE hash(c.\"101\") % 10 WHEN 0 THEN 'valid' ELSE 'train' END"
        unknown, remedy = quoted(f"{common.name} has no '"), quoted("'; fetch both files again")
        missing = f"error({unknown} || s.common || {remedy})"
        parts.append(
            f"SELECT CASE WHEN c.common IS NULL THEN {missing} ELSE s.click END AS click, {', '.join(columns)}, "
            f"{split} AS split FROM {identifier(rows)} s LEFT JOIN {identifier(users)} c ON s.common = c.common"
        )
    files.connection.execute(f"CREATE VIEW rows AS {' UNION ALL '.join(parts)}")
    return ["101", *ALI_USER, *ALI_USER_LISTS, "205", "301", *ALI_ITEM, *ALI_ROW]


def _packed(field: str) -> str:
    """The value of a field in a text of `field STX value ETX number`, parted by SOH."""
    return f"regexp_extract(features, '(^|\\x01){field}\\x02([^\\x03]*)\\x03', 2)"


def _all_packed(field: str) -> str:
    return f"array_to_string(regexp_extract_all(features, '(^|\\x01){field}\\x02([^\\x03]*)\\x03', 2), '|')"


def _name(field: str) -> str:
    return f"field_{field}"


def ingest_kuairand(source: Path, out: Path, *, seed: int = 0) -> Path:
    """Write the log of KuaiRand, whose domain is the tab; gives the path of its declaration.

    Read are `log_*.csv`, `user_features_*.csv` and `video_features_basic_*.csv`, as published, whose rows are split by
    time; or one CSV with users' features in the log's rows, as others prepare it, split at random where it has no time.

    Raises:
        InputError: a file, a column or a value is missing, a label is neither 0 nor 1, or no row is a click.
    """
    with new_log(source, out, KUAI_NAME) as (files, folder):
        logs = files.find("log_*.csv")
        native = bool(logs)
        logs = logs or files.find("*.csv")
        if not logs:
            raise InputError(f"{source}: no log_*.csv, nor another CSV with columns user_id, video_id, tab, is_click")
        has_time = native or "time_ms" in columns_of(logs[0])
        rules = (filled("user_id"), filled("video_id"), filled("tab"), binary("is_click"))
        present = files.view(
            "log",
            logs,
            ("user_id", "video_id", "tab", "is_click", *(["time_ms"] if has_time else [])),
            rules=(*rules, *(whole_time("time_ms", per_second=1_000) if has_time else ())),
        )
        of_row = [] if native else [name for name in KUAI_USER if name in present]
        chosen = ", ".join(["", *of_row]) if of_row else ""
        time = ", CAST(time_ms AS BIGINT) // 1000 AS time" if has_time else ""
        files.write(
            f"SELECT user_id, video_id AS item_id, 'tab ' || tab AS domain, CAST(is_click AS TINYINT) AS label"
            f"{time}{chosen} FROM log",
            folder / "events.parquet",
            logs,
        )
        domains = _domains(files, folder, source)
        tables: dict[str, Any] = {}
        user_source = "events"
        if native:
            user_source = "users"
            users = files.find("user_features_*.csv")
            videos = files.find("video_features_basic_*.csv")
            if not users or not videos:
                missing = "video_features_basic_*.csv" if users else "user_features_*.csv"
                raise InputError(f"{source / missing}: missing; give the folder of the data set's own files")
            files.view("users", users, ("user_id", *KUAI_USER), rules=(filled("user_id"),))
            files.view(
                "videos",
                videos,
                ("video_id", *KUAI_VIDEO, "video_duration"),
                rules=(filled("video_id"), amount("video_duration")),
            )
            of_row = list(KUAI_USER)
            files.write(f"SELECT DISTINCT user_id, {', '.join(KUAI_USER)} FROM users", folder / "users.parquet", users)
            duration = "ln(1 + TRY_CAST(video_duration AS DOUBLE) / 1000) AS log_seconds"
            files.write(
                f"SELECT DISTINCT video_id AS item_id, {', '.join(KUAI_VIDEO)}, {duration} FROM videos",
                folder / "videos.parquet",
                videos,
            )
            files.require_unique("users", "user_id", among=_parquet(folder / "users.parquet"))
            items = f"(SELECT item_id AS video_id FROM {_parquet(folder / 'videos.parquet')})"
            files.require_unique("videos", "video_id", among=items)
            tables = {
                "users": {"files": ["users.parquet"], "user": "user_id"},
                "videos": {"files": ["videos.parquet"], "item": "item_id"},
            }
        fields = [
            {"name": "user_id", "side": "user", "kind": "id"},
            *({"name": name, "side": "user", "kind": "categorical", "source": user_source} for name in of_row),
            {"name": "item_id", "side": "item", "kind": "id"},
        ]
        if native:
            for name in KUAI_VIDEO:
                # A video has several tags, joined by commas.
                kind = {"kind": "multi_valued", "separator": ","} if name == "tag" else {"kind": "categorical"}
                fields.append({"name": name, "side": "item", "source": "videos", **kind})
            fields.append(
                {"name": "log_seconds", "side": "item", "kind": "number", "source": "videos", "missing": "mean"}
            )
        declaration = _declaration(
            KUAI_NAME, domains, fields, {"by": "time"} if has_time else {"by": "random", "seed": seed}, tables
        )
        if has_time:
            declaration["events"]["time"] = "time"
        write_declaration(declaration, folder)
    return out / DECLARATION


def _domains(files: NativeFiles, folder: Path, source: Path) -> list[str]:
    """The domains with a positive, for a click model learns nothing in the others; rows of those are taken out."""
    events = folder / "events.parquet"
    rows = _parquet(events)
    counts = files.rows(f"SELECT domain, max(label), count(*) FROM {rows} GROUP BY domain ORDER BY domain", [events])
    names = [name for name, label, _ in counts if label == 1]
    if not names:
        raise InputError(f"{source}: no row of the log is a click")
    if left_out := [f"{name} ({count} rows)" for name, _, count in counts if name not in names]:
        warnings.warn(f"{source}: left out, without a click to learn from: {', '.join(left_out)}", stacklevel=3)
        kept = folder / "kept.parquet"
        files.write(f"SELECT * FROM {rows} WHERE domain IN ({', '.join(map(quoted, names))})", kept, [events])
        kept.replace(events)
    return names


def _parquet(file: Path) -> str:
    return f"read_parquet({pattern(file)})"


def _declaration(
    name: str,
    domains: Sequence[str],
    fields: Sequence[Mapping[str, Any]],
    split: Mapping[str, Any],
    tables: Mapping[str, Any],
) -> dict[str, Any]:
    return {
        "name": name,
        "events": {
            "files": ["events.parquet"],
            "user": "user_id",
            "item": "item_id",
            "domain": "domain",
            "positive": {"column": "label"},
        },
        "domains": {domain: {} for domain in domains},
        "tables": dict(tables),
        "fields": [dict(field) for field in fields],
        "split": dict(split),
        "ranking": {"negatives": "explicit"},
    }

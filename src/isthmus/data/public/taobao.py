"""Taobao's two public logs as CDAnet's pair: advertisements (Tianchi 56) and recommendations (Tianchi 649).

Read are Tianchi 56's `raw_sample.csv`, `user_profile.csv`, `ad_feature.csv` and, where it is there, `behavior_log.csv`
(domain `ad`: a click is the label), and Tianchi 649's `UserBehavior.csv`, which has no header (domain `rec`: a purchase
is the label, as in the paper, and what was viewed, put into the cart or marked is its negative).
"""

import warnings
from pathlib import Path
from typing import Any

from isthmus.data.public.native_files import (
    IF_WRONG,
    Rule,
    amount,
    binary,
    filled,
    new_log,
    pattern,
    whole_time,
)
from isthmus.data.written_log import DECLARATION, write_declaration

NAME = "taobao"
PROFILE = (
    "cms_segid",
    "cms_group_id",
    "final_gender_code",
    "age_level",
    "pvalue_level",
    "shopping_level",
    "occupation",
    "new_user_class_level",
)
AD_FIELDS = ("campaign_id", "customer", "brand")
NUM_BEHAVIOURS = 50
KNOWN_KIND = Rule(
    "kind",
    "kind",
    "coalesce(kind NOT IN ('pv', 'buy', 'cart', 'fav'), true)",
    f"is none of pv, buy, cart, fav; {IF_WRONG}",
)
# Rows of one moment stay together.
BY_OWN_TIME = """
    WITH placed AS (
        SELECT *, rank() OVER (PARTITION BY domain ORDER BY time) AS number,
            count(*) OVER (PARTITION BY domain) AS num_rows
        FROM events
    )
    SELECT * EXCLUDE (number, num_rows),
        CASE WHEN number > .9 * num_rows THEN 'test' WHEN number > .8 * num_rows THEN 'valid' ELSE 'train' END AS split
    FROM placed
"""


def ingest_taobao(source: Path, out: Path) -> Path:
    """Write a log of both domains with a clock; gives the path of its declaration.

    The periods of the two published files do not meet: May 2017, and November 2017. One clock would then leave the
    earlier domain without a held-out row; in that case each domain is cut 8:1:1 by its own time, a warning says so, and
    the later domain is known to the earlier one's models although it had not happened yet.

    Users keep their numbers, so that one who is in both files is one user; items do not, for the files number them each
    for itself. Of `behavior_log.csv` each user's latest 50 categories and brands before his first impression are kept:
    they are known at every row. Without one such row the file is left out, with a warning.

    Raises:
        InputError: a file or a column is missing, or a value is not what the data set's description says.
    """
    with new_log(source, out, NAME) as (files, folder):
        ads = files.need("raw_sample.csv", "impressions of advertisements, Tianchi 56")
        profiles = files.need("user_profile.csv", "users, Tianchi 56")
        features = files.need("ad_feature.csv", "advertisements, Tianchi 56")
        behaviour = files.need("UserBehavior.csv", "views and purchases, Tianchi 649; it has no header")
        times = whole_time("time_stamp")
        files.view(
            "ads",
            [ads],
            ("user", "time_stamp", "adgroup_id", "pid", "clk"),
            rules=(filled("user"), filled("adgroup_id"), binary("clk"), *times),
        )
        files.view("profiles", [profiles], ("userid", *PROFILE), rules=(filled("userid"),))
        files.view(
            "features",
            [features],
            ("adgroup_id", "cate_id", *AD_FIELDS, "price"),
            rules=(filled("adgroup_id"), amount("price")),
        )
        files.view(
            "behaviour",
            [behaviour],
            (),
            header=("user", "item", "category", "kind", "time_stamp"),
            rules=(filled("user"), filled("item"), KNOWN_KIND, *times),
        )
        files.require_unique("profiles", "userid")
        files.require_unique("features", "adgroup_id")
        files.write(
            """
            SELECT user AS user_id, 'ad:' || adgroup_id AS item_id, 'ad' AS domain,
                CAST(time_stamp AS BIGINT) AS time, CAST(clk AS TINYINT) AS label, pid AS place
            FROM ads
            UNION ALL
            SELECT user, 'rec:' || item, 'rec', CAST(time_stamp AS BIGINT),
                CASE kind WHEN 'buy' THEN 1 ELSE 0 END, NULL
            FROM behaviour
            """,
            folder / "events.parquet",
            [ads, behaviour],
        )
        of_ads = ", ".join(f"NULLIF({name}, 'NULL') AS {name}" for name in AD_FIELDS)
        files.write(
            f"""
            SELECT 'ad:' || adgroup_id AS item_id, 'ad:' || cate_id AS category, {of_ads},
                ln(1 + CAST(price AS DOUBLE)) AS log_price
            FROM features
            UNION ALL
            SELECT 'rec:' || item, 'rec:' || min(category), {", ".join("NULL" for _ in AD_FIELDS)}, NULL
            FROM behaviour GROUP BY item
            """,
            folder / "items.parquet",
            [features, behaviour],
        )
        users = f"SELECT userid AS user_id, {', '.join(PROFILE)} FROM profiles"
        files.write(users, folder / "users.parquet", [profiles])
        before = files.find("behavior_log.csv")
        if before:
            files.view("visits", before, ("user", "time_stamp", "cate", "brand"), rules=(filled("user"), *times))
            files.write(
                f"""
                WITH first AS (SELECT user, min(CAST(time_stamp AS BIGINT)) AS start FROM ads GROUP BY user),
                known AS (
                    SELECT user, cate, brand, CAST(time_stamp AS BIGINT) AS time
                    FROM visits JOIN first USING (user) WHERE CAST(time_stamp AS BIGINT) < start
                    QUALIFY row_number() OVER (PARTITION BY user ORDER BY time DESC, cate, brand) <= {NUM_BEHAVIOURS}
                )
                SELECT user AS user_id, list('ad:' || cate ORDER BY time, cate) AS visited_categories,
                    list(brand ORDER BY time, brand) FILTER (brand IS NOT NULL) AS visited_brands
                FROM known GROUP BY user
                """,
                folder / "visits.parquet",
                before,
            )
            if files.values(f"SELECT count(*) FROM read_parquet({pattern(folder / 'visits.parquet')})", before) == [
                "0"
            ]:
                warnings.warn(
                    f"{before[0]}: left out; it has no row of a user of raw_sample.csv before his first impression",
                    stacklevel=2,
                )
                (folder / "visits.parquet").unlink()
                before = []
        files.connection.execute(f"CREATE VIEW events AS FROM read_parquet({pattern(folder / 'events.parquet')})")
        # All but a few rows: the published log of purchases has times decades before and after its nine days.
        bounds = "approx_quantile(time, .01) AS first, approx_quantile(time, .99) AS last"
        by_domain = f"SELECT domain, {bounds} FROM events GROUP BY domain"
        apart = files.values(
            f"SELECT count(*) FROM ({by_domain}) AS a, ({by_domain}) AS b WHERE a.last < b.first", [ads, behaviour]
        )
        is_apart = apart == ["1"]
        if is_apart:
            files.write(BY_OWN_TIME, folder / "cut.parquet", [ads, behaviour])
            (folder / "cut.parquet").replace(folder / "events.parquet")
            warnings.warn(
                f"{source}: the periods of the two domains do not meet, so each is cut by its own time; what the later "
                "one tells of the earlier one's rows had not happened yet",
                stacklevel=2,
            )
        write_declaration(_declaration(has_visits=bool(before), is_cut=is_apart), folder)
    return out / DECLARATION


def _declaration(*, has_visits: bool, is_cut: bool) -> dict[str, Any]:
    ad: dict[str, Any] = {"domains": ["ad"]}
    fields: list[dict[str, Any]] = [
        {"name": "user_id", "side": "user", "kind": "id"},
        *({"name": name, "side": "user", "kind": "categorical", "source": "users", **ad} for name in PROFILE),
        {"name": "history", "side": "user", "kind": "history", "scope": "own", "table": "item_id"},
        {"name": "other_history", "side": "user", "kind": "history", "scope": "other", "table": "item_id"},
        {"name": "item_id", "side": "item", "kind": "id"},
        {"name": "category", "side": "item", "kind": "categorical", "source": "items"},
        *({"name": name, "side": "item", "kind": "categorical", "source": "items", **ad} for name in AD_FIELDS),
        {"name": "log_price", "side": "item", "kind": "number", "source": "items", "missing": "mean", **ad},
        {"name": "place", "side": "row", "kind": "categorical", **ad},
    ]
    tables: dict[str, Any] = {
        "users": {"files": ["users.parquet"], "user": "user_id"},
        "items": {"files": ["items.parquet"], "item": "item_id"},
    }
    if has_visits:
        tables["visits"] = {"files": ["visits.parquet"], "user": "user_id"}
        visited = {"side": "user", "kind": "multi_valued", "source": "visits", **ad}
        fields += [
            {"name": "visited_categories", **visited, "vocabulary": "category", "table": "category"},
            {"name": "visited_brands", **visited, "vocabulary": "brand", "table": "brand"},
        ]
    return {
        "name": NAME,
        "events": {
            "files": ["events.parquet"],
            "user": "user_id",
            "item": "item_id",
            "domain": "domain",
            "time": "time",
            "positive": {"column": "label"},
        },
        "domains": {"ad": {}, "rec": {}},
        "tables": tables,
        "fields": fields,
        "split": {"by": "given"} if is_cut else {"by": "time"},
        "ranking": {"negatives": "explicit"},
    }

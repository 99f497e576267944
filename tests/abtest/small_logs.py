"""Logs of an experiment, written row by row as a server would, or drawn at random with a known effect."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from isthmus.abtest.assignment import assign, read_experiment
from isthmus.abtest.logs import FEEDBACK, IMPRESSIONS

NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)
BUNDLE = "b1"


def shown(
    request: str, user: str | None, variant: str | None, items: str, *, hour: float = 0, **more: Any
) -> list[dict[str, Any]]:
    """One list of the items that are the letters of `items`: a lower-case one costs 2, an upper-case one 5, a digit has
    no price.
    """
    common = {
        "time": NOON + timedelta(hours=hour),
        "request": request,
        "user": user,
        "domain": "shop",
        "experiment": None if variant is None else "trial",
        "variant": variant,
        "bundle": BUNDLE,
        "ordered_by": "click_probability",
    }
    prices = [None if letter.isdigit() else 5.0 if letter.isupper() else 2.0 for letter in items]
    return [
        common | {"item": letter, "position": place, "score": 0.5, "price": price} | more
        for place, (letter, price) in enumerate(zip(items, prices, strict=True), start=1)
    ]


def named(request: str, items: str, kind: str = "click", *, hour: float = 0.1) -> list[dict[str, Any]]:
    """Feedback of one kind that names each of the items."""
    time = NOON + timedelta(hours=hour)
    return [{"time": time, "request": request, "item": letter, "kind": kind} for letter in items]


def write_logs(
    folder: Path, impressions: Sequence[dict[str, Any]], feedback: Sequence[dict[str, Any]] = (), name: str = "1"
) -> Path:
    """Write one file of each kind; gives the folder."""
    folder.mkdir(exist_ok=True)
    for kind, rows, schema in (("impressions", impressions, IMPRESSIONS), ("feedback", feedback, FEEDBACK)):
        if rows or kind == "impressions":
            pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), folder / f"{kind}-{name}.parquet")
    return folder


def drawn_logs(
    folder: Path, *, num_experiments: int, num_users: int, uplift: float = 0.0, seed: int, name: str = "trial"
) -> Path:
    """Experiments `name`0, `name`1 ... of users whose rates of clicking differ widely, as does how much they are shown.

    Args:
        num_users: of each experiment, each in `control` or `new` by chance.
        uplift: by which share users of `new` click more.
    """
    rng = np.random.default_rng(seed)
    total = num_experiments * num_users
    is_new = rng.random(total) < 0.5
    rate = 0.8 * rng.beta(0.5, 2.0, total) * np.where(is_new, 1 + uplift, 1.0)
    num_rows = 1 + rng.geometric(0.15, total)
    user = np.repeat(np.arange(total), num_rows)
    clicked = np.flatnonzero(rng.random(len(user)) < rate[user])
    request = pa.array([f"r{number}" for number in range(len(user))])
    time = pa.array([NOON] * len(user))
    columns = {
        "time": time,
        "request": request,
        "user": pa.array([f"u{number}" for number in user.tolist()]),
        "domain": pa.array(["shop"] * len(user)),
        "experiment": pa.array([f"{name}{number}" for number in (user // num_users).tolist()]),
        "variant": pa.array(np.where(is_new, "new", "control")[user].tolist()),
        "bundle": pa.array([BUNDLE] * len(user)),
        "item": pa.array(["i"] * len(user)),
        "position": pa.array([1] * len(user), pa.int32()),
        "score": pa.array([0.5] * len(user)),
        "ordered_by": pa.array(["popularity"] * len(user)),
        "retrieval_score": pa.nulls(len(user), pa.float64()),
        "price": pa.nulls(len(user), pa.float64()),
    }
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.table(columns, schema=IMPRESSIONS), folder / "impressions-1.parquet")
    feedback = {
        "time": time.take(pa.array(clicked)),
        "request": request.take(pa.array(clicked)),
        "item": pa.array(["i"] * len(clicked)),
        "kind": pa.array(["click"] * len(clicked)),
    }
    pq.write_table(pa.table(feedback, schema=FEEDBACK), folder / "feedback-1.parquet")
    return folder


EXAMPLE_TRIAL = """name: ranker-or-not
salt: "2026-11"
variants:
  - {name: control, share: 0.5}
  - {name: retrieval order, share: 0.25, ranked: false}
  - {name: new model, share: 0.25}
"""
EXAMPLE_UPLIFT = {"control": 1.0, "retrieval order": 0.8, "new model": 1.1}


def example_logs(folder: Path) -> Path:
    """The experiment of docs/logs.md: `folder`/{logs, trial.yaml, users.csv}; gives `folder`/logs.

    8,000 users, each in one or two domains, and some requests without a user; against the control, users click a fifth
    less in retrieval's order and a tenth more with the new model, everywhere.
    """
    (file := folder / "trial.yaml").write_text(EXAMPLE_TRIAL)
    experiment, rng = read_experiment(file), np.random.default_rng(0)
    impressions: list[dict[str, Any]] = []
    feedback: list[dict[str, Any]] = []
    levels = rng.choice(["new", "returning"], size=8000, p=[0.3, 0.7])
    for number, level in enumerate(levels):
        rate, is_anonymous = rng.beta(0.5, 4.0), rng.random() < 0.05
        for place in range(1 + rng.geometric(0.5 if level == "new" else 0.3)):
            request = f"r{number}-{place}"
            user = None if is_anonymous else f"u{number}"
            variant = assign(experiment, request if user is None else user).name
            prices = np.exp(rng.normal(3.0, 0.5, 5)).round(2).tolist()
            rows = shown(request, user, variant, "abcde", hour=float(rng.uniform(0, 336)), experiment=experiment.name)
            rows = [row | {"domain": ("shop", "video")[(number + place % 2) % 2]} for row in rows]
            impressions += [row | {"price": price} for row, price in zip(rows, prices, strict=True)]
            clicked = [row for row in rows if rng.random() < rate * EXAMPLE_UPLIFT[variant]]
            for row in clicked:
                again = {"request": request, "item": row["item"], "kind": "click"}
                feedback.append({"time": row["time"] + timedelta(minutes=1), **again})
                if rng.random() < 0.1:
                    feedback.append({"time": row["time"] + timedelta(hours=2), **again, "kind": "order"})
    (folder / "users.csv").write_text("user,level\n" + "".join(f"u{n},{level}\n" for n, level in enumerate(levels)))
    return write_logs(folder / "logs", impressions, feedback)

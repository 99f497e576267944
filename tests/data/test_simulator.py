from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from isthmus.data.describe import describe
from isthmus.data.prepare import prepare
from isthmus.data.simulator import simulate


def test_the_log_has_what_its_docstring_says(tmp_path: Path) -> None:
    log = simulate(tmp_path / "log", num_users=600, num_items=200, seed=3)
    description = describe(prepare(log, tmp_path / "out").path)
    users, items = np.array(description.user_overlap), np.array(description.item_overlap)
    # The first domain has most users and the last fewest; three users in ten are in two domains, a third of them
    # having drawn their own a second time: about 120 of 600.
    assert users[0, 0] > users[1, 1] > users[2, 2]
    assert 80 < users[np.triu_indices(3, 1)].sum() < 160
    # Four items in ten are everywhere, a fifth in each domain alone.
    assert 60 < items[0, 1] <= 100
    assert 95 < items[0, 0] < 145


def test_the_seed_makes_the_log(tmp_path: Path) -> None:
    logs = [
        pq.read_table(simulate(tmp_path / str(n), num_users=60, num_items=40, seed=seed).parent / "events.parquet")
        for n, seed in enumerate((1, 1, 2))
    ]
    assert logs[0].equals(logs[1])
    assert not logs[0].equals(logs[2])


def test_a_user_takes_an_item_of_a_domain_once(tmp_path: Path) -> None:
    log = simulate(tmp_path, num_users=60, num_items=40, domains=("one", "two"), seed=0)
    events = pq.read_table(log.parent / "events.parquet")
    assert set(events["domain"].to_pylist()) == {"one", "two"}
    assert len(events.group_by(["user_id", "item_id", "domain"]).aggregate([])) == len(events)

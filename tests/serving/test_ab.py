"""From a served experiment to its figures: recommend, post what came of it, stop, measure."""

import json
import signal
from pathlib import Path

import pytest
from tests.serving.bundles import new_bundle
from tests.serving.running import serving

from isthmus.abtest.assignment import assign, read_experiment
from isthmus.cli import main
from isthmus.data.dataset import Dataset

TRIAL = """
name: order
variants:
- {name: ranked, share: 0.5}
- {name: retrieval order, share: 0.5, ranked: false}
"""
NUM_USERS, K = 40, 3


def test_an_experiment_is_measured_from_what_its_server_logged(
    tiny_dataset: Dataset, labelled: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new_bundle(tmp_path / "bundle", tiny_dataset, labelled)
    (file := tmp_path / "trial.yaml").write_text(TRIAL)
    experiment, logs = read_experiment(file), tmp_path / "logs"
    options = ("--experiment", str(file), "--log-folder", str(logs))
    num_users, num_clicks, revenue = dict.fromkeys(("ranked", "retrieval order"), 0), 0, 0.0
    with serving(tmp_path / "bundle", tmp_path / "server.log", *options) as (client, process):
        for number in range(NUM_USERS):
            user = f"u{number}"
            answer = client.post("/v1/recommend", json={"domain": "shop", "user": user, "k": K}).json()
            num_users[assign(experiment, user).name] += 1
            if answer["variant"] == "ranked":  # the first item is clicked by all of them, by others none
                first = answer["items"][0]
                click = {"request": answer["request"], "item": first["item"], "kind": "click"}
                assert client.post("/v1/feedback", json={"feedback": [click] * 2}).json() == {"taken": 2}
                num_clicks, revenue = num_clicks + 1, revenue + first["attributes"]["price"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) in (0, -signal.SIGTERM)
    assert main(["ab", str(logs), "--trial", str(file), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    ranked, other = (row for row in told["counts"] if row["by"] == "all domains")
    assert (ranked["variant"], other["variant"]) == ("ranked", "retrieval order")
    assert [row["users"] for row in (ranked, other)] == list(num_users.values())
    assert [row["impressions"] for row in (ranked, other)] == [K * count for count in num_users.values()]
    assert (ranked["clicks"], other["clicks"]) == (num_clicks, 0)
    assert ranked["ctr"] == pytest.approx(1 / K)
    assert ranked["revenue"] == pytest.approx(revenue)
    assert told["sample_ratio"]["observed"] == num_users
    assert told["sample_ratio"]["is_mismatched"] is False
    assert told["differences"][0]["difference"] == -1
    assert told["differences"][0]["why_no_interval"] == "the variant's is not above 0"
    assert f"Left out: {num_clicks} repeated clicks and orders of one shown item" in told["notes"]
    assert min(num_users.values()) > 5

"""Who gets which variant: the same everywhere, in the declared shares, and independently of other experiments."""

import subprocess
import sys
from pathlib import Path

import pytest

from isthmus.abtest.assignment import Experiment, Variant, assign, place_of, read_experiment
from isthmus.errors import InputError

USERS = [f"u{number}" for number in range(20_000)]
B2SUM = 0x783DEA3BE61A8AE8


def experiment(name: str = "ranker", salt: str = "", shares: tuple[float, ...] = (0.5, 0.3, 0.2)) -> Experiment:
    return Experiment(
        name=name, salt=salt, variants=tuple(Variant(name=f"v{n}", share=s) for n, s in enumerate(shares))
    )


def test_a_place_is_the_documented_hash_in_every_process() -> None:
    # By another program: printf 'ranker\\0\\0u1' | b2sum -l 64
    assert place_of(experiment(), "u1") == B2SUM / 2**64
    code = "from tests.abtest.test_assignment import *; print(place_of(experiment(), 'u1'))"
    root = Path(__file__).parents[2]
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert float(other.stdout) == place_of(experiment(), "u1")
    assert place_of(experiment(), "u1") != place_of(experiment(salt="2"), "u1")
    assert place_of(experiment(name="a", salt="b"), "c") != place_of(experiment(name="a"), "b\0c")


def test_variants_get_their_shares() -> None:
    given = [assign(experiment(), user).name for user in USERS]
    for name, share in zip(("v0", "v1", "v2"), (0.5, 0.3, 0.2), strict=True):
        assert given.count(name) / len(USERS) == pytest.approx(share, abs=0.012)  # over 3 standard errors


def test_two_experiments_divide_users_independently() -> None:
    first = [assign(experiment(shares=(0.5, 0.5)), user).name == "v0" for user in USERS]
    second = [assign(experiment(salt="again", shares=(0.5, 0.5)), user).name == "v0" for user in USERS]
    both = sum(a and b for a, b in zip(first, second, strict=True)) / len(USERS)
    assert both == pytest.approx(0.25, abs=0.011)


def test_a_larger_share_keeps_those_who_had_the_variant() -> None:
    small, large = experiment(shares=(0.1, 0.9)), experiment(shares=(0.3, 0.7))
    assert all(assign(large, user).name == "v0" for user in USERS if assign(small, user).name == "v0")


def test_an_experiment_is_read_with_bundles_beside_its_file(tmp_path: Path) -> None:
    file = tmp_path / "trial.yaml"
    file.write_text("name: t\nvariants:\n- {name: a, share: .9}\n- {name: b, share: .1, bundle: new, ranked: false}\n")
    read = read_experiment(file)
    assert [variant.bundle for variant in read.variants] == [None, tmp_path / "new"]
    assert [variant.ranked for variant in read.variants] == [True, False]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: t\nvariants:\n- {name: a, share: .5}\n", "shares add up to 0.5, not to 1"),
        ("name: t\nvariants:\n- {name: a, share: .5}\n- {name: a, share: .5}\n", "two variants have one name"),
        ("name: t\nvariants:\n- {name: a, shore: 1}\n", "did you mean 'share'"),
        ("name: t\n", "variants"),
        ("[]", "trial.yaml"),
    ],
)
def test_what_is_no_experiment_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "trial.yaml").write_text(text)
    with pytest.raises(InputError, match=message):
        read_experiment(tmp_path / "trial.yaml")


def test_a_mistake_in_a_variant_is_told_once_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "trial.yaml"
    file.write_text("name: trial\nvariants: [{name: a, share: 1, ranked: maybe}]\n")
    with pytest.raises(InputError) as raised:
        read_experiment(file)
    (line,) = str(raised.value).splitlines()
    assert "variants.0.ranked: 'maybe'" in line
    file.write_text("name: trial\nvariants: []\n")
    with pytest.raises(InputError, match="shares add up to 0, not to 1"):
        read_experiment(file)

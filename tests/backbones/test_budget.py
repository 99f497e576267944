import pytest

from isthmus.backbones.budget import count_parameters, parameter_budget, scale_widths
from isthmus.backbones.settings import (
    ADISettings,
    AnyBackboneSettings,
    CrossStitchSettings,
    DNNSettings,
    IndependentSettings,
    MMoESettings,
    PLESettings,
    SharedBottomSettings,
    StarSettings,
)

METHODS: dict[str, AnyBackboneSettings] = {
    "dnn": DNNSettings(hidden_dims=(64, 32)),
    "independent": IndependentSettings(hidden_dims=(64, 32)),
    "shared_bottom": SharedBottomSettings(hidden_dims=(64,), forward_dims=(32,)),
    "cross_stitch": CrossStitchSettings(hidden_dims=(64, 32)),
    "mmoe": MMoESettings(hidden_dims=(64, 32), num_experts=4),
    "ple": PLESettings(hidden_dims=(64, 32)),
    "star": StarSettings(hidden_dims=(64, 32)),
    "adi": ADISettings(hidden_dims=(64, 32)),
}


def test_a_count_worked_by_hand() -> None:
    # 10 -> 4: 44, its norm 8; 4 -> 2: 10.
    assert count_parameters(DNNSettings(hidden_dims=(4,)), num_domains=3, in_dim=10, out_dim=2) == 44 + 8 + 10


def test_the_largest_width_within_the_budget_is_found() -> None:
    # A width w costs 10 w + w + 2 w + 2 w + 2 = 15 w + 2: within 200 parameters w = 13 costs 197.
    fitted = parameter_budget({"dnn": DNNSettings(hidden_dims=(4,))}, num_domains=3, in_dim=10, out_dim=2, target=200)[
        "dnn"
    ]
    assert fitted.settings.hidden_dims == (13,)
    assert fitted.num_parameters == 197
    exact = parameter_budget({"dnn": DNNSettings(hidden_dims=(100,))}, num_domains=3, in_dim=10, out_dim=2, target=197)[
        "dnn"
    ]
    assert exact.settings.hidden_dims == (13,)
    unchanged = parameter_budget(
        {"dnn": DNNSettings(hidden_dims=(13,))}, num_domains=3, in_dim=10, out_dim=2, target=197
    )["dnn"]
    assert unchanged.settings.hidden_dims == (13,)


def test_every_method_comes_within_the_tolerance() -> None:
    fitted = parameter_budget(METHODS, num_domains=3, in_dim=48, out_dim=32, target=60_000)
    assert len(fitted) == 8
    for name, budgeted in fitted.items():
        assert 58_800 <= budgeted.num_parameters <= 60_000, name
        counted = count_parameters(budgeted.settings, num_domains=3, in_dim=48, out_dim=32)
        assert counted == budgeted.num_parameters
        assert budgeted.settings.kind == METHODS[name].kind


def test_all_widths_are_scaled_by_one_factor() -> None:
    scaled = scale_widths(SharedBottomSettings(hidden_dims=(64, 10), forward_dims=(32,)), 0.5)
    assert scaled == SharedBottomSettings(hidden_dims=(32, 5), forward_dims=(16,))


@pytest.mark.parametrize("target", [10, 160])  # below width 1 (17); between width 10 (152) and 11 (167)
def test_a_budget_that_no_width_meets_is_refused(target: int) -> None:
    with pytest.raises(ValueError, match=r"dnn: \d+ parameters"):
        parameter_budget({"dnn": DNNSettings(hidden_dims=(4,))}, num_domains=3, in_dim=10, out_dim=2, target=target)

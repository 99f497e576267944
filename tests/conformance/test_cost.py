"""T12: what a row of both towers costs as domains are added, in numbers that no clock blurs."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from tests.tiny import ITEM_ID, Positive, sizes_of, tiny_dataset, tiny_schema
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from isthmus.backbones.settings import (
    ADISettings,
    AnyBackboneSettings,
    DNNSettings,
    IndependentSettings,
    MMoESettings,
    PLESettings,
    SharedBottomSettings,
    StarSettings,
)
from isthmus.batch import Features
from isthmus.domains import DomainSlices
from isthmus.models.two_tower import TwoTower, TwoTowerSettings

# Without Cross-Stitch, which runs all networks on every row, as the method demands.
DIMS = (6,)
BACKBONES: dict[str, AnyBackboneSettings] = {
    "dnn": DNNSettings(hidden_dims=DIMS),
    "independent": IndependentSettings(hidden_dims=DIMS),
    "shared_bottom": SharedBottomSettings(hidden_dims=DIMS),
    "mmoe": MMoESettings(hidden_dims=DIMS, num_experts=2),
    "ple": PLESettings(hidden_dims=DIMS),
    "star": StarSettings(hidden_dims=DIMS),
    "adi": ADISettings(hidden_dims=DIMS, norm="domain"),
}


RESERVED = {torch.ops.aten.empty, torch.ops.aten.empty_like, torch.ops.aten.new_empty, torch.ops.aten.detach}


class Elements(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch declares no types there
    """Counts the numbers that all operations write, which views do not: also what no product is, such as a selection
    by masks.
    """

    count = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        if function.is_view or function.overloadpacket in RESERVED:
            return result
        outputs = result if isinstance(result, tuple | list) else [result]
        self.count += sum(tensor.numel() for tensor in outputs if isinstance(tensor, Tensor))
        return result


def cost(model_settings: TwoTowerSettings, num_domains: int) -> tuple[int, int]:
    """Products of both towers, forward and backward, and numbers written forward, for 2048 rows in all."""
    train_rows: list[Positive] = [(1, 1, domain, 0) for domain in range(num_domains)]
    schema = tiny_schema(
        domains=[f"d{domain}" for domain in range(num_domains)],
        fields=(ITEM_ID.model_copy(update={"side": "user", "name": "me"}), ITEM_ID),
        clock=False,
    )
    user, item, tables = sizes_of(tiny_dataset(train_rows, num_users=5, num_items=5, schema=schema))
    model = TwoTower(
        model_settings,
        num_domains=num_domains,
        user_sizes=user,
        item_sizes=item,
        table_rows=tables,
        initial_bias=torch.zeros(num_domains, 5),
    )
    count = 2048
    rows = torch.arange(count) % 5
    features = Features(rows[:, None], (), torch.empty(count, 0))
    slices = DomainSlices.from_counts([count // num_domains] * num_domains)
    with Elements() as elements:  # type: ignore[no-untyped-call]
        vectors = model.encode_user(features, slices), model.encode_item(features, rows, slices)
    products = FlopCounterMode(display=False)
    with products:
        vectors = model.encode_user(features, slices), model.encode_item(features, rows, slices)
        torch.autograd.backward((vectors[0] * vectors[1]).sum())
    return products.get_total_flops(), elements.count


FLAT: dict[str, TwoTowerSettings] = {
    **{
        kind: TwoTowerSettings(embedding_dim=8, backbone=backbone, adaptation="linear", domain_indicator=True)
        for kind, backbone in BACKBONES.items()
    },
    "VA": TwoTowerSettings(embedding_dim=8, backbone=BACKBONES["adi"], adaptation="attention"),
    "1-SE": TwoTowerSettings(embedding_dim=8, backbone=BACKBONES["adi"], adaptation="se", se_use="global"),
    "D-SE": TwoTowerSettings(embedding_dim=8, backbone=BACKBONES["adi"], adaptation="se", se_use="domain"),
    "(D+K)-SE": TwoTowerSettings(embedding_dim=8, backbone=BACKBONES["adi"], adaptation="se", se_use="network"),
    "one model a domain": TwoTowerSettings(
        embedding_dim=8, backbone=BACKBONES["independent"], adaptation="linear", tables_by_domain=True
    ),
}


@pytest.mark.parametrize("name", list(FLAT))
def test_a_row_of_both_towers_costs_the_same_with_more_domains(name: str) -> None:
    assert len(FLAT) == 12
    (few_products, few_elements), (many_products, many_elements) = cost(FLAT[name], 2), cost(FLAT[name], 16)
    assert 0 < many_products <= 1.02 * few_products  # the rest: ADI's gates, once a domain
    assert 0 < many_elements <= 1.05 * few_elements  # the rest: each domain's own statistics and weights

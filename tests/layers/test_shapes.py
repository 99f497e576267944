import torch
from torch import nn

from isthmus.layers.domain_indicator import DomainIndicator
from isthmus.layers.embedding import new_table
from isthmus.layers.shapes import only_shapes


def test_modules_have_their_shapes_and_no_numbers() -> None:
    def made() -> nn.ModuleList:
        return nn.ModuleList([new_table(5, 3, std=0.1, num_domains=2), DomainIndicator(2, 3), nn.Linear(4, 2)])

    with only_shapes():
        empty = made()
    real = made()
    assert {name: p.shape for name, p in empty.named_parameters()} == {n: p.shape for n, p in real.named_parameters()}
    assert {p.device.type for p in empty.parameters()} == {"meta"}
    assert {p.device.type for p in real.parameters()} == {"cpu"}
    assert not torch.equal(new_table(5, 3, std=0.1).weight, torch.zeros(5, 3))

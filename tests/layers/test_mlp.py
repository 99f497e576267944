import torch
from torch import Tensor, nn

from isthmus.domains import DomainSlices
from isthmus.layers.domain_norm import DomainBatchNorm, NoNorm, SharedBatchNorm
from isthmus.layers.mlp import MLP, DenseLayer, DomainMLP, StarMLP

SLICES = DomainSlices((0, 2, 5))


def test_a_layer_is_linear_then_norm_then_relu() -> None:
    layer = DenseLayer(1, 1, SharedBatchNorm, 0.0)
    with torch.no_grad():
        layer.linear.weight.fill_(2.0)
        layer.linear.bias.fill_(-7.0)
    # 2 x - 7 is -7 and -3: mean -5, deviation 2, so -1 and 1; the ReLU comes last.
    y: Tensor = layer(torch.tensor([[0.0], [2.0]]), DomainSlices((0, 2)))
    torch.testing.assert_close(y, torch.tensor([[0.0], [1.0]]), atol=1e-5, rtol=0)


def test_an_mlp_without_layers_gives_its_input_back() -> None:
    x = torch.randn(5, 3)
    for network in (MLP(3, [], NoNorm, 0.5), DomainMLP(2, 3, [], NoNorm, 0.5), StarMLP(2, 3, [], NoNorm, 0.5)):
        assert network.out_dim == 3
        assert torch.equal(network(x, SLICES), x)


def test_the_width_is_that_of_the_last_layer() -> None:
    x = torch.randn(5, 3)
    for network in (
        MLP(3, [4, 6], NoNorm, 0.0),
        DomainMLP(2, 3, [4, 6], NoNorm, 0.0),
        StarMLP(2, 3, [4, 6], NoNorm, 0.0),
    ):
        y: Tensor = network(x, SLICES)
        assert network.out_dim == 6
        assert y.shape == (5, 6)
        assert y.min() == 0  # the last layer is activated too


def test_dropout_acts_in_training_only() -> None:
    network, x = MLP(3, [50], NoNorm, 0.5), torch.randn(5, 3)
    assert not torch.equal(network(x, SLICES), network(x, SLICES))
    network.eval()
    assert torch.equal(network(x, SLICES), network(x, SLICES))


def test_the_norm_is_told_where_the_domains_lie() -> None:
    network = MLP(3, [4], lambda dim: DomainBatchNorm(2, dim), 0.0)
    network(torch.randn(5, 3), DomainSlices((0, 5, 5)))
    counts = [int(m.num_batches_tracked or 0) for m in network.modules() if isinstance(m, nn.BatchNorm1d)]
    assert counts == [1, 0]


def test_a_domains_network_and_its_norm_see_its_own_rows_only() -> None:
    torch.manual_seed(0)
    networks, x = DomainMLP(2, 3, [4], SharedBatchNorm, 0.0), torch.randn(5, 3)
    y: Tensor = networks(x, SLICES)
    first: Tensor = networks.own_networks[0](x[:2], DomainSlices((0, 2)))
    second: Tensor = networks.own_networks[1](x[2:], DomainSlices((0, 3)))
    torch.testing.assert_close(y, torch.cat((first, second)))

import torch

from isthmus.backbones.ple import PLEBackbone, PLELevel
from isthmus.domains import DomainSlices
from isthmus.layers.domain_norm import NoNorm, SharedBatchNorm
from isthmus.layers.experts import Gate


def level() -> PLELevel:
    torch.manual_seed(2)
    return PLELevel(
        2, 3, [4], num_specific=2, num_shared=1, norm=SharedBatchNorm, own_norm=SharedBatchNorm, dropout=0.0
    )


def test_gates_sum_to_one_over_own_and_shared_experts() -> None:
    weights = level().gate_weights(torch.randn(5, 3), DomainSlices((0, 2, 5)))
    assert weights.shape == (5, 3)
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(5))


def test_specific_experts_read_the_own_stream_and_shared_ones_the_shared_stream() -> None:
    ple, gate, slices = level().eval(), Gate(3, 3), DomainSlices((0, 2, 5))
    own, shared = torch.randn(5, 3), torch.randn(5, 3)
    mixed, mixed_shared = ple(own, shared, slices, gate)
    experts = torch.stack([expert(own, slices) for expert in ple.specific] + [ple.shared[0](shared, slices)], dim=1)
    torch.testing.assert_close(mixed, torch.einsum("bed,be->bd", experts, ple.gate_weights(own, slices)))
    torch.testing.assert_close(mixed_shared, torch.einsum("bed,be->bd", experts, gate(shared)))
    alone, nothing = ple(own, shared, slices)
    assert torch.equal(alone, mixed)
    assert nothing.shape == (5, 0)


def test_each_level_but_the_last_has_a_shared_gate() -> None:
    for num_levels in (1, 2, 3):
        backbone = PLEBackbone(
            2,
            3,
            [4],
            1,
            num_specific=1,
            num_shared=1,
            num_levels=num_levels,
            forward_dims=(),
            norm=NoNorm,
            own_norm=NoNorm,
            dropout=0.0,
        )
        assert len(backbone.levels) == num_levels
        assert len(backbone.shared_gates) == num_levels - 1

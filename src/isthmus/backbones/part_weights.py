"""How much each part of a backbone counts for a row: what the gates of MMoE, PLE and ADI say."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from isthmus.backbones.adi import ADIBackbone, MixtureBottom
from isthmus.backbones.mmoe import MMoEBackbone
from isthmus.backbones.ple import PLEBackbone, PLELevel
from isthmus.backbones.settings import BackboneModule
from isthmus.domains import DomainSlices
from isthmus.layers.routing import by_domain


@dataclass(frozen=True)
class PartWeights:
    """Of each row, the weight of each named part."""

    names: tuple[str, ...]
    weight: Float[Tensor, "batch part"]


def part_weights(
    backbone: BackboneModule, x: Float[Tensor, "batch in_dim"], domain_slices: DomainSlices
) -> PartWeights | None:
    """What the gates give each part for the rows of a backbone's input; None where it has no gates.

    MMoE: the experts' weights. PLE: those of the last level's experts. ADI: the mean over units of what the fusion lets
    through of the specific and of the shared features (eq. 11, 12 or 14), and, with several shared networks, the weight
    of each (eq. 8).
    """
    match backbone:
        case MMoEBackbone():
            names = tuple(f"expert {k + 1}" for k in range(backbone.num_experts))
            return PartWeights(names, backbone.gate_weights(x, domain_slices))
        case PLEBackbone():
            own, shared = x, x
            for level, shared_gate in zip(backbone.levels[:-1], backbone.shared_gates, strict=True):
                own, shared = level(own, shared, domain_slices, shared_gate)
            last = backbone.levels[-1]
            assert isinstance(last, PLELevel)
            names = tuple(f"own expert {k + 1}" for k in range(len(last.specific)))
            names += tuple(f"shared expert {k + 1}" for k in range(len(last.shared)))
            return PartWeights(names, last.gate_weights(own, domain_slices))
        case ADIBackbone(bottom=MixtureBottom() as bottom):
            return _of_mixture(bottom, x, domain_slices)
        case _:
            return None


def _of_mixture(bottom: MixtureBottom, x: Tensor, domain_slices: DomainSlices) -> PartWeights:
    gate = bottom.shared.gate
    names: tuple[str, ...] = ("specific", "shared")
    names += () if gate is None else tuple(f"shared network {k + 1}" for k in range(bottom.shared.num_shared))

    def run(domain: int, rows: Tensor) -> Tensor:
        specific, shared = bottom.fusion.gates(domain, bottom.indicator)
        parts = [specific.mean().view(1), shared.mean().view(1)]
        if gate is not None:
            parts.append(gate(bottom.indicator(domain)).view(-1))
        return torch.cat(parts).expand(rows.shape[0], -1)

    return PartWeights(names, by_domain(run, domain_slices, x, width=(len(names),)))

"""Settings of the backbones, and the one place that turns them into modules."""

from collections.abc import Callable
from typing import Annotated, Literal, assert_never

from pydantic import BaseModel, Field, PositiveInt, model_validator
from torch import nn

from isthmus.backbones.adi import ADIBackbone, FusionKind
from isthmus.backbones.cross_stitch import CrossStitchBackbone
from isthmus.backbones.dcn import DCNBackbone
from isthmus.backbones.dnn import DNNBackbone
from isthmus.backbones.independent import IndependentBackbone
from isthmus.backbones.mmoe import MMoEBackbone
from isthmus.backbones.ple import PLEBackbone
from isthmus.backbones.shared_bottom import SharedBottomBackbone
from isthmus.backbones.star import StarBackbone
from isthmus.layers.domain_norm import DomainBatchNorm, NoNorm, NormFactory, PartitionedNorm, SharedBatchNorm
from isthmus.layers.experts import GateForm
from isthmus.layers.fusion import FusionGate

HiddenDims = Annotated[tuple[PositiveInt, ...], Field(min_length=1)]
ForwardDims = tuple[PositiveInt, ...]
Dropout = Annotated[float, Field(ge=0, lt=1)]
NormKind = Literal["shared", "domain", "partitioned", "none"]
"""Norm of layers that rows of several domains pass. A domain's own layer has its own, unless the kind is "none"."""


class DNNSettings(BaseModel, frozen=True, extra="forbid"):
    kind: Literal["dnn"] = "dnn"
    hidden_dims: HiddenDims
    dropout: Dropout = 0.0
    norm: NormKind = "shared"


class DCNSettings(BaseModel, frozen=True, extra="forbid"):
    """`rank`: the cross layers' matrices are products of that inner width; None: full."""

    kind: Literal["dcn"] = "dcn"
    hidden_dims: HiddenDims
    num_cross_layers: PositiveInt = 3
    rank: PositiveInt | None = None
    dropout: Dropout = 0.0
    norm: NormKind = "shared"


class IndependentSettings(BaseModel, frozen=True, extra="forbid"):
    """Every layer is one domain's own: `norm` says only whether there is one."""

    kind: Literal["independent"] = "independent"
    hidden_dims: HiddenDims
    dropout: Dropout = 0.0
    norm: Literal["domain", "none"] = "domain"


class SharedBottomSettings(BaseModel, frozen=True, extra="forbid"):
    kind: Literal["shared_bottom"] = "shared_bottom"
    hidden_dims: HiddenDims
    forward_dims: ForwardDims = ()
    dropout: Dropout = 0.0
    norm: NormKind = "shared"


class CrossStitchSettings(BaseModel, frozen=True, extra="forbid"):
    kind: Literal["cross_stitch"] = "cross_stitch"
    hidden_dims: HiddenDims
    dropout: Dropout = 0.0
    norm: NormKind = "shared"


class MMoESettings(BaseModel, frozen=True, extra="forbid"):
    kind: Literal["mmoe"] = "mmoe"
    hidden_dims: HiddenDims
    num_experts: PositiveInt
    forward_dims: ForwardDims = ()
    dropout: Dropout = 0.0
    norm: NormKind = "shared"


class PLESettings(BaseModel, frozen=True, extra="forbid"):
    kind: Literal["ple"] = "ple"
    hidden_dims: HiddenDims
    num_specific: PositiveInt = 1
    num_shared: PositiveInt = 1
    num_levels: PositiveInt = 1
    forward_dims: ForwardDims = ()
    dropout: Dropout = 0.0
    norm: NormKind = "shared"


class StarSettings(BaseModel, frozen=True, extra="forbid"):
    kind: Literal["star"] = "star"
    hidden_dims: HiddenDims
    dropout: Dropout = 0.0
    norm: NormKind = "partitioned"


class ADISettings(BaseModel, frozen=True, extra="forbid"):
    kind: Literal["adi"] = "adi"
    hidden_dims: HiddenDims
    num_shared: PositiveInt = 1
    gate: GateForm = "softmax"
    fusion: FusionKind = "concat"
    fusion_gate: FusionGate = "unit"
    indicator_dim: PositiveInt = 16
    forward_dims: ForwardDims = ()
    dropout: Dropout = 0.0
    norm: NormKind = "domain"

    @model_validator(mode="after")
    def _network_mul_has_one_shared_network(self) -> "ADISettings":
        if self.fusion == "network_mul" and self.num_shared != 1:
            raise ValueError(f"fusion network_mul has one shared network, got num_shared={self.num_shared}")
        return self


AnyBackboneSettings = (
    DNNSettings
    | IndependentSettings
    | SharedBottomSettings
    | CrossStitchSettings
    | MMoESettings
    | PLESettings
    | StarSettings
    | ADISettings
    | DCNSettings
)
BackboneSettings = Annotated[AnyBackboneSettings, Field(discriminator="kind")]
"""Settings of one backbone, told apart by `kind`; for fields of other settings."""

BackboneModule = (
    DNNBackbone
    | IndependentBackbone
    | SharedBottomBackbone
    | CrossStitchBackbone
    | MMoEBackbone
    | PLEBackbone
    | StarBackbone
    | ADIBackbone
    | DCNBackbone
)
"""A module that is a `Backbone`."""


def norm_factory(kind: NormKind, num_domains: int) -> NormFactory:
    """Makes norms for layers that rows of all domains pass."""
    match kind:
        case "shared":
            return SharedBatchNorm
        case "domain":
            return lambda dim: DomainBatchNorm(num_domains, dim)
        case "partitioned":
            return lambda dim: PartitionedNorm(num_domains, dim)
        case "none":
            return NoNorm
        case other:
            assert_never(other)


def build_backbone(
    settings: AnyBackboneSettings,
    *,
    num_domains: int,
    in_dim: int,
    out_dim: int,
    zero_start: bool = False,
    network_adaptation: Callable[[], nn.Module] | None = None,
) -> BackboneModule:
    """The backbone that `settings` describe.

    Args:
        zero_start: the output starts at 0, for a backbone that corrects something else.
        network_adaptation: makes what stands before each of ADI's networks ((D+K)-SE).

    Raises:
        ValueError: a `network_adaptation` for a backbone that has no place for one.
    """
    if network_adaptation is not None and settings.kind != "adi":
        raise ValueError(f"only adi takes a network adaptation, not {settings.kind}")
    norm = norm_factory(settings.norm, num_domains)
    own_norm: NormFactory = NoNorm if settings.norm == "none" else SharedBatchNorm
    dims = settings.hidden_dims
    dropout = settings.dropout
    match settings:
        case DNNSettings():
            return DNNBackbone(in_dim, dims, out_dim, norm=norm, dropout=dropout, zero_start=zero_start)
        case DCNSettings():
            return DCNBackbone(
                in_dim,
                dims,
                out_dim,
                num_cross_layers=settings.num_cross_layers,
                rank=settings.rank,
                norm=norm,
                dropout=dropout,
                zero_start=zero_start,
            )
        case IndependentSettings():
            return IndependentBackbone(
                num_domains, in_dim, dims, out_dim, own_norm=own_norm, dropout=dropout, zero_start=zero_start
            )
        case SharedBottomSettings():
            return SharedBottomBackbone(
                num_domains,
                in_dim,
                dims,
                out_dim,
                forward_dims=settings.forward_dims,
                norm=norm,
                own_norm=own_norm,
                dropout=dropout,
                zero_start=zero_start,
            )
        case CrossStitchSettings():
            return CrossStitchBackbone(
                num_domains, in_dim, dims, out_dim, norm=norm, dropout=dropout, zero_start=zero_start
            )
        case MMoESettings():
            return MMoEBackbone(
                num_domains,
                in_dim,
                dims,
                out_dim,
                num_experts=settings.num_experts,
                forward_dims=settings.forward_dims,
                norm=norm,
                own_norm=own_norm,
                dropout=dropout,
                zero_start=zero_start,
            )
        case PLESettings():
            return PLEBackbone(
                num_domains,
                in_dim,
                dims,
                out_dim,
                num_specific=settings.num_specific,
                num_shared=settings.num_shared,
                num_levels=settings.num_levels,
                forward_dims=settings.forward_dims,
                norm=norm,
                own_norm=own_norm,
                dropout=dropout,
                zero_start=zero_start,
            )
        case StarSettings():
            return StarBackbone(num_domains, in_dim, dims, out_dim, norm=norm, dropout=dropout, zero_start=zero_start)
        case ADISettings():
            return ADIBackbone(
                num_domains,
                in_dim,
                dims,
                out_dim,
                num_shared=settings.num_shared,
                gate=settings.gate,
                fusion=settings.fusion,
                fusion_gate=settings.fusion_gate,
                indicator_dim=settings.indicator_dim,
                forward_dims=settings.forward_dims,
                norm=norm,
                own_norm=own_norm,
                dropout=dropout,
                zero_start=zero_start,
                network_adaptation=network_adaptation,
            )
        case other:
            assert_never(other)

"""CPU time of a row as domains are added: the backbones, and a step of self-training."""

from collections.abc import Callable
from functools import partial
from statistics import median

import torch
from benchmarks.market_log import Market, market_log
from benchmarks.sizes import Sizes
from benchmarks.step import Trainer, tower
from benchmarks.table import Line, cpu_seconds, median_ratio

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
    build_backbone,
)
from isthmus.domains import DomainSlices
from isthmus.training.self_training import SelfTrainingSettings

CROSS_STITCH = "Cross-Stitch"
FLAT_TARGET = 1.5
MOST_DOMAINS = 50  # that the target is for: beyond, a domain has too few rows in a step for its own matrices


def measure_domains(sizes: Sizes) -> list[Line]:
    """Forward and backward of each backbone, then self-training."""
    lines = [
        line
        for kind, settings in backbone_kinds(sizes.backbone_dims[1:-1]).items()
        for line in backbone_lines(kind, settings, sizes)
    ]
    return [*lines, *(self_training_line(num_domains, sizes) for num_domains in sizes.pseudo_domains)]


def backbone_kinds(hidden_dims: tuple[int, ...]) -> dict[str, AnyBackboneSettings]:
    return {
        "DNN": DNNSettings(hidden_dims=hidden_dims),
        "DNN-Single": IndependentSettings(hidden_dims=hidden_dims),
        "Shared-Bottom": SharedBottomSettings(hidden_dims=hidden_dims),
        "MMoE, 4 experts": MMoESettings(hidden_dims=hidden_dims, num_experts=4),
        "PLE, 1 level": PLESettings(hidden_dims=hidden_dims),
        "PLE, 2 levels": PLESettings(hidden_dims=hidden_dims, num_levels=2),
        "STAR": StarSettings(hidden_dims=hidden_dims),
        "ADI, no norm": ADISettings(hidden_dims=hidden_dims, norm="none"),
        "ADI, DSBN": ADISettings(hidden_dims=hidden_dims, norm="domain"),
        CROSS_STITCH: CrossStitchSettings(hidden_dims=hidden_dims),
    }


def backbone_lines(kind: str, settings: AnyBackboneSettings, sizes: Sizes) -> list[Line]:
    domains = sizes.stitch_domains if kind == CROSS_STITCH else sizes.backbone_domains
    seconds = cpu_seconds({str(d): backbone_pass(settings, d, sizes) for d in domains}, sizes.repeats)
    return [
        Line(
            "domains",
            f"{kind}, D = {d}",
            1e6 * median(seconds[str(d)]) / sizes.backbone_rows,
            "us/row",
            median_ratio(seconds[str(d)], seconds[str(domains[0])]),
            f"D = {domains[0]}",
            None if kind == CROSS_STITCH or d > MOST_DOMAINS else FLAT_TARGET,
        )
        for d in domains
    ]


def backbone_pass(settings: AnyBackboneSettings, num_domains: int, sizes: Sizes) -> Callable[[], None]:
    """Forward and backward on the same number of rows, equally many of each domain."""
    in_dim, _, out_dim = sizes.backbone_dims
    backbone = build_backbone(settings, num_domains=num_domains, in_dim=in_dim, out_dim=out_dim)
    slices = DomainSlices(tuple(domain * sizes.backbone_rows // num_domains for domain in range(num_domains + 1)))
    x = torch.rand(sizes.backbone_rows, in_dim, requires_grad=True)
    gradient = torch.rand(sizes.backbone_rows, out_dim)

    def run() -> None:
        backbone.zero_grad(set_to_none=True)
        x.grad = None
        backbone(x, slices).backward(gradient)

    return run


def self_training_line(num_domains: int, sizes: Sizes) -> Line:
    """A step with self-training against one without, where every domain may show every item: the most it can cost."""
    num_users = sum(market.users for market in sizes.markets)
    num_items = sum(market.items for market in sizes.markets)
    num_positives = sum(market.positives for market in sizes.markets)
    market = Market(num_users // num_domains, num_items // 6, num_positives // num_domains)
    dataset = market_log([market] * num_domains, shared=1.0)
    plain = Trainer(dataset, tower(sizes.dim))
    pseudo = Trainer(dataset, tower(sizes.dim), SelfTrainingSettings())
    steps = max(1, sizes.steps // 4)
    seconds = cpu_seconds({"plain": partial(plain.train, steps), "pseudo": partial(pseudo.train, steps)}, sizes.repeats)
    num_rows = sum(batch.item_row.numel() for batch in plain.batches(steps))
    return Line(
        "domains",
        f"self-training, D = {num_domains}",
        1e6 * median(seconds["pseudo"]) / num_rows,
        "us/row",
        median_ratio(seconds["pseudo"], seconds["plain"]),
        "a step without it, same D",
    )

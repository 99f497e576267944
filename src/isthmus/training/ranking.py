"""Training of click models: one loop, run once for each stage, whose best epoch by validation AUC is what is kept."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, assert_never

import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from tqdm import tqdm

from isthmus.batch import RankingBatch
from isthmus.data.dataset import Dataset
from isthmus.data.loader import RankingLoader
from isthmus.domains import DomainSlices
from isthmus.errors import InputError
from isthmus.evaluation.ranking import corrected_for_sampling, score_impressions
from isthmus.losses import augmentation_loss, click_loss, translation_loss
from isthmus.metrics import auc_by_group, domain_means, macro_means
from isthmus.models.cdanet import AugmentationNetwork, TranslationNetwork
from isthmus.models.ctr import FirstOrder
from isthmus.training.checkpoint import Progress, read_best, read_checkpoint, write_checkpoint
from isthmus.training.epochs import EpochReport, OpenEpoch, Schedule, is_finished, named_divergence, set_rates
from isthmus.training.optim import AdamW, RowAdamW, descend, split_parameters

Precision = Literal["float32", "bfloat16"]
KeptShare = Annotated[float, Field(gt=0, le=1)]


class RankingTrainingSettings(BaseModel):
    """How a click model is trained.

    epochs, patience: of each stage; training stops after `patience` epochs without a better validation AUC.
    learning_rate, weight_decay: of the embedding tables; `network_*`: of everything else.
    first_order_learning_rate: of first-order weights, which factorisation machines have and others with `linear`; None:
        that of the tables, or of the networks where they are of numbers and texts. Adam moves a number by about its
        rate a step, and such a weight adds to the logit as it is: at a table's rate it says next to nothing.
    later_rate_factor: multiplies the learning rates of what a stage after the first carries over from it (CDAnet's
        embedding, extractors, translators and first-order weights); what is new there, such as its tower, learns at the
        full rates. 0 leaves what is carried over as it is.
    balance: `rows`: the loss is the mean over rows; `domains`: the mean over domains of each one's mean (CDAnet eq. 6).
    domains: only these domains' rows are trained on and validated, as a model of one domain alone is; None: all.
    train_share: of each domain's training rows, the share that is kept, drawn by the seed.
    negative_share: of each domain's training rows that are negatives, the share that is kept, drawn by the seed; one
        number, or one by domain name (domains that are not named keep all). Logits are corrected for it wherever they
        are judged or given out, so that probabilities are those of rows of which none is left out.
    unseen_items: in each epoch, the share of rows whose item is read as one that training does not know. Without it no
        training row has such an item, and what a model says of new items is what it never learned.
    precision: of the networks' matrix products in training; `bfloat16` also of what they give, while weights, tables,
        gradients of weights and losses stay float32 (mixed precision). Scores are always float32.
    in_turn: each step holds the rows of one domain alone (DDTCDR), not its share of every domain.
    checkpoint_steps: also save what to go on from every that many steps of an epoch, not at its end alone.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = Field(ge=0)
    epochs: int = Field(ge=1)
    batch_size: int = Field(default=1024, ge=2)
    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    network_learning_rate: float = Field(default=1e-3, gt=0)
    network_weight_decay: float = Field(default=0.0, ge=0)
    first_order_learning_rate: float | None = Field(default=None, gt=0)
    later_rate_factor: float = Field(default=1.0, ge=0)
    schedule: Schedule = "constant"
    balance: Literal["rows", "domains"] = "rows"
    domains: tuple[str, ...] | None = Field(default=None, min_length=1)
    train_share: float = Field(default=1.0, gt=0, le=1)
    negative_share: KeptShare | dict[str, KeptShare] = 1.0
    unseen_items: float = Field(default=0.0, ge=0, lt=1)
    in_turn: bool = False
    precision: Precision = "float32"
    patience: int = Field(default=3, ge=1)
    checkpoint_steps: int | None = Field(default=None, ge=1)


@dataclass(frozen=True)
class Stage:
    """One stage of a model's training.

    Attributes:
        name: also of its folder.
        number: 0 for the first.
        domains: numbers of the domains whose rows it trains on and is validated on.
        fields: those that the model reads; None: all.
        alpha, beta: weights of cross-supervision and orthogonality (CDAnet eq. 7); other models do not read them.
    kept_shares: of each domain's negatives, the share that is trained on; None: all.
    """

    name: str
    number: int
    domains: tuple[int, ...]
    fields: tuple[str, ...] | None
    alpha: float = 0.0
    beta: float = 0.0
    kept_shares: tuple[float, ...] | None = None


def train_stage(
    dataset: Dataset,
    model: nn.Module,
    stage: Stage,
    settings: RankingTrainingSettings,
    *,
    folder: Path,
    device: torch.device,
    on_epoch: Callable[[EpochReport], None] | None = None,
    show_progress: bool = False,
) -> list[EpochReport]:
    """Train until validation stops improving; the model ends with the weights of its best epoch.

    Each epoch ends with a checkpoint in `folder`, as do every `checkpoint_steps` steps; started again there, training
    goes on from it and gives exactly what an uninterrupted run gives. Random numbers of dropout come from torch's
    global generator, which is seeded here, saved with the checkpoint, and put back as it was at the end.
    """
    with torch.random.fork_rng():
        return _train(dataset, model, stage, settings, folder, device, on_epoch, show_progress)


def _train(
    dataset: Dataset,
    model: nn.Module,
    stage: Stage,
    settings: RankingTrainingSettings,
    folder: Path,
    device: torch.device,
    on_epoch: Callable[[EpochReport], None] | None,
    show_progress: bool,
) -> list[EpochReport]:
    loader = RankingLoader(
        dataset,
        batch_size=settings.batch_size,
        seed=settings.seed,
        fields=stage.fields,
        domains=stage.domains,
        share=settings.train_share,
        negative_shares=stage.kept_shares,
        unseen_items=settings.unseen_items,
        in_turn=settings.in_turn,
    )
    optimizers = new_optimizers(model, settings)
    torch.manual_seed(settings.seed + stage.number)
    generator = torch.Generator().manual_seed(settings.seed)
    progress = read_checkpoint(folder, model, optimizers, generator)
    reports = [EpochReport(**line) for line in progress.reports]
    opened = None if progress.open_epoch is None else OpenEpoch(**progress.open_epoch)

    def save(opened: OpenEpoch | None, *, is_best: bool = False) -> None:
        finished = [vars(report) for report in reports]
        progress = Progress(finished, None if opened is None else vars(opened))
        write_checkpoint(folder, model, optimizers, generator, progress, is_best=is_best)

    while (epoch := len(reports)) < settings.epochs and not is_finished(reports, settings.patience):
        opened = opened or OpenEpoch.first(dataset.num_domains)
        num_steps = len(loader.steps(epoch))
        bar = tqdm(
            total=loader.num_rows,
            initial=opened.num_rows,
            desc=f"{stage.name}, epoch {epoch + 1}",
            unit="row",
            unit_scale=True,
            disable=not show_progress,
        )
        start, rows_before = time.perf_counter(), opened.num_rows
        model.train()
        with bar:
            for batch in loader.epoch(epoch, first_step=opened.next_step):
                set_rates(optimizers, settings.schedule, epoch + opened.next_step / num_steps, settings.epochs)
                loss = train_step(model, optimizers, batch.to(device), stage, settings)
                opened.add(loss, batch.domain_slices)
                bar.set_postfix_str(f"loss {float(loss.mean()):.3f}", refresh=False)
                bar.update(loss.numel())
                if settings.checkpoint_steps is not None and opened.next_step % settings.checkpoint_steps == 0:
                    save(opened)
        rows_per_second = (opened.num_rows - rows_before) / (time.perf_counter() - start)
        with named_divergence():
            reports.append(new_report(epoch, opened, rows_per_second, dataset, model, stage, reports))
        opened = None
        save(None, is_best=reports[-1].is_best)
        if on_epoch is not None:
            on_epoch(reports[-1])
    read_best(folder, model)
    return reports


def new_optimizers(model: nn.Module, settings: RankingTrainingSettings) -> list[torch.optim.Optimizer]:
    """An optimizer for each learning rate of the embedding tables, and of the networks; frozen parts have none."""
    of_first_order = settings.first_order_learning_rate
    apart = set() if of_first_order is None else first_order_weights(model)
    carried = {id(p) for p in model.carried()} if isinstance(model, AugmentationNetwork) else set()

    def by_rate(part: list[nn.Parameter], rate: float) -> dict[float, list[nn.Parameter]]:
        found: dict[float, list[nn.Parameter]] = {}
        for p in part:
            own = of_first_order if id(p) in apart and of_first_order is not None else rate
            own *= settings.later_rate_factor if id(p) in carried else 1.0
            if p.requires_grad:
                found.setdefault(own, []).append(p)
        return found

    tables, networks = split_parameters(model)
    optimizers: list[torch.optim.Optimizer] = []
    for rate, ours in by_rate(tables, settings.learning_rate).items():
        optimizers.append(RowAdamW(ours, lr=rate, weight_decay=settings.weight_decay))
    for rate, ours in by_rate(networks, settings.network_learning_rate).items():
        optimizers.append(AdamW(ours, lr=rate, weight_decay=settings.network_weight_decay, fused=True))
    return optimizers


def first_order_weights(model: nn.Module) -> set[int]:
    """The identities of the parameters of a model's first-order terms."""
    return {id(p) for module in model.modules() if isinstance(module, FirstOrder) for p in module.parameters()}


def train_step(
    model: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    batch: RankingBatch,
    stage: Stage,
    settings: RankingTrainingSettings,
) -> Float[Tensor, " batch"]:
    """Move the model by one batch; gives the rows' losses."""
    with torch.autocast(batch.label.device.type, torch.bfloat16, enabled=settings.precision == "bfloat16"):
        loss = ranking_loss(model, batch, stage)
    descend((loss * row_weights(batch.domain_slices, settings.balance, loss)).sum(), optimizers)
    return loss.detach().cpu().double()


def ranking_loss(model: nn.Module, batch: RankingBatch, stage: Stage) -> Float[Tensor, " batch"]:
    """Each row's loss by the objective of the model's stage (CDAnet eq. 7 and 9), else cross-entropy alone."""
    match model:
        case TranslationNetwork():
            made = model.translate(batch.features, batch.domain_slices)
            return translation_loss(
                made.logit, made.cross_logit, made.cycle_error, batch.label, alpha=stage.alpha, beta=stage.beta
            )
        case AugmentationNetwork():
            augmented = model.augment(batch.features, batch.domain_slices)
            return augmentation_loss(augmented.logit, augmented.cycle_error, batch.label, beta=stage.beta)
        case _:
            return click_loss(model(batch.features, batch.domain_slices), batch.label)


def row_weights(
    domain_slices: DomainSlices, balance: Literal["rows", "domains"], like: Tensor
) -> Float[Tensor, " batch"]:
    """What each row counts in the objective, in the form of `like`; the weights of a batch sum to 1."""
    match balance:
        case "rows":
            return like.new_full((domain_slices.num_rows,), 1 / max(1, domain_slices.num_rows))
        case "domains":
            present = [rows.stop - rows.start for _, rows in domain_slices]
            counts = torch.tensor(present, device=like.device)
            weight = 1 / (counts.to(like.dtype) * len(present))
            return torch.repeat_interleave(weight, counts, output_size=domain_slices.num_rows)
        case other:
            assert_never(other)


def new_report(
    epoch: int,
    opened: OpenEpoch,
    rows_per_second: float,
    dataset: Dataset,
    model: nn.Module,
    stage: Stage,
    earlier: Sequence[EpochReport],
) -> EpochReport:
    """Validate the model as it is now, and say what the epoch did."""
    names = dataset.schema.domain_names
    by_domain = validate(dataset, model, stage)
    valid = over_domains(dataset, by_domain, stage)
    return EpochReport(
        epoch=epoch,
        loss={
            name: opened.loss[d] / opened.rows[d] if opened.rows[d] else float("nan") for d, name in enumerate(names)
        },
        valid=valid,
        valid_by_domain={name: values.tolist() for name, values in by_domain.items()},
        rows_per_second=rows_per_second,
        pseudo_labels={},
        is_best=all(valid["auc"] > report.valid["auc"] for report in earlier),
        stage=stage.name,
    )


def validate(dataset: Dataset, model: nn.Module, stage: Stage) -> dict[str, Float[Tensor, " domain"]]:
    """AUC and log loss of each domain of the stage on the validation rows; NaN for other domains."""
    assert dataset.impressions is not None
    events = dataset.impressions["valid"]
    logit = score_impressions(model, dataset, "valid", stage.fields, domains=stage.domains)
    kept_shares = stage.kept_shares or (1.0,) * dataset.num_domains
    bounds = events.domain_bounds(dataset.num_domains)
    rows = torch.cat([torch.arange(bounds[d], bounds[d + 1]) for d in sorted(stage.domains)])
    assert events.label is not None
    label = torch.from_numpy(events.label[rows.numpy()] > 0)
    domain = torch.from_numpy(events.domain[rows.numpy()].astype("int64"))
    logit = corrected_for_sampling(logit, domain, kept_shares)
    return {
        "auc": auc_by_group(logit, label, domain, dataset.num_domains),
        "log_loss": domain_means(click_loss(logit, label.double()), domain, dataset.num_domains),
    }


def over_domains(dataset: Dataset, by_domain: dict[str, Float[Tensor, " domain"]], stage: Stage) -> dict[str, float]:
    """The mean of each metric over the stage's domains that have validation rows.

    Raises:
        InputError: in none of them have these rows labels of both kinds, so there is nothing to choose by.
    """
    assert dataset.impressions is not None
    bounds = dataset.impressions["valid"].domain_bounds(dataset.num_domains)
    names = dataset.schema.domain_names
    chosen = [d for d in stage.domains if bounds[d] < bounds[d + 1]]
    if not chosen or bool(by_domain["auc"][chosen].isnan().all()):
        ours = ", ".join(names[d] for d in stage.domains)
        raise InputError(
            f"{dataset.path}: validation rows of {ours} do not have both labels, so no epoch can be chosen; give the "
            "split more rows"
        )
    of_chosen = {name: values[chosen] for name, values in by_domain.items()}
    return macro_means(of_chosen, [names[d] for d in chosen], rows="validation")

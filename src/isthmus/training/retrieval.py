"""Training of the two-tower model: one loop, whose best epoch by validation is what is kept."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from tqdm import tqdm

from isthmus.batch import Bag, RetrievalBatch
from isthmus.data.dataset import Dataset
from isthmus.data.loader import RetrievalLoader
from isthmus.data.sampling import CandidateSampler, Negatives, PositiveWeight
from isthmus.evaluation.retrieval import TwoTowerScorer, evaluate_retrieval
from isthmus.losses import sampled_softmax_loss
from isthmus.metrics import domain_means, macro_means
from isthmus.models.two_tower import TwoTower, TwoTowerSettings
from isthmus.training.checkpoint import Progress, read_best, read_checkpoint, write_checkpoint
from isthmus.training.epochs import EpochReport, OpenEpoch, Schedule, is_finished, named_divergence, set_rates
from isthmus.training.optim import AdamW, RowAdamW, descend, split_parameters
from isthmus.training.self_training import SelfTrainingSettings, named_pairs, pseudo_batch


class TrainingSettings(BaseModel):
    """How a two-tower model is trained.

    negatives: where a row's negatives come from, always within its own domain: the whole corpus (`full`), drawn
        uniformly or by `popularity`, the batch's other positives (`in_batch`), or these and uniform ones (`mixed`).
    num_negatives: how many are drawn a domain and step; by `uniform` a corpus that is no larger is taken whole
        instead, by `popularity` and `mixed` as many are drawn from it, with repeats.
    positive_weight: how the positive stands in the softmax's denominator: by the `letter` of ADI eq. 5, or as often
        as the draws hold it in expectation.
    temperature: divides the score.
    learning_rate, weight_decay: of the embedding tables; `network_*`: of everything else.
    schedule: `linear` lets the learning rates fall to zero, step by step, over all `epochs`.
    patience: epochs without a better validation value before training stops.
    checkpoint_steps: also save what to go on from every that many steps of an epoch, not at its end alone.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = Field(ge=0)
    epochs: int = Field(ge=1)
    batch_size: int = Field(default=2048, ge=2)
    negatives: Negatives = "uniform"
    num_negatives: int = Field(default=2048, ge=1)
    positive_weight: PositiveWeight = "letter"
    temperature: float = Field(default=1.0, gt=0)
    learning_rate: float = Field(default=4e-3, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    network_learning_rate: float = Field(default=1e-3, gt=0)
    network_weight_decay: float = Field(default=0.0, ge=0)
    schedule: Schedule = "constant"
    patience: int = Field(default=3, ge=1)
    checkpoint_steps: int | None = Field(default=None, ge=1)
    self_training: SelfTrainingSettings | None = None


def train_retrieval(
    dataset: Dataset,
    model: TwoTower,
    model_settings: TwoTowerSettings,
    settings: TrainingSettings,
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
        return _train(dataset, model, model_settings, settings, folder, device, on_epoch, show_progress)


def _train(
    dataset: Dataset,
    model: TwoTower,
    model_settings: TwoTowerSettings,
    settings: TrainingSettings,
    folder: Path,
    device: torch.device,
    on_epoch: Callable[[EpochReport], None] | None,
    show_progress: bool,
) -> list[EpochReport]:
    loader = RetrievalLoader(dataset, batch_size=settings.batch_size, seed=settings.seed, fields=model_settings.fields)
    sampler = CandidateSampler(
        dataset, settings.negatives, settings.num_negatives, model_settings.fields, settings.positive_weight
    )
    optimizers = new_optimizers(model, settings)
    torch.manual_seed(settings.seed)
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
        bar = tqdm(
            total=loader.num_rows,
            initial=opened.num_rows,
            desc=f"epoch {epoch + 1}",
            unit="row",
            unit_scale=True,
            disable=not show_progress,
        )
        start, rows_before = time.perf_counter(), opened.num_rows
        model.train()
        with bar:
            for batch in loader.epoch(epoch, first_step=opened.next_step):
                epochs_done = epoch + opened.next_step / loader.num_steps
                set_rates(optimizers, settings.schedule, epochs_done, settings.epochs)
                loss = train_step(model, optimizers, batch.to(device), sampler, generator, settings, epoch, opened)
                opened.add(loss, batch.domain_slices)
                bar.set_postfix_str(f"loss {float(loss.mean()):.3f}", refresh=False)
                bar.update(loss.numel())
                if settings.checkpoint_steps is not None and opened.next_step % settings.checkpoint_steps == 0:
                    save(opened)
        rows_per_second = (opened.num_rows - rows_before) / (time.perf_counter() - start)
        with named_divergence():
            reports.append(new_report(epoch, opened, rows_per_second, dataset, model, model_settings, reports))
        opened = None
        save(None, is_best=reports[-1].is_best)
        if on_epoch is not None:
            on_epoch(reports[-1])
    read_best(folder, model)
    return reports


def new_optimizers(model: TwoTower, settings: TrainingSettings) -> list[torch.optim.Optimizer]:
    """One optimizer for the embedding tables, and one for the networks where there are any."""
    tables, networks = split_parameters(model)
    optimizers: list[torch.optim.Optimizer] = []
    if tables:
        optimizers.append(RowAdamW(tables, lr=settings.learning_rate, weight_decay=settings.weight_decay))
    if networks:
        rate, decay = settings.network_learning_rate, settings.network_weight_decay
        optimizers.append(AdamW(networks, lr=rate, weight_decay=decay, fused=True))
    return optimizers


def train_step(
    model: TwoTower,
    optimizers: Sequence[torch.optim.Optimizer],
    batch: RetrievalBatch,
    sampler: CandidateSampler,
    generator: torch.Generator,
    settings: TrainingSettings,
    epoch: int,
    opened: OpenEpoch,
) -> Float[Tensor, " batch"]:
    """Move the model by one batch, and by the pseudo-labels it gives rise to; gives the rows' losses."""
    loss = retrieval_loss(model, batch, sampler, generator, settings)
    objective = loss.mean()
    if settings.self_training is not None:
        pseudo = pseudo_batch(model, batch, sampler, settings.self_training.share_at(epoch), opened.pseudo_labels)
        if pseudo is not None:
            pseudo_loss = retrieval_loss(model, pseudo, sampler, generator, settings)
            objective = objective + pseudo_loss.sum() / loss.numel()
    descend(objective, optimizers)
    return loss.detach().cpu().double()


def new_report(
    epoch: int,
    opened: OpenEpoch,
    rows_per_second: float,
    dataset: Dataset,
    model: TwoTower,
    model_settings: TwoTowerSettings,
    earlier: Sequence[EpochReport],
) -> EpochReport:
    """Validate the model as it is now, and say what the epoch did."""
    names = dataset.schema.domain_names
    result = evaluate_retrieval(TwoTowerScorer(model, model_settings, dataset, "valid"), dataset, "valid")
    by_domain = {name: domain_means(values, result.domain, len(names)) for name, values in result.metrics.items()}
    valid = macro_means(by_domain, names, rows="validation")
    return EpochReport(
        epoch=epoch,
        loss={name: opened.loss[d] / max(1, opened.rows[d]) for d, name in enumerate(names)},
        valid=valid,
        valid_by_domain={name: values.tolist() for name, values in by_domain.items()},
        rows_per_second=rows_per_second,
        pseudo_labels=named_pairs(opened.pseudo_labels, names),
        is_best=all(selection_value(valid) > selection_value(report.valid) for report in earlier),
    )


def retrieval_loss(
    model: TwoTower,
    batch: RetrievalBatch,
    sampler: CandidateSampler,
    generator: torch.Generator,
    settings: TrainingSettings,
) -> Float[Tensor, " batch"]:
    """Each row's softmax loss against items of its own domain (ADI eq. 3-5)."""
    block, positives = sampler.block(batch, generator)
    user = model.encode_user(batch.user, batch.domain_slices)
    item = model.encode_item(block.item, block.item_row, block.domain_slices)
    losses = []
    # split, not slices: a slice's gradient is a matrix of zeros as tall as the batch, one a domain
    users = torch.split(user, list(batch.domain_slices.counts))
    items = torch.split(item, list(block.domain_slices.counts))
    for domain, rows in batch.domain_slices:
        columns = block.domain_slices[domain]
        losses.append(
            sampled_softmax_loss(
                model.score(users[domain], items[domain]),
                positives.column[rows],
                block.log_weight[columns],
                positives.log_weight[rows],
                known_mask(batch.known.select(rows), block.item_row[columns]),
                temperature=settings.temperature,
            )
        )
    return torch.cat(losses)


def known_mask(known: Bag, item_row: Int[Tensor, " item"]) -> Bool[Tensor, "batch item"]:
    """Which of the ascending `item_row` each row's user is known to like."""
    mask = torch.zeros(known.offsets.numel() - 1, item_row.numel(), dtype=torch.bool, device=item_row.device)
    place = torch.searchsorted(item_row, known.values).clamp_(max=item_row.numel() - 1)
    is_here = item_row[place] == known.values
    mask[known.row()[is_here], place[is_here]] = True
    return mask


def selection_value(valid: dict[str, float]) -> float:
    """What the best epoch is chosen by: nDCG against the given candidates, else against the whole corpus."""
    return next(value for name in ("ndcg@10", "corpus_ndcg@10") if (value := valid.get(name)) is not None)

"""A run for a reader: report.md."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from isthmus.data.dataset import SPLITS, Dataset
from isthmus.files import markdown_table
from isthmus.models.two_tower import TwoTowerSettings
from isthmus.training.epochs import EpochReport
from isthmus.training.retrieval import TrainingSettings


@dataclass(frozen=True)
class ParameterCount:
    """Trainable numbers: of embedding tables and item biases, and of everything else."""

    tables: int
    networks: int


def report_markdown(
    name: str,
    dataset: Dataset,
    settings: TwoTowerSettings,
    training: TrainingSettings,
    parameters: ParameterCount,
    reports: Sequence[EpochReport],
) -> str:
    """The run in short: what was trained on what, and how it went, epoch by epoch."""
    best = max((report for report in reports if report.is_best), key=lambda report: report.epoch)
    backbone = "none" if settings.backbone is None else settings.backbone.kind
    fields = "all" if settings.fields is None else ", ".join(settings.fields)
    chosen = [
        ("dataset", f"{dataset.schema.name} (schema {dataset.schema_hash})"),
        ("fields", fields),
        ("backbone", backbone if settings.backbone is None else f"{backbone} ({settings.connection})"),
        ("adaptation", settings.adaptation),
        ("embedding_dim", str(settings.embedding_dim)),
        ("negatives", training.negatives),
        ("temperature", f"{training.temperature:g}"),
        ("seed", str(training.seed)),
        ("parameters in tables", f"{parameters.tables:,}"),
        ("parameters in networks", f"{parameters.networks:,}"),
        ("epochs", f"{len(reports)} of {training.epochs}; the best, kept, is {best.epoch + 1}"),
    ]
    sections = [
        f"# Run {name}",
        markdown_table(["setting", "value"], chosen),
        "Every setting is in `settings.yaml`.",
        "## Domains",
        domain_table(dataset),
        "## Training",
        "Loss in nats, mean of the domain's rows; validation means over domains.",
        epoch_table(reports),
        f"## Validation by domain, epoch {best.epoch + 1}",
        valid_table(best),
    ]
    if any(report.pseudo_labels for report in reports):
        sections += ["## Pseudo-labels", "Rows of the first domain that were labelled for the second.", pairs(reports)]
    return "\n\n".join(sections) + "\n"


def domain_table(dataset: Dataset) -> str:
    """How many positives and items each domain has."""
    counts = {split: np.diff(dataset.events[split].domain_bounds(dataset.num_domains)) for split in SPLITS}
    rows = [
        [name, *(f"{int(counts[split][d]):,}" for split in SPLITS), f"{len(dataset.corpus(d)):,}"]
        for d, name in enumerate(dataset.schema.domain_names)
    ]
    return markdown_table(["domain", "train", "valid", "test", "items it may show"], rows)


def epoch_table(reports: Sequence[EpochReport]) -> str:
    """Loss by domain, and what validation gave."""
    header = ["epoch", *(f"loss {name}" for name in reports[0].loss), *reports[0].valid, "rows/s"]
    rows = [
        [
            f"{report.epoch + 1}{' (best)' if report.is_best else ''}",
            *(f"{value:.4f}" for value in report.loss.values()),
            *(f"{value:.4f}" for value in report.valid.values()),
            f"{report.rows_per_second:,.0f}",
        ]
        for report in reports
    ]
    return markdown_table(header, rows)


def valid_table(report: EpochReport) -> str:
    """One epoch's validation, domain by domain."""
    rows = [
        [name, *(f"{values[d]:.4f}" for values in report.valid_by_domain.values())]
        for d, name in enumerate(report.loss)
    ]
    return markdown_table(["domain", *report.valid_by_domain], rows)


def pairs(reports: Sequence[EpochReport]) -> str:
    """Pseudo-labels of each epoch by ordered pair of domains."""
    names = list(dict.fromkeys(pair for report in reports for pair in report.pseudo_labels))
    rows = [
        [str(report.epoch + 1), *(f"{report.pseudo_labels.get(name, 0):,}" for name in names)] for report in reports
    ]
    return markdown_table(["epoch", *names], rows)

"""A run folder of a click model: as of retrieval, with the stages of training below it.

settings.yaml, dataset.json, metrics.jsonl, tensorboard/, report.md     as in `training.runs`
stages/NAME/        best.pt, last.pt of a stage: training that was stopped goes on from there
best.pt             the finished model, each stage at its best epoch
evaluation/         SPLIT.parquet: a line a held-out row
"""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from isthmus.data.dataset import SPLITS, Dataset
from isthmus.files import markdown_table, write_text
from isthmus.layers.shapes import only_shapes
from isthmus.models.cdanet import CDAnetSettings
from isthmus.models.ranker import AnyRankingSettings
from isthmus.training.checkpoint import BEST, write_atomically
from isthmus.training.epochs import EpochReport
from isthmus.training.labels import require_both_labels
from isthmus.training.ranking import RankingTrainingSettings
from isthmus.training.ranking_stages import StageTrainer, new_ranking_model, train_stages
from isthmus.training.report import epoch_table
from isthmus.training.runs import (
    REPORT,
    count_parameters,
    epoch_line,
    open_board,
    read_reports,
    read_weights,
    write_metrics,
)

STAGES = "stages"


def require_ranking_fit(dataset: Dataset, settings: AnyRankingSettings, training: RankingTrainingSettings) -> None:
    """Raises InputError where the settings do not fit the dataset; before a folder is made, and taking no memory."""
    with only_shapes():
        new_ranking_model(dataset, settings, training)
    require_both_labels(dataset, settings, training)


def train_ranking_in_folder(
    folder: Path,
    dataset: Dataset,
    settings: AnyRankingSettings,
    training: RankingTrainingSettings,
    *,
    device: torch.device,
    say: Callable[[str], None],
    show_progress: bool,
) -> nn.Module:
    """Train in a folder that `begin` has made, from where an earlier training there stopped; gives the best model."""
    if (folder / BEST).is_file():
        say(f"{folder}: this run is finished; nothing to train")
        model = new_ranking_model(dataset, settings, training).to(device)
        read_weights(folder, model)
        return model
    if isinstance(settings, CDAnetSettings) and dataset.num_domains == 1:
        say(
            "one domain: there is nothing to translate, and the second stage trains again what the first has trained; "
            "'ranking.kind: ctr' with a backbone is the same network in one stage"
        )
    earlier = sum(len(read_reports(stage)) for stage in (folder / STAGES).glob("*"))
    if earlier:
        say(f"{folder}: going on after {earlier} epochs")
    num_shown = 0
    with open_board(folder, say) as board:

        def show_reports() -> None:
            """Also those of an earlier training, which the trainer has in the order of the stages."""
            nonlocal num_shown
            for report in trainer.reports[num_shown:]:
                board(report)
            num_shown = len(trainer.reports)

        def on_epoch(report: EpochReport) -> None:
            write_metrics(folder, trainer.reports)
            show_reports()
            say(f"{report.stage}: {epoch_line(report, training.epochs)}")

        trainer = StageTrainer(
            dataset, settings, training, folder / STAGES, device, on_epoch, show_progress=show_progress
        )
        model = train_stages(trainer)
        show_reports()
    write_metrics(folder, trainer.reports)
    write_text(folder / REPORT, ranking_report(folder.name, dataset, settings, training, model, trainer.reports))
    write_atomically(model.state_dict(), folder / BEST)
    return model.eval()


def ranking_report(
    name: str,
    dataset: Dataset,
    settings: AnyRankingSettings,
    training: RankingTrainingSettings,
    model: nn.Module,
    reports: list[EpochReport],
) -> str:
    """The run in short: what was trained on what, and how it went, stage by stage."""
    parameters = count_parameters(model)
    chosen = [
        ("dataset", f"{dataset.schema.name} (schema {dataset.schema_hash})"),
        ("fields", "all" if settings.fields is None else ", ".join(settings.fields)),
        ("model", settings.kind),
        ("embedding_dim", str(settings.embedding_dim)),
        ("seed", str(training.seed)),
        ("parameters in tables", f"{parameters.tables:,}"),
        ("parameters in networks", f"{parameters.networks:,}"),
    ]
    sections = [
        f"# Run {name}",
        markdown_table(["setting", "value"], chosen),
        "Every setting is in `settings.yaml`.",
        "## Labelled rows",
        impression_table(dataset),
        "## Training",
        "Loss in nats, mean of the domain's rows; validation AUC and log loss are means over the stage's domains.",
    ]
    for stage in dict.fromkeys(report.stage for report in reports):
        sections += [f"### Stage {stage}", epoch_table([report for report in reports if report.stage == stage])]
    return "\n\n".join(sections) + "\n"


def impression_table(dataset: Dataset) -> str:
    """How many labelled rows each domain has, and the share of positives in training."""
    assert dataset.impressions is not None
    rows = []
    for number, name in enumerate(dataset.schema.domain_names):
        counts = [int((dataset.impressions[split].domain == number).sum()) for split in SPLITS]
        train = dataset.impressions["train"]
        assert train.label is not None
        ours = train.label[train.domain == number]
        rows.append([name, *(f"{count:,}" for count in counts), f"{float(ours.mean()) if len(ours) else 0.0:.1%}"])
    return markdown_table(["domain", *SPLITS, "positive in training"], rows)

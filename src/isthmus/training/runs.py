"""A run folder: what training leaves on disk, how it is taken up again, and what does not fit it.

settings.yaml       every setting, defaults and fitted widths among them
dataset.json        which dataset: its path, its schema's hash, the checksum of its manifest
best.pt, last.pt    the best epoch's weights; all that the next epoch depends on
metrics.jsonl       a line an epoch
tensorboard/        the same for TensorBoard, where it is installed
report.md           the run for a reader, when training has ended
evaluation/         SPLIT.parquet: a line a held-out positive
"""

import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import yaml
from jaxtyping import Float
from torch import Tensor, nn

from isthmus.backbones.budget import scale_widths
from isthmus.data.dataset import Dataset, file_checksum
from isthmus.data.features import feature_sizes, table_sizes
from isthmus.errors import InputError
from isthmus.files import PARTIAL, plain, read_yaml, write_text
from isthmus.layers.shapes import only_shapes
from isthmus.models.two_tower import TwoTower, TwoTowerSettings
from isthmus.training.checkpoint import BEST, LAST, load_checked, read_best
from isthmus.training.epochs import EpochReport, is_finished
from isthmus.training.optim import split_parameters
from isthmus.training.report import ParameterCount, report_markdown
from isthmus.training.retrieval import TrainingSettings, train_retrieval

SETTINGS, DATASET, METRICS, BOARD, REPORT = "settings.yaml", "dataset.json", "metrics.jsonl", "tensorboard", "report.md"
BUDGET_TOLERANCE = 0.02
BISECTIONS = 20

Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True)
class DatasetRecord:
    """Which dataset a run was trained on."""

    path: str
    schema_hash: str
    manifest_sha256: str

    @classmethod
    def of(cls, dataset: Dataset) -> "DatasetRecord":
        path = dataset.path.resolve()
        return cls(str(path), dataset.schema_hash, file_checksum(path / "manifest.json"))

    @classmethod
    def read(cls, folder: Path) -> "DatasetRecord":
        """The record in a run folder; raises InputError where there is none."""
        file = folder / DATASET
        if not file.is_file() or not (folder / SETTINGS).is_file():
            raise InputError(f"{folder}: not a run folder; make one with 'isthmus train DATASET {folder}'")
        try:
            return cls(**json.loads(file.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise InputError(f"{file}: damaged ({error}); train again in a new folder") from error

    def require(self, dataset: Dataset) -> None:
        """Raises InputError where a dataset is not the one that the run was trained on."""
        given = DatasetRecord.of(dataset)
        if given.schema_hash != self.schema_hash:
            raise InputError(
                f"{dataset.path}: its schema has hash {given.schema_hash}, the run was trained on {self.schema_hash}; "
                "prepare the dataset with the run's schema, or train again in a new folder"
            )
        if given.manifest_sha256 != self.manifest_sha256:
            raise InputError(
                f"{dataset.path}: prepared again from other data since the run was trained; "
                "give the dataset of the run, or train again in a new folder"
            )


def choose_device(device: Device) -> torch.device:
    """The device of that name; `auto` takes an accelerator where there is one."""
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("device: 'cuda' is not available here; use 'auto' or 'cpu'")
    return torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")


def initial_bias(dataset: Dataset, temperature: float) -> Float[Tensor, "domain item"]:
    """What gives each item its share of the domain's training positives, one added to every count."""
    count = torch.from_numpy(np.array(dataset.item_count)).double() + 1
    return temperature * (count.log() - count.sum(dim=1, keepdim=True).log()).float()


def new_model(dataset: Dataset, settings: TwoTowerSettings, training: TrainingSettings) -> TwoTower:
    """An untrained model for a dataset; its numbers depend on the training's seed alone.

    Raises:
        InputError: the settings name a field that the dataset does not have.
    """
    with torch.random.fork_rng():
        torch.manual_seed(training.seed)
        return _build(dataset, settings, initial_bias(dataset, training.temperature))


def _build(dataset: Dataset, settings: TwoTowerSettings, bias: Float[Tensor, "domain item"]) -> TwoTower:
    try:
        user_sizes = feature_sizes(dataset, "user", settings.fields)
        item_sizes = feature_sizes(dataset, "item", settings.fields)
    except ValueError as error:
        raise InputError(f"retrieval.fields: {error}") from error
    return TwoTower(
        settings,
        num_domains=dataset.num_domains,
        user_sizes=user_sizes,
        item_sizes=item_sizes,
        table_rows=table_sizes(dataset, settings.fields),
        initial_bias=bias,
    )


def require_fit(dataset: Dataset, settings: TwoTowerSettings) -> None:
    """Raises InputError where the settings do not fit the dataset; before a folder is made, and taking no memory."""
    with only_shapes():
        _build(dataset, settings, torch.empty(dataset.num_domains, dataset.num_items))


def count_parameters(model: nn.Module) -> ParameterCount:
    """The model's trainable numbers, each counted once."""
    tables, networks = split_parameters(model)
    return ParameterCount(sum(p.numel() for p in tables), sum(p.numel() for p in networks))


def fit_budget(dataset: Dataset, settings: TwoTowerSettings, budget: int) -> TwoTowerSettings:
    """The settings with the backbone's hidden widths scaled so that all networks together come just below a budget.

    Settings that already lie within the tolerance below it are given back as they are.

    Raises:
        InputError: there is no backbone to scale, or no width comes close enough.
    """
    backbone = settings.backbone
    if backbone is None:
        raise InputError("parameter_budget: there is no backbone whose widths could be fitted to it")

    def at(factor: float) -> TwoTowerSettings:
        return settings.model_copy(update={"backbone": scale_widths(backbone, factor)})

    def size(candidate: TwoTowerSettings) -> int:
        with only_shapes():  # counts without giving the numbers memory
            bias = torch.empty(dataset.num_domains, dataset.num_items)
            return count_parameters(_build(dataset, candidate, bias)).networks

    def fits(candidate: TwoTowerSettings) -> bool:
        return (1 - BUDGET_TOLERANCE) * budget <= size(candidate) <= budget

    if fits(settings):
        return settings
    low, high = 0.0, 1.0
    while size(at(high)) <= budget:
        low, high = high, 2 * high
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if size(at(middle)) <= budget else (low, middle)
    best = at(low)
    if not fits(best):
        raise InputError(
            f"parameter_budget: {budget} is out of reach; the nearest widths give {size(best)} numbers, "
            f"and no width comes within {BUDGET_TOLERANCE:.0%} below the budget"
        )
    return best


def begin(folder: Path, settings: Mapping[str, Any], dataset: Dataset) -> None:
    """Make a run of an empty folder, or make sure that the one there is of the same settings and dataset.

    Raises:
        InputError: the folder holds something else than a run, or a run of other settings or another dataset.
    """
    if (folder / SETTINGS).is_file() and (folder / DATASET).is_file():
        require_same_settings(folder, settings)
        DatasetRecord.read(folder).require(dataset)
        return
    present = {entry.name.removesuffix(PARTIAL) for entry in folder.iterdir()} if folder.is_dir() else set()
    if not present <= {DATASET, SETTINGS}:  # one of them alone is what a killed beginning leaves
        raise InputError(f"{folder}: holds other files and is not a run folder; give a new or empty folder")
    write_text(folder / DATASET, json.dumps(asdict(DatasetRecord.of(dataset)), indent=1) + "\n")
    write_text(folder / SETTINGS, yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True))


def require_same_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Raises InputError, naming what differs, where a run folder has other settings."""
    there, given = (
        flat(read_yaml(folder / SETTINGS, remedy="it is damaged; train again in a new folder")),
        flat(settings),
    )
    different = [
        f"{key} is {there.get(key)!r} there, {given.get(key)!r} here"
        for key in {**there, **given}
        if there.get(key) != given.get(key)
    ]
    if different:
        raise InputError(
            f"{folder}: holds a run with other settings ({'; '.join(different)}); "
            "train with the same settings to go on with it, or in a new folder"
        )


def flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as one mapping from `key.sub` to values."""
    result: dict[str, Any] = {}
    for key, value in content.items():
        result |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return result


def train_in_folder(
    folder: Path,
    dataset: Dataset,
    settings: TwoTowerSettings,
    training: TrainingSettings,
    *,
    device: torch.device,
    say: Callable[[str], None],
    show_progress: bool,
) -> TwoTower:
    """Train in a folder that `begin` has made, from where an earlier training there stopped; gives the best model."""
    model = new_model(dataset, settings, training).to(device)
    reports = read_reports(folder)
    if is_over(reports, training):
        say(f"{folder}: this run is finished ({len(reports)} epochs); nothing to train")
        read_weights(folder, model)
        write_report(folder, dataset, settings, training, model, reports)
        return model
    if reports:
        say(f"{folder}: going on after epoch {len(reports)}")
    with open_board(folder, say) as board:
        write_metrics(folder, reports)
        for report in reports:
            board(report)

        def on_epoch(report: EpochReport) -> None:
            reports.append(report)
            write_metrics(folder, reports)
            board(report)
            say(epoch_line(report, training.epochs))

        train_retrieval(
            dataset,
            model,
            settings,
            training,
            folder=folder,
            device=device,
            on_epoch=on_epoch,
            show_progress=show_progress,
        )
    write_report(folder, dataset, settings, training, model, reports)
    return model.eval()


def epoch_line(report: EpochReport, epochs: int) -> str:
    """One epoch for someone who waits."""
    metrics = "  ".join(f"{name} {value:.4f}" for name, value in report.valid.items())
    losses = [value for value in report.loss.values() if not math.isnan(value)]
    loss = sum(losses) / max(1, len(losses))
    best = "  (best)" if report.is_best else ""
    return f"epoch {report.epoch + 1}/{epochs}  loss {loss:.4f}  {metrics}  {report.rows_per_second:,.0f} rows/s{best}"


def is_over(reports: list[EpochReport], training: TrainingSettings) -> bool:
    return len(reports) >= training.epochs or is_finished(reports, training.patience)


def read_reports(folder: Path) -> list[EpochReport]:
    """The finished epochs of a run; none before the first."""
    if not (folder / LAST).is_file():
        return []
    try:
        return [EpochReport(**line) for line in load_checked(folder / LAST)["reports"]]
    except (KeyError, TypeError) as error:
        raise InputError(f"{folder / LAST}: not a checkpoint of this version; train again in a new folder") from error


def read_weights(folder: Path, model: nn.Module) -> None:
    """Give a model the weights of the run's best epoch.

    Raises:
        InputError: there is no finished epoch, or the file is damaged or of another model.
    """
    file = folder / BEST
    if not file.is_file():
        raise InputError(f"{file}: missing, no epoch of this run is finished; go on with 'isthmus train'")
    read_best(folder, model)
    model.eval()


def remove_weights(folder: Path) -> None:
    """Delete a run's checkpoints, which settings and seed make again; what it measured stays."""
    for weights in (*folder.glob("*.pt"), *folder.glob("stages/*/*.pt")):
        weights.unlink()


@contextmanager
def open_board(folder: Path, say: Callable[[str], None]) -> Iterator[Callable[[EpochReport], None]]:
    """What writes an epoch for TensorBoard, anew from the first epoch; without TensorBoard, what writes nothing."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        say("TensorBoard is not installed, so no event files are written (pip install 'isthmus[board]')")
        yield lambda _: None
        return
    shutil.rmtree(folder / BOARD, ignore_errors=True)
    with SummaryWriter(str(folder / BOARD)) as writer:

        def write(report: EpochReport) -> None:
            values = {f"loss/{name}": value for name, value in report.loss.items()}
            for metric, by_domain in report.valid_by_domain.items():
                values |= {f"{metric}/{name}": value for name, value in zip(report.loss, by_domain, strict=True)}
                values[f"{metric}/macro"] = report.valid[metric]
            values |= {f"pseudo_labels/{pair}": count for pair, count in report.pseudo_labels.items()}
            for name, value in values.items():
                tag = f"{report.stage}/{name}" if report.stage else name
                writer.add_scalar(tag, value, report.epoch)
            writer.flush()

        yield write


def write_metrics(folder: Path, reports: list[EpochReport]) -> None:
    """Write metrics.jsonl anew, so that it never holds an epoch twice or out of order."""
    write_text(folder / METRICS, "".join(json.dumps(plain(asdict(report))) + "\n" for report in reports))


def write_report(
    folder: Path,
    dataset: Dataset,
    settings: TwoTowerSettings,
    training: TrainingSettings,
    model: TwoTower,
    reports: list[EpochReport],
) -> None:
    """Write report.md."""
    text = report_markdown(folder.name, dataset, settings, training, count_parameters(model), reports)
    write_text(folder / REPORT, text)

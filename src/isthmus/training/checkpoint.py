"""What training keeps on disk so that it can go on after any interruption, written atomically."""

import pickle
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from isthmus.errors import InputError
from isthmus.files import new_file

LAST, BEST = "last.pt", "best.pt"


@dataclass(frozen=True)
class Progress:
    """How far training has come.

    Attributes:
        reports: the finished epochs', as plain values; empty before the first.
        open_epoch: of an epoch that has begun, what its steps have added up to, as plain values.
    """

    reports: list[dict[str, Any]]
    open_epoch: dict[str, Any] | None = None


def write_atomically(value: Any, file: Path) -> None:
    """Save what torch can save; the file is whole or as it was."""
    with new_file(file) as partial, partial.open("wb") as stream:
        try:
            torch.save(value, stream)
        except RuntimeError as error:  # torch closes its archive after a failed write, which fails again
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def write_checkpoint(
    folder: Path,
    model: nn.Module,
    optimizers: list[torch.optim.Optimizer],
    generator: torch.Generator,
    progress: Progress,
    *,
    is_best: bool,
) -> None:
    """Save all that the next step depends on; the best epoch's weights first, so that they are never behind."""
    if is_best:
        write_atomically(model.state_dict(), folder / BEST)
    state = {
        "model": model.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        "generator": generator.get_state(),
        "global_generator": torch.get_rng_state(),
        "accelerator_generators": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "reports": progress.reports,
        "open_epoch": progress.open_epoch,
    }
    write_atomically(state, folder / LAST)


def load_checked(file: Path) -> Any:
    """What a checkpoint file holds, on the processor; raises InputError where a byte of it is not as it was written."""
    try:
        with zipfile.ZipFile(file) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise zipfile.BadZipFile(f"wrong checksum of {damaged}")
        return torch.load(file, map_location="cpu", weights_only=True)
    except (zipfile.BadZipFile, RuntimeError, pickle.UnpicklingError, EOFError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{file}: damaged or half written ({reason}); train again in a new folder") from error


def read_best(folder: Path, model: nn.Module) -> None:
    """Give a model the weights of its best epoch, on the device where it is.

    Raises:
        InputError: the file is gone, damaged or of another model.
    """
    file = folder / BEST
    if not file.is_file():
        raise InputError(f"{file}: missing, although epochs of it are finished; train again in a new folder")
    weights = load_checked(file)
    try:
        model.load_state_dict(weights)
    except (RuntimeError, TypeError) as error:
        raise InputError(f"{file}: does not fit the run's settings and dataset; train again in a new folder") from error


def read_checkpoint(
    folder: Path, model: nn.Module, optimizers: list[torch.optim.Optimizer], generator: torch.Generator
) -> Progress:
    """Put everything back as the last checkpoint left it; nothing happens where there is no checkpoint.

    Raises:
        InputError: the checkpoint is damaged, or of another model.
    """
    file = folder / LAST
    if not file.is_file():
        return Progress([])
    device = next(model.parameters()).device
    state = load_checked(file)
    try:
        model.load_state_dict({name: value.to(device) for name, value in state["model"].items()})
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        generator.set_state(state["generator"])
        torch.set_rng_state(state["global_generator"])
        # A run that an accelerator began may go on where there are fewer, or none.
        for number, saved in enumerate(state["accelerator_generators"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(saved, number)
        return Progress(state["reports"], state["open_epoch"])
    except (RuntimeError, KeyError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{file}: is of another model or version ({reason}); train again in a new folder") from error

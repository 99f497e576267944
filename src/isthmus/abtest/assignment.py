"""Which variant of an experiment a user gets: by a hash of the id, the same on every machine and at every time."""

import math
from hashlib import blake2b
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from isthmus.errors import InputError, explain
from isthmus.files import read_yaml

Name = Annotated[str, Field(min_length=1, max_length=100)]


class Variant(BaseModel):
    """What some of the users get.

    share: of all users, above 0, at most 1.
    bundle: the bundle, or the place that names one, that answers them; None: that of the server.
    ranked: whether the click model orders their lists; without it they are in retrieval's order.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name
    share: float = Field(gt=0, le=1)
    bundle: Path | None = None
    ranked: bool = True


class Experiment(BaseModel):
    """One experiment: its users are divided among variants.

    salt: changes who gets what; two experiments with different names or salts divide users independently.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name
    salt: str = ""
    variants: tuple[Variant, ...]

    @model_validator(mode="after")
    def _divides_all_users(self) -> "Experiment":
        names = [variant.name for variant in self.variants]
        if len(set(names)) < len(names):
            raise ValueError(f"two variants have one name: {', '.join(names)}")
        total = sum(variant.share for variant in self.variants)
        if not math.isclose(total, 1.0, abs_tol=1e-9):
            raise ValueError(f"shares add up to {total:g}, not to 1")
        return self


def read_experiment(file: Path) -> Experiment:
    """The experiment that a YAML file declares; the paths of its bundles are relative to the file.

    Raises:
        InputError: the file cannot be read, or what it says is not an experiment.
    """
    content = read_yaml(file, remedy="give the file of an experiment: its name and its variants")
    try:
        experiment = Experiment.model_validate(content)
    except ValidationError as error:
        raise InputError(explain(error, file, Experiment)) from error
    placed = tuple(
        v if v.bundle is None else v.model_copy(update={"bundle": file.parent / v.bundle}) for v in experiment.variants
    )
    return experiment.model_copy(update={"variants": placed})


def place_of(experiment: Experiment, unit: str) -> float:
    """Where a unit, such as a user's id, lies between 0 and 1: the first 64 bits of BLAKE2b of name, salt and unit,
    with zero bytes between them.
    """
    text = "\0".join((experiment.name, experiment.salt, unit))
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big") / 2**64


def assign(experiment: Experiment, unit: str) -> Variant:
    """The variant of a unit: variants take the line from 0 to 1 in their order, each as much of it as its share."""
    place, reached = place_of(experiment, unit), 0.0
    for variant in experiment.variants:
        reached += variant.share
        if place < reached:
            return variant
    return experiment.variants[-1]

"""The experiments by name."""

from collections.abc import Sequence
from pathlib import Path

from isthmus.errors import InputError
from isthmus.experiments import (
    EXPERIMENTS,
    adi_table_3,
    cdanet_figure_2,
    cdanet_figures,
    cdanet_more_domains,
    cdanet_pairs,
    cdanet_table_2,
    cdanet_table_6,
)
from isthmus.experiments.kept_dataset import keep_to_one_data_set

SEARCHED = ("cdanet-table-2", "cdanet-table-7", "cdanet-figure-3", "cdanet-figure-4", "cdanet-more-domains")


def reproduce(
    name: str,
    data: Path,
    out: Path,
    *,
    num_seeds: int,
    quick: bool,
    trials: int | None,
    methods: Sequence[str] | None = None,
) -> Path:
    """Make a published table or figure again; as `isthmus.reproduce`, which says what the arguments are."""
    if trials is not None and name not in SEARCHED:
        raise InputError(f"trials: {name} has no search; those with one are {', '.join(SEARCHED)}")
    if methods is not None and name != "cdanet-table-2":
        raise InputError(f"method: {name} is made whole; cdanet-table-2 can be made of some methods")
    if name in EXPERIMENTS:
        keep_to_one_data_set(data, out)
    match name:
        case "adi-table-3":
            return adi_table_3.reproduce(data, out, num_seeds=num_seeds, quick=quick)
        case "cdanet-table-2" | "cdanet-table-7":
            pair = cdanet_pairs.pair_in(data) if name == "cdanet-table-2" else None
            if pair is not None:
                return cdanet_pairs.reproduce(
                    pair, data, out, num_seeds=num_seeds, quick=quick, trials=trials, methods=methods
                )
            ablations = name == "cdanet-table-7"
            return cdanet_table_2.reproduce(
                data, out, num_seeds=num_seeds, quick=quick, ablations=ablations, trials=trials, methods=methods
            )
        case "cdanet-more-domains":
            return cdanet_more_domains.reproduce(data, out, num_seeds=num_seeds, quick=quick, trials=trials)
        case "cdanet-figure-3" | "cdanet-figure-4":
            return cdanet_figures.reproduce(name, data, out, num_seeds=num_seeds, quick=quick, trials=trials)
        case "cdanet-table-6":
            return cdanet_table_6.reproduce(data, out, num_seeds=num_seeds, quick=quick)
        case "cdanet-figure-2":
            return cdanet_figure_2.reproduce(data, out, num_seeds=num_seeds, quick=quick)
        case _:
            raise InputError(f"{name}: nothing of that name to reproduce; known are {', '.join(EXPERIMENTS)}")

"""From rows to the probabilities of their labels: a file in, a file out."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from torch import nn

from isthmus.data.dataset import Dataset
from isthmus.data.features import RankingReader
from isthmus.domains import DomainSlices
from isthmus.errors import InputError
from isthmus.evaluation.ranking import corrected_for_sampling
from isthmus.files import new_file

BLOCK = 16_384
OTHER_KINDS = (".csv", ".tsv", ".txt", ".json", ".jsonl")


@torch.inference_mode()
def score_file(
    model: nn.Module,
    dataset: Dataset,
    fields: tuple[str, ...] | None,
    rows: Path,
    out: Path,
    *,
    kept_shares: Sequence[float],
    domains: Sequence[int] | None = None,
) -> int:
    """Write `out` (Parquet: user, item, domain, probability, in the order of `rows`); gives the number of rows.

    A history holds what the dataset's training and validation parts know of the user, before the row where there is a
    clock. The probability is that of the label as the dataset has it; where negatives were drawn, it is right for rows
    that are drawn in the same way.

    Args:
        kept_shares: of each domain's negatives, the share that the model was trained on; probabilities are corrected.
        domains: numbers of the domains that the model was trained on; None: all.

    Raises:
        InputError: the file, a column or a value does not fit, see `read_new_rows`; a row is of a domain that the model
            was not trained on; `out` is the file of rows, or named as another kind of file than Parquet.
    """
    if out.exists() and rows.exists() and out.samefile(rows):
        raise InputError(f"{out}: holds the rows to score and would be lost; give another file for the probabilities")
    if out.suffix.lower() in OTHER_KINDS:
        raise InputError(f"{out}: the probabilities are written as Parquet; give a name that ends in .parquet")
    from isthmus.data.new_rows import read_new_rows  # brings ibis and SciPy: .4 s and 50 MB for this verb alone

    new = read_new_rows(dataset, rows)
    untrained = set() if domains is None else set(np.unique(new.events.domain).tolist()) - set(domains)
    if domains is not None and untrained:
        names = dataset.schema.domain_names
        raise InputError(
            f"{rows}: has rows of {', '.join(names[d] for d in sorted(untrained))}, and the model was trained on "
            f"{', '.join(names[d] for d in domains)} alone; leave these rows out, or train on their domain too"
        )
    if not new.events.item_row.any() and len(items := pc.unique(new.texts["item"])) > 1:  # one alone may well be new
        warnings.warn(
            f"{rows}: training knows none of its {len(items)} items, such as {items[0].as_py()!r}; are ids written as "
            "the log's are?",
            stacklevel=2,
        )
    reader = RankingReader(dataset, fields)
    device = next(model.parameters()).device
    probability = np.empty(len(new.place), np.float64)
    for start in range(0, len(new.place), BLOCK):
        block = np.arange(start, min(start + BLOCK, len(new.place)))
        counts = np.bincount(new.events.domain[block], minlength=dataset.num_domains)
        features = reader.read(new.events, block, "test").to(device)
        logit = model(features, DomainSlices.from_counts(counts.tolist()))
        domain = torch.from_numpy(np.asarray(new.events.domain[block], np.int64))
        if not bool(logit.isfinite().all()):
            row = int(new.place[block][(~logit.isfinite()).cpu().numpy()].min())
            raise InputError(
                f"{rows}: row {row + 1}: the model's score is not finite; look for a number far beyond those of "
                "training among its fields"
            )
        corrected = corrected_for_sampling(logit.double().cpu(), domain, kept_shares)
        probability[new.place[block]] = corrected.sigmoid().numpy()
    table = new.texts.rename_columns(["user", "item", "domain"]).append_column("probability", pa.array(probability))
    with new_file(out) as partial:
        pq.write_table(table, partial)
    return len(table)

"""The verb `bundle` on run folders: what serving needs of a retrieval and a ranking run, in one folder."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from isthmus.api import RankingRun, Run
from isthmus.errors import InputError
from isthmus.models.cdanet import CDAnet
from isthmus.training.checkpoint import BEST
from isthmus.training.ranking_stages import judged_domains

if TYPE_CHECKING:  # serving loads its indexes; a process that trains has no use for 40 MiB of them
    import isthmus.serving.bundle_files


def bundle(
    retrieval: Path,
    out: Path,
    *,
    ranking: Path | None = None,
    score_field: str | None = None,
    num_candidates: int = 200,
    dataset: Path | None = None,
    ranking_dataset: Path | None = None,
    exact_below: int = 100_000,
    with_onnx: bool = True,
    drift_rows: int = 1000,
    shard: tuple[int, int] | None = None,
) -> "isthmus.serving.bundle_files.Manifest":
    """Put all that serving needs of a retrieval run and, where given, a ranking run into one folder.

    Args:
        score_field: the number field of side `row` in the ranker's data that takes retrieval's score.
        num_candidates: items that retrieval hands to the click model, at least as many as are asked for.
        dataset, ranking_dataset: where the runs' datasets lie now, if they were moved.
        exact_below: a domain with fewer items is searched exactly.
        with_onnx: also write copies of the networks for ONNX Runtime, which is what then serves.
        drift_rows: of each domain, the training rows that drift is measured from; 0: none.
        shard: (i, n): of every corpus only the items whose row leaves i when divided by n; see docs/deployment.md.

    Raises:
        InputError: a run cannot be opened, the runs do not fit each other, or `out` holds something else than a bundle.
    """
    from isthmus.serving.bundle import RankingParts, RetrievalParts, write_bundle
    from isthmus.serving.bundle_files import Shard

    if drift_rows < 0:
        raise InputError(f"drift_rows: {drift_rows} is below 0")
    if shard is not None and not 0 <= shard[0] < shard[1]:
        raise InputError(f"shard: {shard[0]}/{shard[1]} is none; of n there are 0/n to (n - 1)/n")
    run = Run.open(retrieval, dataset, device="cpu")
    parts = RetrievalParts(run.model, run.settings.retrieval, run.settings.index, run.dataset, retrieval / BEST)
    click = None
    if ranking is not None:
        ranker = RankingRun.open(ranking, ranking_dataset, device="cpu", dataset_option="--ranking-dataset")
        chosen, names = ranker.settings.ranking, ranker.dataset.schema.domain_names
        judged = judged_domains(ranker.dataset, chosen, ranker.settings.training)
        click = RankingParts(
            model=ranker.model,
            settings=chosen,
            dataset=ranker.dataset,
            domains=tuple(names[number] for number in judged),
            targets=ranker.model.targets if isinstance(ranker.model, CDAnet) else (),
            num_candidates=num_candidates,
            score_field=score_field,
            kept_shares=ranker.kept_shares,
            weights=ranking / BEST,
        )
    elif score_field is not None:
        raise InputError(f"score_field: {score_field!r} is of the ranker's data, and no ranking run is given")
    return write_bundle(
        out,
        parts,
        click,
        exact_below=exact_below,
        now=datetime.now(UTC),
        with_onnx=with_onnx,
        drift_rows=drift_rows,
        shard=None if shard is None else Shard(place=shard[0], count=shard[1]),
    )

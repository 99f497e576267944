"""Multi-domain recommendation: a retrieval and a ranking model over the logs of all business domains.

Each function is a verb of the command line. Importing this package is cheap: a verb loads what it needs when called.
A path may be a text; an id of a user or an item always is one.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Literal, overload

from isthmus.errors import InputError
from isthmus.files import AnyPath, optional_path

if TYPE_CHECKING:
    import isthmus.abtest.report
    import isthmus.api
    import isthmus.data.audit
    import isthmus.data.dataset
    import isthmus.data.describe
    import isthmus.evaluation.compare
    import isthmus.evaluation.ranking_summary
    import isthmus.evaluation.summary
    import isthmus.serving.bundle_files
    import isthmus.serving.recommend
    import isthmus.settings

__all__ = [
    "InputError",
    "ab",
    "audit",
    "bundle",
    "compare",
    "demo",
    "describe",
    "evaluate",
    "ingest",
    "init",
    "open_ranking",
    "open_run",
    "prepare",
    "publish",
    "recommend",
    "reproduce",
    "rollback",
    "score",
    "serve",
    "train",
    "tune",
]

Device = Literal["auto", "cpu", "cuda"]
AMAZON_PAIRS = ("grocery_kitchen", "movie_book", "kg_books_movies")
PUBLIC_DATA = ("xmrec", "epinions", *AMAZON_PAIRS, "amazon_reviews", "taobao", "ali_ccp", "kuairand")


def ingest(name: str, source: AnyPath, out: AnyPath, *, seed: int = 0) -> Path:
    """Turn a public data set's own files into a log and its declaration; gives the path of the declaration.

    Args:
        name: `xmrec`, the WSDM Cup 2022 cross-market data; `epinions`, ratings in 27 categories; `grocery_kitchen`,
            `movie_book` and `kg_books_movies`, pairs of Amazon categories; `amazon_reviews`, review files of any
            categories; `taobao`, advertisements and recommendations; `ali_ccp` and `kuairand`, impressions by scenario.
        seed: of what the data set leaves to chance, such as candidate lists that it does not give.
    """
    if name not in PUBLIC_DATA:
        raise InputError(f"{name}: unknown data set; known are {', '.join(PUBLIC_DATA)}")
    from isthmus.data.public.catalogue import ingest_public

    return ingest_public(name, Path(source), Path(out), seed=seed)


def init(logs: AnyPath | Sequence[AnyPath]) -> tuple[str, list[str]]:
    """Draft the declaration of a log from its files: the YAML text, and what is doubtful in it."""
    from isthmus.data.init import draft_schema

    return draft_schema([Path(log) for log in ([logs] if isinstance(logs, str | PathLike) else logs)])


def prepare(log: AnyPath, out: AnyPath) -> "isthmus.data.dataset.Dataset":
    """Make the dataset folder that a declaration (YAML) describes."""
    from isthmus.data.prepare import prepare as prepare_log

    return prepare_log(Path(log), Path(out))


def audit(dataset: AnyPath) -> "list[isthmus.data.audit.Finding]":
    """Check that a dataset folder is intact and that nothing held out leaks into training."""
    from isthmus.data.audit import audit as audit_dataset

    return audit_dataset(Path(dataset))


def describe(dataset: AnyPath) -> "isthmus.data.describe.Description":
    """Count a dataset's users, items and rows by domain, and their overlaps."""
    from isthmus.data.describe import describe as describe_dataset

    return describe_dataset(Path(dataset))


@overload
def train(
    dataset: AnyPath,
    run: AnyPath,
    settings: "isthmus.settings.RunSettings | AnyPath | None" = None,
    *,
    overrides: Sequence[str] = (),
    task: Literal["retrieval"] = "retrieval",
    device: Device = "auto",
    say: Callable[[str], None] = print,
    show_progress: bool = False,
) -> "isthmus.api.Run": ...


@overload
def train(
    dataset: AnyPath,
    run: AnyPath,
    settings: "isthmus.settings.RankingRunSettings | AnyPath | None" = None,
    *,
    overrides: Sequence[str] = (),
    task: Literal["ranking"],
    device: Device = "auto",
    say: Callable[[str], None] = print,
    show_progress: bool = False,
) -> "isthmus.api.RankingRun": ...


def train(
    dataset: AnyPath,
    run: AnyPath,
    settings: "isthmus.settings.AnyRunSettings | AnyPath | None" = None,
    *,
    overrides: Sequence[str] = (),
    task: Literal["retrieval", "ranking"] = "retrieval",
    device: Device = "auto",
    say: Callable[[str], None] = print,
    show_progress: bool = False,
) -> "isthmus.api.Run | isthmus.api.RankingRun":
    """Train a model in a run folder, from where an interrupted training there stopped.

    Args:
        settings: settings, a YAML file, or None for the defaults.
        overrides: single values put in their place in a file or the defaults, each `key.sub=value`.
        task: what the model is for; the settings must be of that task.
        say: takes one line an epoch, and what else there is to know.
    """
    from isthmus.api import train as train_run
    from isthmus.settings import read_ranking_settings, read_settings

    if settings is None or isinstance(settings, str | PathLike):
        read = read_settings if task == "retrieval" else read_ranking_settings
        settings = read(optional_path(settings), overrides)
    elif overrides:
        raise InputError("overrides: give them with a settings file, or put the values into the settings")
    return train_run(Path(dataset), Path(run), settings, device=device, say=say, show_progress=show_progress)


def open_run(run: AnyPath, *, dataset: AnyPath | None = None, device: Device = "auto") -> "isthmus.api.Run":
    """Open a run folder of retrieval; `dataset` says where its dataset lies now, if it was moved."""
    from isthmus.api import Run

    return Run.open(run, dataset, device=device)


def open_ranking(run: AnyPath, *, dataset: AnyPath | None = None, device: Device = "auto") -> "isthmus.api.RankingRun":
    """Open a run folder of a click model; arguments as for `open_run`."""
    from isthmus.api import RankingRun

    return RankingRun.open(run, dataset, device=device)


def tune(dataset: AnyPath, out: AnyPath, settings: AnyPath, search: AnyPath) -> "isthmus.settings.AnyRunSettings":
    """Search settings on validation data; gives the best, which are also in `out`/best.yaml.

    Args:
        settings: a settings file with all that is not searched.
        search: what is searched and how; see `isthmus.tuning.Search`.
    """
    from isthmus.settings import read_any_settings
    from isthmus.tuning import read_search
    from isthmus.tuning import tune as tune_settings

    return tune_settings(Path(dataset), Path(out), read_any_settings(Path(settings)), read_search(Path(search)))


def score(run: AnyPath, rows: AnyPath, out: AnyPath, *, dataset: AnyPath | None = None, device: Device = "auto") -> int:
    """Write the probabilities of a file of rows by a click model; gives the number of rows."""
    return open_ranking(run, dataset=dataset, device=device).score(rows, out)


def evaluate(
    run: AnyPath, split: str = "test", *, dataset: AnyPath | None = None, device: Device = "auto"
) -> "isthmus.evaluation.summary.Summary | isthmus.evaluation.ranking_summary.RankingSummary":
    """Judge a run on held-out rows: metrics by domain with intervals; the lines stay in the run folder."""
    from isthmus.api import evaluate as evaluate_run

    return evaluate_run(Path(run), split, dataset=optional_path(dataset), device=device)


def compare(
    a: AnyPath, b: AnyPath, split: str = "test", *, dataset: AnyPath | None = None, device: Device = "auto"
) -> "isthmus.evaluation.compare.Comparison":
    """Compare two run folders, or two files of results, on the same held-out rows, by paired tests."""
    from isthmus.api import compare as compare_runs

    return compare_runs(Path(a), Path(b), split, dataset=optional_path(dataset), device=device)


def recommend(
    run: AnyPath,
    domain: str,
    *,
    user: str | None = None,
    history: Sequence[str] | None = None,
    k: int = 10,
    dataset: AnyPath | None = None,
    device: Device = "auto",
) -> "isthmus.serving.recommend.Recommendations":
    """The k best items of a domain for a known user or for a history of item ids, the latest last.

    For many requests open the run once: `open_run(run).recommend(...)` keeps the model and its indexes.
    """
    return open_run(run, dataset=dataset, device=device).recommend(domain, user=user, history=history, k=k)


def bundle(
    retrieval: AnyPath,
    out: AnyPath,
    *,
    ranking: AnyPath | None = None,
    score_field: str | None = None,
    num_candidates: int = 200,
    dataset: AnyPath | None = None,
    ranking_dataset: AnyPath | None = None,
    exact_below: int = 100_000,
    with_onnx: bool = True,
    drift_rows: int = 1000,
    shard: tuple[int, int] | None = None,
) -> "isthmus.serving.bundle_files.Manifest":
    """Put all that serving needs of a retrieval run and, where given, of a ranking run into one folder.

    Args:
        score_field: the number field of side `row` in the ranker's data that takes retrieval's score.
        num_candidates: items that retrieval hands to the click model: as deep as the lists that it was trained on.
        dataset, ranking_dataset: where the runs' datasets lie now, if they were moved.
        exact_below: a domain with fewer items is searched exactly, a larger one by FAISS.
        with_onnx: also write copies of the networks for ONNX Runtime, which is what then serves.
        drift_rows: of each domain, the training rows that drift is measured from; 0: none.
        shard: (i, n): of every corpus only the items whose row leaves i when divided by n; see docs/deployment.md.
    """
    from isthmus.bundling import bundle as bundle_runs

    return bundle_runs(
        Path(retrieval),
        Path(out),
        ranking=optional_path(ranking),
        score_field=score_field,
        num_candidates=num_candidates,
        dataset=optional_path(dataset),
        ranking_dataset=optional_path(ranking_dataset),
        exact_below=exact_below,
        with_onnx=with_onnx,
        drift_rows=drift_rows,
        shard=shard,
    )


def serve(
    place: AnyPath,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    workers: int = 1,
    token: str | None = None,
    events: AnyPath | None = None,
    retention_days: float = 30.0,
    num_threads: int = 1,
    queue: int = 32,
    timeout_s: float = 5.0,
    max_body_bytes: int = 1 << 20,
    connections: int = 800,
    check: bool = True,
    shared_metrics: AnyPath | None = None,
    engine: Literal["eager", "onnx"] | None = None,
    experiment: AnyPath | None = None,
    log_folder: AnyPath | None = None,
    allow_changed_schema: bool = False,
    on_listening: Callable[[str], None] = lambda _: None,
) -> None:
    """Serve a bundle, or what a place names, over HTTP until told to stop; arguments as of `ServeSettings`.

    Args:
        on_listening: hears the address once requests to it are answered.
    """
    try:
        from isthmus.abtest.assignment import read_experiment
        from isthmus.serving.serve_settings import ServeSettings
        from isthmus.serving.server import serve as serve_place
    except ModuleNotFoundError as error:
        raise InputError(f"serve: {error.name} is not installed (pip install 'isthmus[serve]')") from error
    settings = ServeSettings(
        Path(place),
        token=token,
        events=None if events is None else str(events),
        retention_days=retention_days,
        num_threads=num_threads,
        queue=queue,
        timeout_s=timeout_s,
        max_body_bytes=max_body_bytes,
        connections=connections,
        check=check,
        shared_metrics=optional_path(shared_metrics),
        engine=engine,
        experiment=None if experiment is None else read_experiment(Path(experiment)),
        log_folder=optional_path(log_folder),
        allow_changed_schema=allow_changed_schema,
    )
    serve_place(settings, host=host, port=port, workers=workers, on_listening=on_listening)


def publish(bundle: AnyPath, place: AnyPath, *, allow_changed_schema: bool = False) -> str:
    """Let a serving place name a bundle, which its servers then take; gives the bundle's version.

    Args:
        allow_changed_schema: also where requests that the present bundle answers would be errors.
    """
    from isthmus.serving.publishing import publish as publish_bundle

    return publish_bundle(Path(bundle), Path(place), allow_changed_schema=allow_changed_schema).version


def rollback(place: AnyPath, *, allow_changed_schema: bool = False) -> str:
    """Let a serving place name the bundle before; gives its version. Arguments as of `publish`."""
    from isthmus.serving.publishing import rollback as roll_back

    return roll_back(Path(place), allow_changed_schema=allow_changed_schema)


def ab(
    logs: AnyPath,
    *,
    experiment: str | None = None,
    control: str | None = None,
    trial: AnyPath | None = None,
    segments: AnyPath | None = None,
    revenue: Literal["click", "order"] = "click",
    start: datetime | str | None = None,
    end: datetime | str | None = None,
    attribution_h: float | None = None,
) -> "isthmus.abtest.report.Analysis":
    """Measure an experiment from a server's folder of logs: CTR, PPC and RPM by variant, domain and segment.

    Arguments as of `isthmus.abtest.analysis.Question`; docs/logs.md has an example and what is counted how.
    """
    from isthmus.abtest.analysis import Question, analyse

    trial, segments = optional_path(trial), optional_path(segments)
    return analyse(Path(logs), Question(experiment, control, trial, segments, revenue, start, end, attribution_h))


def reproduce(
    name: str,
    data: AnyPath,
    out: AnyPath,
    *,
    num_seeds: int = 3,
    quick: bool = False,
    trials: int | None = None,
    methods: Sequence[str] | None = None,
) -> Path:
    """Make a published table again; gives the path of the report.

    Args:
        name: `adi-table-3`, retrieval on the WSDM Cup 2022 cross-market data; `cdanet-table-2`, ranking on
            Epinions or, by the files in `data`, on one of three pairs of Amazon categories; on Epinions also
            `cdanet-table-7`, its ablations, `cdanet-figure-3`, shares of the training rows, `cdanet-figure-4`, alpha
            and beta, and `cdanet-more-domains`, what all categories add to two; `cdanet-table-6`, books nearest to
            translated movies, and `cdanet-figure-2`, lists of two models side by side, on `kg_books_movies`.
        data: the folder of the data set's own files.
        quick: one seed of the main rows.
        trials: of the search of each row's settings, where the experiment has one; 0: the settings as declared.
        methods: of `cdanet-table-2`, by their names in it: only these and the control; None: all.

    Raises:
        InputError: an unknown name or method, another experiment's data, or `trials` or `methods` where it takes none.
    """
    from isthmus.experiments.catalogue import reproduce as reproduce_experiment

    return reproduce_experiment(
        name, Path(data), Path(out), num_seeds=num_seeds, quick=quick, trials=trials, methods=methods
    )


def demo(data: AnyPath | None, out: AnyPath) -> Path:
    """Run everything once, on simulated data or, where `data` has it, on public data; gives the bundle of its runs."""
    from isthmus.experiments import demo as demonstration

    return demonstration.demo(optional_path(data), Path(out))

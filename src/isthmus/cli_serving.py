"""The verbs of serving: bundle, serve, publish, rollback, and ab, which reads what serving logs."""

import argparse
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import isthmus
from isthmus.errors import InputError
from isthmus.files import json_text

TOKEN = "ISTHMUS_TOKEN"
METRICS = "PROMETHEUS_MULTIPROC_DIR"
MOST_TIMEOUT_S, MOST_RETENTION_DAYS = 3600, 36500


def add_serving_arguments(verb: Mapping[str, argparse.ArgumentParser]) -> None:
    """The arguments of each verb, by its name."""
    _add_bundle(verb["bundle"])
    _add_serve(verb["serve"])
    verb["publish"].add_argument("bundle", type=Path, metavar="BUNDLE", help="a bundle")
    for name in ("publish", "rollback"):
        verb[name].add_argument("place", type=Path, metavar="PLACE", help="the folder that servers are given")
        _allow_changed_schema(verb[name])
    _add_ab(verb["ab"])


def run_serving_verb(given: argparse.Namespace) -> None:
    """Run the chosen verb and print what it gives."""
    match given.verb:
        case "bundle":
            _bundle(given)
        case "serve":
            _serve(given)
        case "publish":
            _publish(given)
        case "rollback":
            version = isthmus.rollback(given.place, allow_changed_schema=given.allow_changed_schema)
            print(f"{given.place}: names bundle {version} again")
        case "ab":
            _ab(given)
        case other:
            raise AssertionError(other)


def _allow_changed_schema(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--allow-changed-schema",
        action="store_true",
        help="also take a bundle to which requests may not say all that they may say now",
    )


def _publish(given: argparse.Namespace) -> None:
    from isthmus.serving.publishing import publish

    published = publish(given.bundle, given.place, allow_changed_schema=given.allow_changed_schema)
    already = " already; the one to roll back to is as it was" if published.was_named else ""
    print(f"{given.place}: names bundle {published.version}{already}")


def _add_bundle(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("out", type=Path, metavar="OUT", help="the bundle to make")
    verb.add_argument("--retrieval", type=Path, required=True, metavar="RUN", help="a run folder of retrieval")
    verb.add_argument("--ranking", type=Path, metavar="RUN", help="a run folder of a click model")
    verb.add_argument("--score-field", metavar="FIELD", help="the field of its data that takes retrieval's score")
    verb.add_argument(
        "--candidates", type=int, default=200, metavar="N", help="items that retrieval hands to it (default: 200)"
    )
    verb.add_argument("--dataset", type=Path, help="where the retrieval run's dataset lies now, if it was moved")
    verb.add_argument("--ranking-dataset", type=Path, help="the same of the click model's")
    verb.add_argument(
        "--exact-below",
        type=int,
        default=100_000,
        metavar="N",
        help="domains with fewer items are searched exactly (default: 100000)",
    )
    verb.add_argument("--no-onnx", action="store_true", help="without copies of the networks for ONNX Runtime")
    verb.add_argument(
        "--drift-rows",
        type=int,
        default=1000,
        metavar="N",
        help="training rows a domain that drift is measured from (default: 1000; 0: no drift)",
    )

    verb.add_argument(
        "--shard", type=_shard, metavar="I/N", help="of every corpus only part I of N, from 0/N; see docs/deployment.md"
    )


def _shard(text: str) -> tuple[int, int]:
    place, _, count = text.partition("/")
    if not (place.isascii() and place.isdigit() and count.isascii() and count.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is not I/N, such as 0/4")
    return int(place), int(count)


def _bundle(given: argparse.Namespace) -> None:
    manifest = isthmus.bundle(
        given.retrieval,
        given.out,
        ranking=given.ranking,
        score_field=given.score_field,
        num_candidates=given.candidates,
        dataset=given.dataset,
        ranking_dataset=given.ranking_dataset,
        exact_below=given.exact_below,
        with_onnx=not given.no_onnx,
        drift_rows=given.drift_rows,
        shard=given.shard,
    )
    size = sum(record.num_bytes for record in manifest.files.values())
    for corpus in manifest.retrieval.corpora:
        known = None if manifest.ranking is None else manifest.ranking.known_items.get(corpus.domain)
        ranked = "not ranked" if known is None else f"the ranker knows {known:.1%} of them"
        found = "" if corpus.recall is None else f" (finds {corpus.recall:.1%} of the best)"
        print(f"{corpus.domain}: {corpus.num_items:,} items, {corpus.kind} search{found}, {ranked}")
    print(f"{given.out}: bundle {manifest.version}, {size / 1e6:.1f} MB; next: isthmus serve {given.out}")


def _add_serve(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("place", type=Path, metavar="PLACE", help="a bundle, or a folder that names one; see publish")
    verb.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    verb.add_argument("--port", type=int, default=8000, help="0 takes a free one (default: 8000)")
    verb.add_argument("--workers", type=int, default=1, help="processes (default: 1)")
    verb.add_argument("--threads", type=int, default=1, help="requests computed at a time in each (default: 1)")
    verb.add_argument("--queue", type=int, default=32, help="requests that may wait in each (default: 32)")
    verb.add_argument("--timeout", type=float, default=5.0, metavar="S", help="seconds for an answer (default: 5)")
    verb.add_argument("--max-body", type=int, default=1 << 20, metavar="BYTES", help="of a request (default: 1 MiB)")
    verb.add_argument("--connections", type=int, default=800, help="that may be open in each (default: 800)")
    verb.add_argument(
        "--engine", choices=("eager", "onnx"), help="what computes the networks (default: onnx where the bundle has it)"
    )
    verb.add_argument(
        "--events", metavar="WHERE", help="keep recent events in this SQLite file, or at redis://HOST:PORT/DATABASE"
    )
    verb.add_argument("--retention", type=float, default=30.0, metavar="DAYS", help="of events (default: 30)")
    verb.add_argument(
        "--experiment", type=Path, metavar="FILE", help="divide users among the variants of this YAML file"
    )
    verb.add_argument(
        "--log-folder", type=Path, metavar="DIR", help="write what is shown, and feedback, here in Parquet"
    )
    verb.add_argument("--token", help=f"what requests must bear (default: the environment's {TOKEN}, else none)")
    _allow_changed_schema(verb)
    verb.add_argument("--no-check", action="store_true", help="open the bundle without reading every byte first")


def _serve(given: argparse.Namespace) -> None:
    for name, least in (("workers", 1), ("threads", 1), ("queue", 0), ("port", 0), ("max_body", 1), ("connections", 1)):
        if getattr(given, name) < least:
            raise InputError(f"--{name.replace('_', '-')}: {getattr(given, name)} is below {least}")
    for name, most in (("timeout", MOST_TIMEOUT_S), ("retention", MOST_RETENTION_DAYS)):
        if not 0 < getattr(given, name) <= most:
            raise InputError(f"--{name} {getattr(given, name)}: must be above 0 and at most {most}")
    shared = Path(tempfile.mkdtemp(prefix="isthmus-metrics-")) if given.workers > 1 else None
    if shared is not None:
        os.environ[METRICS] = str(shared)  # before the metrics are imported, here and in the workers
    try:
        isthmus.serve(
            given.place,
            host=given.host,
            port=given.port,
            workers=given.workers,
            token=given.token or os.environ.get(TOKEN) or None,
            events=given.events,
            retention_days=given.retention,
            num_threads=given.threads,
            queue=given.queue,
            timeout_s=given.timeout,
            max_body_bytes=given.max_body,
            connections=given.connections,
            check=not given.no_check,
            shared_metrics=shared,
            experiment=given.experiment,
            log_folder=given.log_folder,
            allow_changed_schema=given.allow_changed_schema,
            engine=given.engine,
        )
    finally:
        if shared is not None:
            shutil.rmtree(shared, ignore_errors=True)


def _add_ab(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("logs", type=Path, metavar="LOGS", help="the folder that serve --log-folder wrote")
    verb.add_argument("--experiment", metavar="NAME", help="which one, where the logs have several")
    verb.add_argument("--control", metavar="VARIANT", help="what others are compared with (default: the trial's first)")
    verb.add_argument(
        "--trial", type=Path, metavar="FILE", help="the experiment's YAML file, to check that users came in its shares"
    )
    verb.add_argument(
        "--segments", type=Path, metavar="FILE", help="users and their segments: a column user, others beside it"
    )
    verb.add_argument(
        "--revenue", choices=("click", "order"), default="click", help="what brings an item's price (default: click)"
    )
    verb.add_argument("--from", dest="start", metavar="ISO", help="the first time of impressions; UTC without a zone")
    verb.add_argument("--to", dest="end", metavar="ISO", help="the time before which impressions are")
    verb.add_argument(
        "--attribution", type=float, metavar="HOURS", help="after an impression in which its feedback counts"
    )
    verb.add_argument("--json", action="store_true", help="print JSON, not tables")


def _ab(given: argparse.Namespace) -> None:
    analysis = isthmus.ab(
        given.logs,
        experiment=given.experiment,
        control=given.control,
        trial=given.trial,
        segments=given.segments,
        revenue=given.revenue,
        start=given.start,
        end=given.end,
        attribution_h=given.attribution,
    )
    print(json_text(analysis.to_dict()) if given.json else analysis.to_markdown())

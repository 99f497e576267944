"""The command line: one verb a step of the way from logs to recommendations.

Exit codes: 0 done, 1 an audit found something wrong, 2 something the user can put right, 130 interrupted.
"""

import argparse
import errno
import os
import re
import sys
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import get_args

from pydantic import ValidationError

import isthmus
from isthmus.allocator import keep_freed_memory
from isthmus.cli_serving import add_serving_arguments, run_serving_verb
from isthmus.errors import InputError, did_you_mean
from isthmus.experiments import EXPERIMENTS
from isthmus.files import json_text, write_text
from isthmus.serving.listening import listen

VERBS = {
    "ingest": "turn a public data set's own files into a log and its declaration",
    "init": "draft the declaration (YAML) of your own log",
    "prepare": "make a dataset folder from a declared log",
    "audit": "check a dataset: intact, and nothing held out leaks into training",
    "describe": "count a dataset's users, items and rows by domain, and their overlaps",
    "train": "train a model on a dataset, in a run folder",
    "evaluate": "judge a run on held-out rows: metrics by domain, with intervals",
    "compare": "compare two runs on the same held-out rows, by paired tests",
    "tune": "search settings on validation data, with the same number of trials for any model",
    "score": "the probabilities of a file of rows, by a click model",
    "recommend": "the best items of a domain for a user, or for all users into a file",
    "bundle": "put all that serving needs into one folder",
    "serve": "answer requests from a bundle over HTTP",
    "publish": "let a serving place name a bundle, which its servers then take",
    "rollback": "let a serving place name the bundle before",
    "ab": "measure an experiment from a server's logs: CTR, PPC and RPM by variant, domain and segment",
    "reproduce": "make a published table again",
    "demo": "run everything once",
}
COMPUTING_VERBS = ("train", "evaluate", "tune", "score", "recommend", "reproduce", "demo")
EXAMPLES = {
    "ingest": "xmrec wsdm22_cup_xmrec log",
    "init": "events.parquet --out log.yaml",
    "prepare": "log.yaml dataset",
    "audit": "dataset",
    "describe": "dataset",
    "train": "dataset run --set training.epochs=3 retrieval.dropout=0.2",
    "evaluate": "run --split valid",
    "compare": "run other-run",
    "tune": "dataset out --settings base.yaml --search search.yaml",
    "score": "ranker rows.csv scored.parquet",
    "recommend": "run --domain shop --user u17 -k 20",
    "bundle": "--retrieval run --ranking ranker bundle",
    "serve": "bundle --port 8000 --events events.db",
    "publish": "bundle place",
    "rollback": "place",
    "ab": "logs --trial trial.yaml --segments users.csv",
    "reproduce": "adi-table-3 --data wsdm22_cup_xmrec --out results --quick",
    "demo": "--out demo",
}
INTERRUPTED, QUERY_INTERRUPTED = 130, "Query interrupted"  # the latter is what DuckDB makes of Ctrl-C


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; gives the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        _refuse_unknown_verb(words)
        with warnings.catch_warnings():
            warnings.showwarning = _warn
            top, verbs = parsers()
            given, unknown = top.parse_known_args(words)
            if unknown:
                raise InputError(_unknown_argument(verbs[given.verb], unknown[0]))
            return run_verb(given)
    except InputError as error:
        return _fail(str(error))
    except ValidationError as error:
        return _fail("; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()))
    except BrokenPipeError:
        # The reader of our output has left (`isthmus ... | head`): nothing more to say, also not at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        where = "" if error.filename is None else f"{error.filename}: "
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return _fail(f"{where}no space left on the disk; free some and run the same command again")
        if error.errno == errno.EFBIG:
            return _fail(f"{where}larger than files may be here (ulimit -f); allow more and run the same command again")
        return _fail(f"{where}{error.strerror or error}")
    except (KeyboardInterrupt, RuntimeError) as error:
        if isinstance(error, RuntimeError) and QUERY_INTERRUPTED not in str(error):
            raise
        _fail("interrupted")
        return INTERRUPTED


def _items(text: str) -> list[str]:
    """The ids in a list joined by commas; an id with a comma in it needs the Python function."""
    return [item.strip() for item in text.split(",") if item.strip()]


def _warn(message: Warning | str, *_: object, **__: object) -> None:
    print(f"isthmus: note: {message}", file=sys.stderr)


def parsers() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """The parser of all verbs and their arguments, and each verb's own."""
    top = argparse.ArgumentParser(
        prog="isthmus",
        description="Multi-domain recommendation, from logs to items.",
        epilog="'isthmus VERB --help' lists a verb's arguments; 'isthmus demo' shows the whole way.",
    )
    top.add_argument("--version", action="version", version=f"isthmus {version('isthmus')}")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")
    verb = {
        name: verbs.add_parser(
            name,
            help=text,
            description=text[0].upper() + text[1:],
            epilog=f"for example: isthmus {name} {EXAMPLES[name]}",
        )
        for name, text in VERBS.items()
    }

    verb["ingest"].add_argument("name", metavar="NAME", help=", ".join(isthmus.PUBLIC_DATA))
    _path(verb["ingest"], "source", "the folder with the data set's own files")
    _path(verb["ingest"], "out", "the folder to make")
    verb["ingest"].add_argument(
        "--seed", type=int, default=0, metavar="N", help="of what the data set leaves to chance (default: 0)"
    )

    verb["init"].add_argument("logs", type=Path, nargs="+", metavar="LOG", help="files of the log: Parquet, CSV or TSV")
    verb["init"].add_argument("--out", type=Path, metavar="FILE", help="write the YAML there, not to the terminal")

    _path(verb["prepare"], "log", "the declaration (YAML) of the log")
    _path(verb["prepare"], "out", "the dataset folder to make")
    _path(verb["audit"], "dataset", "a dataset folder")
    _path(verb["describe"], "dataset", "a dataset folder")

    _path(verb["train"], "dataset", "a dataset folder")
    _path(verb["train"], "run", "the run folder: new, or one to go on with")
    verb["train"].add_argument(
        "--settings", type=Path, metavar="FILE", help="settings (YAML); without it, the defaults"
    )
    verb["train"].add_argument(
        "--set",
        dest="overrides",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="single settings, such as training.epochs=3",
    )
    verb["train"].add_argument(
        "--task", choices=("retrieval", "ranking"), default="retrieval", help="whose defaults, without --settings"
    )
    _device(verb["train"])
    verb["train"].add_argument("--quiet", action="store_true", help="no progress bar")

    _path(verb["evaluate"], "run", "a run folder")
    _split(verb["evaluate"])
    _dataset(verb["evaluate"])
    _device(verb["evaluate"])
    _json(verb["evaluate"])

    _path(verb["compare"], "a", "a run folder, or a result file of one")
    _path(verb["compare"], "b", "another")
    _split(verb["compare"])
    _dataset(verb["compare"])
    _device(verb["compare"])
    _json(verb["compare"])

    _path(verb["tune"], "dataset", "a dataset folder")
    _path(verb["tune"], "out", "the folder for trials and the best settings")
    verb["tune"].add_argument(
        "--settings", type=Path, metavar="FILE", required=True, help="what is not searched (YAML)"
    )
    verb["tune"].add_argument("--search", type=Path, metavar="FILE", required=True, help="what is searched (YAML)")

    _path(verb["score"], "run", "a run folder of a click model")
    _path(verb["score"], "rows", "the rows: Parquet, CSV or TSV with the log's columns")
    _path(verb["score"], "out", "the Parquet file to write")
    _dataset(verb["score"])
    _device(verb["score"])

    _path(verb["recommend"], "run", "a run folder")
    verb["recommend"].add_argument("--domain", metavar="NAME", help="a declared domain; needed save with --all")
    who = verb["recommend"].add_mutually_exclusive_group()
    who.add_argument("--user", metavar="ID", help="the id of a user")
    who.add_argument(
        "--history", type=_items, metavar="ITEM,ITEM", help="ids of items, the latest last, in place of a user"
    )
    who.add_argument("--all", action="store_true", help="every user whom the model knows something of")
    verb["recommend"].add_argument("-k", type=int, default=10, help="how many items (default: 10)")
    verb["recommend"].add_argument("--out", type=Path, metavar="FILE", help="with --all: the Parquet file to write")
    _dataset(verb["recommend"])
    _device(verb["recommend"])
    _json(verb["recommend"])

    add_serving_arguments(verb)

    reproduce = verb["reproduce"]
    reproduce.add_argument("name", metavar="NAME", help=", ".join(EXPERIMENTS))
    reproduce.add_argument("--data", type=Path, required=True, metavar="DIR", help="the data set's own files")
    reproduce.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder to write to")
    reproduce.add_argument("--seeds", type=int, default=3, metavar="N", help="how many seeds (default: 3)")
    reproduce.add_argument("--quick", action="store_true", help="one seed of the main rows")
    trials = "of each ranking row's search (default: 8); 0: the declared settings"
    reproduce.add_argument("--trials", type=int, metavar="N", help=trials)
    method = "of cdanet-table-2: only this method and the control; may be given again"
    reproduce.add_argument("--method", action="append", metavar="NAME", help=method)

    verb["demo"].add_argument(
        "--data", type=Path, metavar="DIR", help="a folder of public data sets; without it, simulated data only"
    )
    verb["demo"].add_argument(
        "--serve", type=int, metavar="PORT", help="at the end serve what was made on this port of this machine"
    )
    verb["demo"].add_argument(
        "--out", type=Path, default=Path("demo"), metavar="DIR", help="the folder to write to (default: demo)"
    )
    return top, verb


def run_verb(given: argparse.Namespace) -> int:
    """Run the chosen verb and print what it gives."""
    if given.verb in COMPUTING_VERBS:
        keep_freed_memory()
    match given.verb:
        case "ingest":
            log = isthmus.ingest(given.name, given.source, given.out, seed=given.seed)
            print(f"{log}: written; next: isthmus prepare {log} DATASET")
        case "init":
            _init(given.logs, given.out)
        case "prepare":
            dataset = isthmus.prepare(given.log, given.out)
            print(isthmus.describe(dataset.path).to_markdown())
            print(f"\n{given.out}: prepared; next: isthmus train {given.out} RUN")
        case "audit":
            findings = isthmus.audit(given.dataset)
            for finding in findings:
                print(f"{'ok   ' if finding.ok else 'WRONG'}  {finding.check}: {finding.detail}")
            return 0 if all(finding.ok for finding in findings) else 1
        case "describe":
            print(isthmus.describe(given.dataset).to_markdown())
        case "train":
            _train(given)
            print(f"{given.run}: see {given.run / 'report.md'}; next: isthmus evaluate {given.run}")
        case "evaluate":
            summary = isthmus.evaluate(given.run, given.split, dataset=given.dataset, device=given.device)
            print(json_text(summary.to_dict()) if given.json else summary.to_markdown())
        case "compare":
            comparison = isthmus.compare(given.a, given.b, given.split, dataset=given.dataset, device=given.device)
            print(json_text(comparison.to_dict()) if given.json else comparison.to_markdown())
        case "tune":
            isthmus.tune(given.dataset, given.out, given.settings, given.search)
            print(f"next: isthmus train {given.dataset} RUN --settings {given.out / 'best.yaml'}")
        case "score":
            _require_parquet(given.out)
            num_rows = isthmus.score(given.run, given.rows, given.out, dataset=given.dataset, device=given.device)
            print(f"{given.out}: {num_rows} rows written")
        case "recommend":
            _recommend(given)
        case "bundle" | "serve" | "publish" | "rollback" | "ab":
            run_serving_verb(given)
        case "reproduce":
            report = isthmus.reproduce(
                given.name,
                given.data,
                given.out,
                num_seeds=given.seeds,
                quick=given.quick,
                trials=given.trials,
                methods=given.method,
            )
            print(f"{report}: written")
        case "demo":
            _demo(given)
        case other:
            raise AssertionError(other)
    return 0


def _demo(given: argparse.Namespace) -> None:
    if given.serve is not None:
        listen("127.0.0.1", given.serve).close()  # before minutes of work whose end it would be
    bundle = isthmus.demo(given.data, given.out)
    if given.serve is not None:
        say = "\nthe page is at {} until Ctrl-C stops it\n"
        isthmus.serve(bundle, port=given.serve, on_listening=lambda address: print(say.format(address), flush=True))


def _init(logs: list[Path], out: Path | None) -> None:
    if out is not None and out.exists():
        raise InputError(f"{out}: exists already; give another path or move it away")
    text, doubts = isthmus.init(logs)
    for doubt in doubts:
        print(f"isthmus: check: {doubt}", file=sys.stderr)
    if out is None:
        print(text, end="")
        return
    write_text(out, text)
    print(f"{out}: written; read it, then: isthmus prepare {out} DATASET")


def _train(given: argparse.Namespace) -> None:
    from isthmus.api import train
    from isthmus.settings import RankingRunSettings, read_any_settings

    settings = read_any_settings(given.settings, given.overrides, task=given.task)
    if given.settings is not None and given.task == "ranking" and not isinstance(settings, RankingRunSettings):
        raise InputError(f"{given.settings}: holds settings of retrieval; leave --task out")
    show_progress = not given.quiet and sys.stderr.isatty()
    train(given.dataset, given.run, settings, device=given.device, show_progress=show_progress)


def _recommend(given: argparse.Namespace) -> None:
    if given.all and given.out is None:
        raise InputError("recommend --all: say with --out FILE where the Parquet file goes")
    if given.all:
        _require_parquet(given.out)
    run = isthmus.open_run(given.run, dataset=given.dataset, device=given.device)
    if given.all:
        num_rows = run.recommend_all(given.out, k=given.k, domain=given.domain)
        print(f"{given.out}: {num_rows} rows written")
        return
    if given.out is not None:
        raise InputError("recommend --out: is only for --all; one answer goes to the terminal")
    names = run.dataset.schema.domain_names
    if given.domain is None:
        raise InputError(f"recommend: say with --domain which domain; declared are {', '.join(names)}")
    answer = run.recommend(given.domain, user=given.user, history=given.history, k=given.k)
    if given.json:
        print(json_text(answer.to_dict()))
        return
    print(f"domain {answer.domain}, by {answer.basis}")
    if answer.unknown_items:
        print(f"left out of the history, not known: {', '.join(answer.unknown_items)}")
    width = max((len(item.item) for item in answer.items), default=0)
    for rank, item in enumerate(answer.items, start=1):
        print(f"{rank:4}  {item.item:{width}}  {item.score:9.4f}  {item.title or ''}".rstrip())


def _path(verb: argparse.ArgumentParser, name: str, text: str) -> None:
    verb.add_argument(name, type=Path, metavar=name.upper(), help=text)


def _split(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--split", default="test", help="test (the default) or valid")


def _dataset(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--dataset", type=Path, metavar="DIR", help="where the run's dataset lies now, if it was moved")


def _device(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--device", choices=get_args(isthmus.Device), default="auto", help="default: auto")


def _json(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--json", action="store_true", help="print JSON, not a table")


def _require_parquet(out: Path) -> None:
    """Refuses a name from which other programs would read the file as something else."""
    if out.suffix not in (".parquet", ".pq"):
        raise InputError(f"{out}: is written as Parquet; let its name end in .parquet")


def _unknown_argument(verb: argparse.ArgumentParser, word: str) -> str:
    """What is wrong with a word that no argument of the verb takes, and what may be meant."""
    name = verb.prog.split()[-1]
    if not word.startswith("-"):
        return f"{name}: {word!r}: one argument too many; see {verb.prog} --help"
    option = word.partition("=")[0]
    known = sorted(set(re.findall(r"--[a-z-]+", verb.format_usage())))
    return f"{name}: {option}: unknown option{did_you_mean(option, known) or '; known are ' + ', '.join(known)}"


def _refuse_unknown_verb(words: Sequence[str]) -> None:
    if words and not words[0].startswith("-") and words[0] not in VERBS:
        hint = did_you_mean(words[0], VERBS) or f"; known are {', '.join(VERBS)}"
        raise InputError(f"{words[0]}: unknown verb{hint}")


def _fail(message: str) -> int:
    print(f"isthmus: {message}", file=sys.stderr)
    return 2

"""An experiment's output folder: of one data set, and a problem's dataset prepared in it once."""

import json
from collections.abc import Callable
from pathlib import Path

from isthmus.data.prepare import prepare
from isthmus.errors import InputError
from isthmus.files import json_text, write_text

DATA = "data.json"


def keep_to_one_data_set(data: Path, out: Path) -> None:
    """Note in `out` which files its results are of; names of datasets, searches and rows do not say it.

    Raises:
        InputError: `out` holds results of other files.
    """
    own = out.resolve()  # which may lie within the data's folder
    files = {
        str(file.relative_to(data)): file.stat().st_size
        for file in sorted(data.rglob("*"))
        if file.is_file() and own not in file.resolve().parents
    }
    if not files:
        return  # the experiment says which files it needs
    note = out / DATA
    has_results = note.is_file() and any(other.name != DATA for other in out.iterdir())
    if has_results and json.loads(note.read_text(encoding="utf-8"))["files"] != files:
        raise InputError(f"{out}: holds results of other files than those of {data}; give another --out")
    if not has_results:
        write_text(note, json_text({"files": files}) + "\n")


def kept_dataset(out: Path, name: str, write_log: Callable[[Path], Path], say: Callable[[str], None]) -> Path:
    """`out`/datasets/`name`, prepared unless it is there.

    Args:
        write_log: writes a log to a folder, here `out`/logs/`name`, and gives the path of its declaration.
    """
    folder = out / "datasets" / name
    if not folder.is_dir():
        say(f"preparing {name}")
        log = out / "logs" / name
        log.parent.mkdir(parents=True, exist_ok=True)
        prepare(write_log(log), folder)
    return folder

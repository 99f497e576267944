"""A problem's dataset, prepared once in the output folder of its experiment."""

from collections.abc import Callable
from pathlib import Path

from isthmus.data.prepare import prepare


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

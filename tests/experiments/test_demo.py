from pathlib import Path

import pytest

from isthmus.errors import InputError
from isthmus.experiments.demo import demo


def test_a_data_folder_that_is_not_there_is_refused_and_never_replaced_by_generated_data(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none: no such folder"):
        demo(tmp_path / "none", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_without_real_data_the_demo_generates_trains_compares_and_recommends(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    demo(None, tmp_path / "out")
    printed = capsys.readouterr().out
    for text in (
        "three domains are generated",
        "audit:",
        "| ADI |",
        "popularity of the domain",
        "user history",
        "POST /v1/recommend",
        '"ordered_by": "click_probability"',
    ):
        assert text in printed
    assert (tmp_path / "out" / "table.png").is_file()

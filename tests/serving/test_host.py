"""What serves while other bundles come: whole, in pieces, damaged, or written over it."""

import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.serving.bundles import new_bundle

from isthmus.data.dataset import Dataset
from isthmus.serving.host import Host
from isthmus.serving.publishing import publish
from isthmus.serving.service import open_service


@pytest.fixture(scope="module")
def bundles(tiny_dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("host")
    new_bundle(folder / "first", tiny_dataset)
    new_bundle(folder / "second", tiny_dataset, exact_below=10)
    return folder / "first", folder / "second"


class Watched:
    """A host of a copy, what it tells, and a clock that goes by hand."""

    def __init__(self, bundle: Path, live: Path, caplog: pytest.LogCaptureFixture) -> None:
        self.now, self.live, self.swaps, self.caplog = 0.0, Path(shutil.copytree(bundle, live)), list[str](), caplog
        self.host = Host(live, timer=lambda: self.now)
        self.host.on_swap = self.swaps.append
        caplog.clear()

    def told(self) -> list[tuple[str, dict[str, Any]]]:
        found = [(record.message, record.__dict__["fields"]) for record in self.caplog.records]
        self.caplog.clear()
        return found


@pytest.fixture
def watched(bundles: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Watched:
    caplog.set_level(logging.INFO, "isthmus.serving")
    return Watched(bundles[0], tmp_path / "live", caplog)


def test_a_bundle_that_comes_in_pieces_is_taken_once_it_is_complete(
    watched: Watched, bundles: tuple[Path, Path]
) -> None:
    source = bundles[1]
    names = sorted(file.relative_to(source) for file in source.rglob("*") if file.is_file())
    names.sort(key=lambda name: name.name != "manifest.json" or len(name.parts) > 1)  # the manifest first
    watched.live.rename(watched.live.with_name("moved"))
    for name in names:
        (watched.live / name).parent.mkdir(parents=True, exist_ok=True)
        content = (source / name).read_bytes()
        (watched.live / name).write_bytes(content[: len(content) // 2])
        assert not watched.host.refresh()
        (watched.live / name).write_bytes(content)
        watched.now += 1.0
        taken = watched.host.refresh()
        assert taken == (name == names[-1])
    messages = watched.told()
    incomplete = [fields["error"] for _, fields in messages if "incomplete" in fields.get("error", "")]
    assert len(incomplete) == 1
    assert "taken once it is complete" in incomplete[0]
    assert [message for message, _ in messages][-1] == "bundle taken"
    assert watched.swaps[-1] == "taken"
    assert len(names) > 10


def test_a_damaged_bundle_is_tried_again_when_it_has_changed_and_not_at_every_look(
    watched: Watched, bundles: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts, plain = list[float](), open_service

    def counted(*arguments: Any, **options: Any) -> Any:
        attempts.append(watched.now)
        return plain(*arguments, **options)

    monkeypatch.setattr("isthmus.serving.host.open_service", counted)
    watched.live.rename(watched.live.with_name("moved"))
    shutil.copytree(bundles[1], watched.live)
    tensors = watched.live / "retrieval" / "user.safetensors"
    good = tensors.read_bytes()
    for second in range(20):  # as long as it was, with other bytes at each look
        watched.now = float(second)
        tensors.write_bytes(bytes([second]) + good[1:])
        os.utime(tensors, ns=(second, second))
        assert not watched.host.refresh()
    assert attempts == [0.0, 1.0, 3.0, 7.0, 15.0]
    assert watched.swaps == ["refused"]
    watched.now = 1000.0
    assert not watched.host.refresh()
    assert not watched.host.refresh()
    assert attempts[5:] == [1000.0]  # it has not changed since
    tensors.write_bytes(good)
    watched.now = 1100.0
    assert watched.host.refresh()
    assert watched.swaps == ["refused", "taken"]


@pytest.mark.parametrize("error", [MemoryError("no room"), RuntimeError("two\nlines"), OSError(24, "too many files")])
def test_whatever_fails_in_opening_is_a_refusal_and_may_go_well_later(
    watched: Watched, bundles: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    version, plain = watched.host.service.manifest.version, open_service

    def fail(*_: Any, **__: Any) -> Any:
        raise error

    watched.live.rename(watched.live.with_name("moved"))
    shutil.copytree(bundles[1], watched.live)
    monkeypatch.setattr("isthmus.serving.host.open_service", fail)
    for _ in range(3):
        watched.now += 100.0
        assert not watched.host.refresh()
    assert watched.host.service.manifest.version == version
    assert watched.swaps == ["refused"]
    ((message, fields),) = watched.told()
    assert message == "bundle refused"
    assert fields["error"].startswith(type(error).__name__)
    assert "\n" not in fields["error"]
    monkeypatch.setattr("isthmus.serving.host.open_service", plain)
    watched.now += 100.0
    assert watched.host.refresh()


def test_another_bundle_that_is_named_need_not_wait_for_one_that_was_refused(
    bundles: tuple[Path, Path], tmp_path: Path
) -> None:
    place, bad = tmp_path / "place", Path(shutil.copytree(bundles[1], tmp_path / "bad"))
    publish(bundles[0], place)
    host, swaps = Host(place, timer=lambda: 0.0), list[str]()
    host.on_swap = swaps.append
    publish(bad, place)
    overwrite(bad / "retrieval" / "user.safetensors")
    assert not host.refresh()
    publish(bundles[1], place)
    assert host.refresh()
    assert swaps == ["refused", "taken"]


def overwrite(file: Path) -> None:
    with file.open("r+b") as opened:
        opened.write(b"x")
    os.utime(file, ns=(1, 1))


def replace(file: Path) -> None:
    shutil.copyfile(file, file.with_suffix(".new"))
    file.with_suffix(".new").rename(file)


@pytest.mark.parametrize(("change", "is_told"), [(overwrite, True), (replace, False)])
def test_files_of_the_bundle_that_serves_are_told_of_when_they_are_written_into(
    watched: Watched, change: Callable[[Path], None], is_told: bool
) -> None:
    assert not watched.host.refresh()
    change(watched.live / "retrieval" / "user.safetensors")
    for _ in range(3):
        assert not watched.host.refresh()
    told = watched.told()
    assert len(told) == int(is_told)
    if is_told:
        assert "changed in place" in told[0][0]
        assert told[0][1]["files"] == ["retrieval/user.safetensors"]
        assert json.dumps(told[0][1])


def test_a_bundle_that_stays_away_is_told_of_once_and_one_that_is_being_replaced_is_not(watched: Watched) -> None:
    moved = watched.live.with_name("moved")
    for _ in range(2):
        watched.live.rename(moved)
        for _ in range(4):
            assert not watched.host.refresh()
            watched.now += 1.0
        assert watched.told() == []
        for _ in range(4):
            watched.now += 1.0
            assert not watched.host.refresh()
        ((message, fields),) = watched.told()
        assert message == "bundle refused"
        assert "not a bundle (no manifest.json)" in fields["error"]
        moved.rename(watched.live)
        assert not watched.host.refresh()
    assert watched.swaps == ["refused"] * 2

"""What a place names: another bundle, the same one again, one to which requests may not say what they say now."""

import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic, sleep

import pytest
import yaml
from tests.serving.bundles import PERSONAL, new_bundle
from tests.serving.clients import client

from isthmus.abtest.assignment import Experiment, Variant
from isthmus.cli import main
from isthmus.data.dataset import Dataset
from isthmus.data.prepare import prepare
from isthmus.errors import InputError
from isthmus.serving.answerable import answerable
from isthmus.serving.app import new_app
from isthmus.serving.bundle_files import Shard, read_manifest
from isthmus.serving.host import Host
from isthmus.serving.publishing import publish, rollback
from isthmus.serving.serve_settings import ServeSettings

LESS = "context.where (text), filters.price (number) in news, filters.price (number) in shop, "


@pytest.fixture(scope="module")
def more(tiny_log: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that reads a context field."""
    folder = tmp_path_factory.mktemp("more")
    log = Path(shutil.copytree(tiny_log.parent, folder / "log")) / "log.yaml"
    declared = yaml.safe_load(log.read_text())
    declared["fields"].append({"name": "where", "side": "context", "kind": "categorical", "column": "domain"})
    log.write_text(yaml.safe_dump(declared))
    new_bundle(folder / "bundle", prepare(log, folder / "dataset"))
    return folder / "bundle"


@pytest.fixture(scope="module")
def less(tiny_log: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the same domains whose items have no price, and that reads no history."""
    folder = tmp_path_factory.mktemp("less")
    log = Path(shutil.copytree(tiny_log.parent, folder / "log")) / "log.yaml"
    declared = yaml.safe_load(log.read_text())
    declared["fields"] = [field for field in declared["fields"] if field["name"] != "price"]
    log.write_text(yaml.safe_dump(declared))
    settings = PERSONAL.model_copy(update={"fields": ("user_id", "item_id")})
    new_bundle(folder / "bundle", prepare(log, folder / "dataset"), settings=settings)
    return folder / "bundle"


@pytest.fixture(scope="module")
def plain(tiny_dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plain") / "bundle"
    new_bundle(folder, tiny_dataset)
    return folder


@pytest.fixture
def two(plain: Path, labelled: Dataset, tiny_dataset: Dataset, tmp_path: Path) -> tuple[Path, Path]:
    """Two bundles to which requests may say the same."""
    new_bundle(tmp_path / "second", tiny_dataset, labelled, domains=("shop",))
    return Path(shutil.copytree(plain, tmp_path / "first")), tmp_path / "second"


def named(place: Path) -> tuple[str, str | None]:
    content = json.loads((place / "current.json").read_text())
    return content["bundle"], content["previous"]


def test_what_requests_may_say_to_a_bundle(more: Path, less: Path) -> None:
    domains = {"domain shop", "domain video", "domain news", "the whole of every corpus"}
    by_category = {f"filters.category (text) in {name}" for name in ("shop", "video", "news")}
    by_price = {f"filters.price (number) in {name}" for name in ("shop", "video", "news")}
    said = answerable(more, read_manifest(more))
    assert said == domains | by_category | by_price | {"context.where (text)", "history"}
    assert answerable(less, read_manifest(less)) == domains | by_category


def test_a_shard_does_not_take_the_place_of_another_or_of_the_whole(
    plain: Path, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    for place in range(2):
        new_bundle(tmp_path / f"shard-{place}", tiny_dataset, shard=Shard(place=place, count=2))
    publish(tmp_path / "shard-0", tmp_path / "place")
    with pytest.raises(InputError, match="cannot answer what requests may say now: shard 0 of 2"):
        publish(tmp_path / "shard-1", tmp_path / "place")
    with pytest.raises(InputError, match="now: shard 0 of 2"):
        publish(plain, tmp_path / "place")


def test_the_same_bundle_again_leaves_the_previous_one(two: tuple[Path, Path], tmp_path: Path) -> None:
    first, second = two
    place = tmp_path / "place"
    assert not publish(first, place).was_named
    assert publish(first, place).was_named
    assert named(place) == ("../first", None)
    publish(second, place)
    before = (place / "current.json").read_bytes()
    assert publish(second, place).was_named
    assert (place / "current.json").read_bytes() == before
    copy = Path(shutil.copytree(second, tmp_path / "copy"))
    assert publish(copy, place).was_named  # which may stand elsewhere from now on
    assert named(place) == ("../copy", "../first")
    assert rollback(place) == read_manifest(first).version
    assert named(place) == ("../first", "../copy")


def test_a_bundle_that_was_replaced_at_its_path_leaves_the_previous_one(
    two: tuple[Path, Path], tiny_dataset: Dataset, tmp_path: Path
) -> None:
    first, second = two
    place = tmp_path / "place"
    publish(first, place)
    publish(second, place)
    shutil.rmtree(second)
    third = new_bundle(second, tiny_dataset, exact_below=10)
    published = publish(second, place)
    assert (published.version, published.was_named) == (third.version, False)
    assert named(place) == ("../second", "../first")


def test_publishing_again_is_said(two: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for said in ("", "already"):
        assert main(["publish", str(two[0]), str(tmp_path / "place")]) == 0
        assert said in capsys.readouterr().out


def test_those_who_publish_at_once_leave_a_pointer_that_names_two_bundles(
    two: tuple[Path, Path], tmp_path: Path
) -> None:
    place = tmp_path / "place"
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda n: publish(two[n % 2], place), range(40)))
    assert set(named(place)) == {"../first", "../second"}


def test_a_bundle_to_which_less_may_be_said_is_refused_unless_it_is_meant(
    more: Path, less: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = str(tmp_path / "place")
    assert main(["publish", str(less), place]) == 0
    assert main(["publish", str(more), place]) == 0  # more may be said
    for arguments in (["publish", str(less), place], ["rollback", place]):
        before = named(tmp_path / "place")
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert f"cannot answer what requests may say now: {LESS}" in error
        assert "history" in error
        assert named(tmp_path / "place") == before
        assert main([*arguments, "--allow-changed-schema"]) == 0
        assert main(["publish", str(more), place]) == 0


def test_a_present_bundle_that_was_deleted_is_compared_all_the_same(more: Path, less: Path, tmp_path: Path) -> None:
    place, copy = tmp_path / "place", Path(shutil.copytree(more, tmp_path / "more"))
    publish(copy, place)
    shutil.rmtree(copy)
    with pytest.raises(InputError, match="cannot answer what requests may say now"):
        publish(less, place)


def test_a_pointer_of_the_version_before_is_read(more: Path, less: Path, tmp_path: Path) -> None:
    place = tmp_path / "place"
    publish(more, place)
    (place / "current.json").write_text(json.dumps({"bundle": named(place)[0], "previous": None}))
    with pytest.raises(InputError, match="cannot answer what requests may say now"):
        publish(less, place)
    assert publish(more, place).was_named


def test_a_server_takes_what_is_meant_and_refuses_what_was_put_there(more: Path, less: Path, tmp_path: Path) -> None:
    place, swaps = tmp_path / "place", list[str]()
    live = Path(shutil.copytree(more, tmp_path / "live"))
    publish(live, place)
    host = Host(place)
    host.on_swap = swaps.append
    live.rename(tmp_path / "moved")
    shutil.copytree(less, live)  # at the path that the pointer names, without publishing it
    assert not host.refresh()
    publish(live, place, allow_changed_schema=True)
    assert host.refresh()
    assert swaps == ["refused", "taken"]
    assert host.service.manifest.version == read_manifest(less).version
    assert "history" not in host.answers


def experiment(bundle: Path) -> Experiment:
    variants = (Variant(name="a", share=0.5), Variant(name="b", share=0.5, bundle=bundle))
    return Experiment(name="trial", variants=variants)


def test_a_variant_to_which_less_may_be_said_is_refused_unless_it_is_meant(more: Path, less: Path) -> None:
    with pytest.raises(InputError, match=r"cannot answer what requests may say now: context\.where"):
        new_app(ServeSettings(more, experiment=experiment(less)))
    new_app(ServeSettings(less, experiment=experiment(more)))
    new_app(ServeSettings(more, experiment=experiment(less), allow_changed_schema=True))


def test_a_variant_must_go_on_to_answer_what_the_main_bundle_does(more: Path, less: Path, tmp_path: Path) -> None:
    live = Path(shutil.copytree(more, tmp_path / "live"))
    least: Callable[[], frozenset[str]] = Host(more).answers.copy
    variant = Host(live, least=least)
    live.rename(tmp_path / "moved")
    shutil.copytree(less, live)
    assert not variant.refresh()


def test_a_main_bundle_to_which_more_may_be_said_than_to_a_variant_waits_for_it(
    more: Path, less: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    now = 0.0
    for place in ("main", "variant"):
        publish(less, tmp_path / place)
    variant = Host(tmp_path / "variant")
    host = Host(tmp_path / "main", variants=lambda: (variant,), timer=lambda: now)
    publish(more, tmp_path / "main")
    assert not host.refresh()
    told = str([record.__dict__.get("fields") for record in caplog.records])
    assert "context.where (text)" in told
    assert str(tmp_path / "variant") in told
    publish(more, tmp_path / "variant")
    assert variant.refresh()
    now = 1.5  # it is tried again though nothing of it has changed
    assert host.refresh()
    assert host.service.manifest.version == variant.service.manifest.version


def test_a_service_takes_its_main_bundle_after_its_variants(more: Path, less: Path, tmp_path: Path) -> None:
    for place in ("main", "variant"):
        publish(less, tmp_path / place)
    trial, version = experiment(tmp_path / "variant"), read_manifest(more).version
    with client(tmp_path / "main", experiment=trial, poll_s=0.02) as opened:
        publish(more, tmp_path / "main")
        refused = 'isthmus_bundle_swaps_total{outcome="refused",variant=""} 1.0'
        wait_for(lambda: refused in opened.get("/metrics").text)
        assert opened.get("/readyz").json()["bundle"] != version
        publish(more, tmp_path / "variant")
        wait_for(lambda: opened.get("/readyz").json()["bundle"] == version)
        for number in range(20):
            asked = {"domain": "shop", "user": f"u{number}", "context": {"where": "shop"}}
            assert opened.post("/v1/recommend", json=asked).status_code == 200


def wait_for(condition: Callable[[], bool]) -> None:
    ends = monotonic() + 20
    while not condition():
        assert monotonic() < ends
        sleep(0.02)

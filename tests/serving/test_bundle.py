"""A bundle is complete in itself, whole or not there, and refused where anything in it is not as it was written."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from tests.serving.bundles import new_bundle
from torch import nn

import isthmus
from isthmus.data.dataset import Dataset
from isthmus.errors import InputError
from isthmus.index.exact import ExactIndex
from isthmus.index.faiss_ivf import IVFIndex
from isthmus.models.two_tower import TwoTowerSettings
from isthmus.serving.bundle import index_for
from isthmus.serving.bundle_files import Manifest, load_tensors, load_weights, save_tensors
from isthmus.serving.index_settings import ExactIndexSettings, HNSWIndexSettings, IVFIndexSettings
from isthmus.serving.indexes import build_index
from isthmus.serving.requests import RecommendRequest
from isthmus.serving.service import open_service


@pytest.fixture(scope="module")
def whole(tiny_dataset: Dataset, labelled: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of two datasets; copy it before changing anything."""
    folder = tmp_path_factory.mktemp("whole") / "bundle"
    new_bundle(folder, tiny_dataset, labelled)
    return folder


def refused(folder: Path) -> str:
    with pytest.raises(InputError) as raised:
        open_service(folder)
    return str(raised.value)


def manifest_of(folder: Path) -> Manifest:
    return Manifest.model_validate_json((folder / "manifest.json").read_text())


def test_every_file_is_named_with_its_checksum_and_nothing_is_pickled(whole: Path) -> None:
    present = {file.relative_to(whole).as_posix() for file in whole.rglob("*") if file.is_file()}
    assert present == {*manifest_of(whole).files, "manifest.json"}
    assert {Path(name).suffix for name in present} <= {".json", ".npy", ".parquet", ".arrow", ".safetensors"}
    assert len(present) > 30


def test_a_flipped_byte_of_any_file_is_found(whole: Path, tmp_path: Path) -> None:
    names = ["manifest.json", *manifest_of(whole).files]
    num_refused = 0
    for number, name in enumerate(names):
        folder = Path(shutil.copytree(whole, tmp_path / str(number)))
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 1
        (folder / name).write_bytes(content)
        message = refused(folder)
        assert "damaged" in message or "checksum" in message, name
        assert name in message
        shutil.rmtree(folder)
        num_refused += 1
    assert num_refused == len(names) > 30


def test_a_manifest_that_was_edited_is_refused(whole: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "copy"))
    text = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text(text.replace('"num_candidates": 15', '"num_candidates": 16'))
    assert "its content has not the checksum that it states" in refused(folder)


@pytest.mark.parametrize("name", ["retrieval/user.safetensors", "ranking/data/manifest.json"])
def test_a_truncated_or_missing_file_is_named(whole: Path, tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "copy"))
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:-1])
    assert f"has {len(content) - 1} bytes, {len(content)} were written" in refused(folder)
    (folder / name).unlink()
    assert f"{name}: missing; the bundle is incomplete" in refused(folder)


def test_another_folder_is_no_bundle(tiny_dataset: Dataset, whole: Path, tmp_path: Path) -> None:
    assert "not a bundle (no manifest.json)" in refused(tmp_path)
    assert "manifest.json is of something else" in refused(tiny_dataset.path)
    for content, message in (("[]", "of something else"), ("{", "damaged"), ("\x00", "damaged")):
        (tmp_path / "manifest.json").write_text(content)
        assert message in refused(tmp_path)
    manifest = json.loads((whole / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps({**manifest, "format": 9}))
    assert "format 9, this version reads 2" in refused(tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps({**manifest, "domains": None}))
    assert "damaged (domains:" in refused(tmp_path)


def test_a_bundle_serves_where_dataset_and_runs_are_gone(
    tiny_dataset: Dataset, labelled: Dataset, tmp_path: Path
) -> None:
    retrieval = Dataset.open(Path(shutil.copytree(tiny_dataset.path, tmp_path / "retrieval")))
    ranking = Dataset.open(Path(shutil.copytree(labelled.path, tmp_path / "ranking")))
    new_bundle(tmp_path / "bundle", retrieval, ranking)
    before = open_service(tmp_path / "bundle").recommend(RecommendRequest("shop", user="u3"))
    (tmp_path / "bundle").rename(tmp_path / "elsewhere")
    shutil.rmtree(retrieval.path)
    shutil.rmtree(ranking.path)
    after = open_service(tmp_path / "elsewhere").recommend(RecommendRequest("shop", user="u3"))
    assert after.items == before.items
    assert len(after.items) == 10


def test_the_log_itself_is_not_in_the_bundle(whole: Path) -> None:
    for data in ("retrieval/data", "ranking/data"):
        dataset = Dataset.open(whole / data)
        assert [events.num_rows for events in dataset.events.values()] == [0, 0, 0]
    assert dataset.impressions is not None
    assert [rows.num_rows for rows in dataset.impressions.values()] == [0, 0, 0]


def test_a_runs_own_graph_is_stored_and_serves(tiny_dataset: Dataset, tmp_path: Path) -> None:
    manifest = new_bundle(tmp_path / "bundle", tiny_dataset, index=HNSWIndexSettings(), exact_below=5)
    assert {record.kind for record in manifest.retrieval.corpora} == {"hnsw"}
    assert "retrieval/corpus/0/graph.faiss" in manifest.files
    new_bundle(tmp_path / "exact", tiny_dataset)
    asked = RecommendRequest("shop", user="u3", k=1000, exclude=("i1",))
    found, exact = (open_service(tmp_path / name).recommend(asked) for name in ("bundle", "exact"))
    assert [item.item for item in found.items] == [item.item for item in exact.items]


def test_runs_of_one_dataset_share_its_folder(labelled: Dataset, tmp_path: Path) -> None:
    manifest = new_bundle(tmp_path / "bundle", labelled, labelled)
    assert manifest.ranking is not None
    assert manifest.ranking.data == manifest.retrieval.data
    assert not (tmp_path / "bundle" / "ranking" / "data").exists()
    assert manifest.ranking.known_items == {"shop": 1.0, "video": 1.0, "news": 1.0}
    assert open_service(tmp_path / "bundle").recommend(RecommendRequest("shop", user="u3")).items


def test_a_ranker_that_shares_nothing_is_refused(tiny_dataset: Dataset, labelled: Dataset, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    with pytest.raises(InputError, match="give runs that share a domain"):
        new_bundle(out, tiny_dataset, labelled, domains=("elsewhere",))
    with pytest.raises(InputError, match=r"'score' is no number field of side 'row'.*it has none"):
        new_bundle(out, tiny_dataset, labelled, score_field="score")
    assert not out.exists()


def test_a_bundle_replaces_a_bundle_and_nothing_else(tiny_dataset: Dataset, tmp_path: Path) -> None:
    first = new_bundle(tmp_path / "bundle", tiny_dataset)
    second = new_bundle(tmp_path / "bundle", tiny_dataset, settings=TwoTowerSettings(embedding_dim=4))
    assert first.version != second.version
    assert open_service(tmp_path / "bundle").manifest == second
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("keep")
    with pytest.raises(InputError, match="not an output of this command"):
        new_bundle(tmp_path / "notes", tiny_dataset)
    assert {entry.name for entry in tmp_path.iterdir()} == {"bundle", "bundle.pt", "notes", "notes.pt"}


def test_a_runs_index_is_kept_and_a_large_exact_one_is_not() -> None:
    graph = HNSWIndexSettings()
    assert index_for(graph, 9_999, 10_000) == ExactIndexSettings()
    assert index_for(graph, 10_000, 10_000) == graph
    assert index_for(IVFIndexSettings(num_lists=256), 200, 100) == ExactIndexSettings()
    # 4 lists for each of sqrt(10,000) = 100, one in eight read
    assert index_for(ExactIndexSettings(), 10_000, 10_000) == IVFIndexSettings(
        num_lists=400, num_probes=50, eight_bits=True
    )


@pytest.mark.parametrize("num_items", [1, 13, 14, 16, 100])
def test_a_domain_of_fewer_items_than_lists_is_exact(num_items: int) -> None:
    # 4 sqrt(14) = 14.97, so 14 lists for 14 items; 4 sqrt(13) = 14.4, and 14 are too many for 13
    chosen = index_for(ExactIndexSettings(), num_items, 1)
    vectors = torch.randn(num_items, 4, generator=torch.Generator().manual_seed(0))
    built = build_index(chosen, vectors, torch.arange(num_items))
    assert isinstance(built, {"exact": ExactIndex, "ivf": IVFIndex}[chosen.kind])
    assert (chosen.kind == "exact") == (num_items < 14)


def test_small_domains_of_a_bundle_without_an_exact_size_are_served(
    tiny_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Dataset.corpus
    monkeypatch.setattr(Dataset, "corpus", lambda self, domain: plain(self, domain)[: (30, 5, 1)[domain]])
    for drift_rows in (0, 5):
        manifest = new_bundle(tmp_path / "bundle", tiny_dataset, exact_below=1, drift_rows=drift_rows)
        assert [(one.kind, one.num_items) for one in manifest.retrieval.corpora] == [
            ("ivf", 30),
            ("exact", 5),
            ("exact", 1),
        ]
        service = open_service(tmp_path / "bundle")
        for domain in service.domains:
            assert service.recommend(RecommendRequest(domain, user="u3")).items


def test_what_cannot_be_opened_is_not_put_in_place(
    tiny_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(IVFIndex, "save", lambda self, folder: None)
    with pytest.raises(InputError, match=r"inverted_file\.faiss: .* is not readable"):
        new_bundle(tmp_path / "bundle", tiny_dataset, exact_below=1)
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(("index", "name"), [(None, "inverted_file.faiss"), (HNSWIndexSettings(), "graph.faiss")])
def test_an_index_that_cannot_be_read_is_named(
    tiny_dataset: Dataset, tmp_path: Path, index: HNSWIndexSettings | None, name: str
) -> None:
    new_bundle(tmp_path / "bundle", tiny_dataset, exact_below=1, index=index)
    for broken in (name, "item_row.npy"):
        folder = Path(shutil.copytree(tmp_path / "bundle", tmp_path / broken))
        for content in (b"no index", b"", None):
            file = folder / "retrieval" / "corpus" / "0" / broken
            file.unlink() if content is None else file.write_bytes(content)
            with pytest.raises(InputError, match=rf"{name}: it, or item_row.npy beside it, is not readable"):
                open_service(folder, check=False)


def test_tensors_that_share_memory_are_written_once(tmp_path: Path) -> None:
    table = torch.arange(12.0).reshape(4, 3)
    save_tensors(tmp_path / "a.safetensors", {"user": table, "item": table, "other": table + 1})
    assert (tmp_path / "a.safetensors").stat().st_size < 3 * 48 + 200
    read = load_tensors(tmp_path / "a.safetensors")
    assert read["user"].tolist() == read["item"].tolist() == table.tolist()
    assert read["other"].tolist() == (table + 1).tolist()
    with pytest.raises(InputError, match="does not fit the settings in the bundle"):
        load_weights(tmp_path / "a.safetensors", nn.Linear(3, 4))


def test_the_verb_bundles_two_runs(labelled: Dataset, tmp_path: Path) -> None:
    isthmus.train(labelled.path, tmp_path / "run", overrides=["training.epochs=1", "retrieval.embedding_dim=4"])
    isthmus.train(labelled.path, tmp_path / "ranker", overrides=["training.epochs=1"], task="ranking")
    manifest = isthmus.bundle(tmp_path / "run", tmp_path / "bundle", ranking=tmp_path / "ranker", num_candidates=20)
    assert manifest.ranking is not None
    assert manifest.ranking.num_candidates == 20
    answer = open_service(tmp_path / "bundle").recommend(RecommendRequest("shop", user="u3", k=3))
    run = isthmus.open_run(tmp_path / "run")
    best = {item.item: item.score for item in run.recommend("shop", user="u3", k=20).items}
    assert {item.item for item in answer.items} <= set(best)
    assert [item.retrieval_score for item in answer.items] == pytest.approx([best[i.item] for i in answer.items])
    with pytest.raises(InputError, match="no ranking run is given"):
        isthmus.bundle(tmp_path / "run", tmp_path / "other", score_field="score")
    record = json.loads((tmp_path / "ranker" / "dataset.json").read_text())
    (tmp_path / "ranker" / "dataset.json").write_text(json.dumps(record | {"path": str(tmp_path / "gone")}))
    with pytest.raises(InputError, match="gone is gone; say where it lies now with --ranking-dataset"):
        isthmus.bundle(tmp_path / "run", tmp_path / "other", ranking=tmp_path / "ranker")


@pytest.mark.skipif(os.name != "posix", reason="files have no such modes elsewhere")
def test_whoever_may_read_one_file_of_a_bundle_may_read_all(
    tiny_dataset: Dataset, labelled: Dataset, tmp_path: Path
) -> None:
    new_bundle(tmp_path / "bundle", tiny_dataset, labelled, with_onnx=True)
    modes = {file.stat().st_mode & 0o777 for file in (tmp_path / "bundle").rglob("*") if file.is_file()}
    (plain := tmp_path / "plain").touch()
    assert modes == {plain.stat().st_mode & 0o777}  # a container serves as another user

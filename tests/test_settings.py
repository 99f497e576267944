"""Settings files: what is read, what is refused, and how it is said."""

from pathlib import Path

import pytest
import yaml

from isthmus.errors import InputError
from isthmus.serving.index_settings import HNSWIndexSettings
from isthmus.settings import RunSettings, read_any_settings, read_ranking_settings, read_settings

GOOD = """\
retrieval: {embedding_dim: 16, backbone: {kind: adi, hidden_dims: [8]}}
training: {seed: 3, epochs: 2, learning_rate: 1e-3}
index: {kind: hnsw, links_per_item: 8}
"""


def written(folder: Path, text: str) -> Path:
    file = folder / "run.yaml"
    file.write_text(text)
    return file


def test_a_file_is_read_with_its_defaults(tmp_path: Path) -> None:
    settings = read_settings(written(tmp_path, GOOD))
    assert (settings.retrieval.embedding_dim, settings.training.seed) == (16, 3)
    assert settings.training.learning_rate == 0.001
    assert settings.index == HNSWIndexSettings(links_per_item=8)
    assert settings.parameter_budget is None


def test_overrides_stand_above_the_file_and_reach_into_what_it_does_not_name(tmp_path: Path) -> None:
    overrides = ["training.epochs=7", "training.self_training.share=0.2", "retrieval.fields=[history, item_id]"]
    settings = read_settings(written(tmp_path, GOOD), overrides)
    assert settings.training.epochs == 7
    assert settings.training.seed == 3
    assert settings.training.self_training is not None
    assert settings.training.self_training.share == 0.2
    assert settings.retrieval.fields == ("history", "item_id")


def test_without_a_file_the_defaults_are_taken() -> None:
    assert read_settings(None, ["training.seed=5"]).training.seed == 5
    assert read_settings(None).training.seed == 0


def test_what_is_written_reads_back_the_same(tmp_path: Path) -> None:
    settings = read_settings(written(tmp_path, GOOD))
    assert read_settings(written(tmp_path, settings.to_yaml())) == settings


UNKNOWN = "unknown setting; did you mean"
REFUSED = (
    # (in the file, put in its place, what the message must say behind the file's name)
    ("embedding_dim: 16", "embedding_dim: 16, dropuot: 1", f"retrieval.dropuot: {UNKNOWN} 'dropout'?"),
    ("seed: 3", "seed: 3, epoch: 4", f"training.epoch: {UNKNOWN} 'epochs'?"),
    # these are known, but in another section
    (
        "embedding_dim: 16",
        "embedding_dim: 16, temprature: 1",
        f"retrieval.temprature: {UNKNOWN} 'training.temperature'?",
    ),
    ("index:", "seed: 1\nindex:", f"seed: {UNKNOWN} 'training.seed'?"),
    ("learning_rate: 1e-3", "learning_rate: -1", "training.learning_rate: -1: input should be greater than 0"),
    ("seed: 3, ", "", "training.seed: missing, and it has no default"),
    ("kind: hnsw", "kind: hnws", "index.kind: 'hnws' is none of 'exact', 'ivf', 'hnsw'; did you mean 'hnsw'?"),
    ("index:", "training: {seed: 1}\nindex:", "line 3: key 'training' stands twice; keep one"),
    ("index:", "index: [", "not YAML"),
    (GOOD, "- 1\n", "holds no keys; a settings file needs"),
    (GOOD, "", "holds no keys; a settings file needs"),
)


@pytest.mark.parametrize(("old", "new", "message"), REFUSED)
def test_a_wrong_file_is_refused_with_file_key_and_remedy(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert GOOD.count(old) == 1
    file = written(tmp_path, GOOD.replace(old, new))
    with pytest.raises(InputError) as error:
        read_settings(file)
    assert str(error.value).startswith(f"{file}: {message}")


WRONG_OVERRIDES = (
    ("training.epohcs=3", "--set: training.epohcs: unknown setting; did you mean 'epochs'?"),
    ("training.epochs=zero", "--set: training.epochs: 'zero': input should be a valid integer"),
    ("training.epochs", "--set training.epochs: write it as key.sub=value"),
    ("training..epochs=1", "--set training..epochs=1: write it as key.sub=value"),
    ("training.seed.x=1", "--set training.seed.x=1: 'seed' is 3 and has no settings in it"),
    ("training.epochs=[", "--set training.epochs=[: the value is not YAML"),
)


@pytest.mark.parametrize(("override", "message"), WRONG_OVERRIDES)
def test_a_wrong_override_is_refused_and_not_blamed_on_the_file(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        read_settings(written(tmp_path, GOOD), [override])
    assert str(error.value).startswith(message)


def test_an_override_within_a_network_is_not_blamed_on_the_file_either(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        "retrieval: {embedding_dim: 4, backbone: {kind: adi, hidden_dims: [8]}}\ntraining: {seed: 0, epochs: 1}",
    )
    with pytest.raises(InputError, match=r"^--set: retrieval\.backbone\.fusion: 'conct' is none of"):
        read_settings(file, ["retrieval.backbone.fusion=conct"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.negative_share=0", "training.negative_share: 0: input should be greater than 0"),
        ("training.negative_share={shop: 0}", "training.negative_share.shop: 0: input should be greater than 0"),
        ("training.negative_share=cat", "training.negative_share: 'cat': input should be a valid number"),
        ("ranking.extractor.widths=3", "ranking.extractor.widths: unknown setting; known are"),
    ],
)
def test_a_value_of_several_forms_is_told_what_is_wrong_with_its_own(override: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        read_ranking_settings(None, [override])
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(f"--set: {message}")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("ranking.fields=item_id", "ranking.fields: 'item_id': a list is wanted, such as [a, b]"),
        ("training.domains=[]", "training.domains: []: give at least one"),
        ("training.negative_share=yes", "training.negative_share: True is no number; YAML reads yes and on as True"),
        ("training.negative_share={shop: yes}", "training.negative_share.shop: True is no number"),
        ("training.epochs=on", "training.epochs: True is no number"),
        ("ranking.extractor.hidden_dims=[8, yes]", "ranking.extractor.hidden_dims.1: True is no number"),
    ],
)
def test_a_value_that_is_no_list_or_no_number_is_told_in_plain_words(
    tmp_path: Path, override: str, message: str
) -> None:
    with pytest.raises(InputError) as error:
        read_ranking_settings(None, [override])
    assert str(error.value).startswith(f"--set: {message}")
    key, _, value = override.partition("=")
    if key.startswith("training."):
        name = key.removeprefix("training.")
        text = yaml.safe_dump({"training": {"seed": 0, "epochs": 1} | {name: yaml.safe_load(value)}})
        file = written(tmp_path, f"ranking: {{kind: fm}}\n{text}")
        with pytest.raises(InputError) as error:
            read_ranking_settings(file, ["training.seed=1"])
        assert str(error.value).startswith(f"{file}: {message}")


def test_what_is_true_or_false_is_set_as_such() -> None:
    ranking = read_ranking_settings(None, ["ranking.linear=yes", "training.in_turn=on", "ranking.products=1"])
    assert ranking.training.in_turn is True
    assert ranking.ranking.linear is ranking.ranking.products is True  # type: ignore[union-attr]


def test_a_setting_of_another_task_is_told_where_those_of_this_run_are(tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        read_any_settings(None, ["training.epochs=1", "retrieval.dropout=.1"], task="ranking")
    assert str(error.value) == "--set: retrieval.dropout: this is a ranking run, whose settings are under 'ranking'"
    for file, hint in ((None, "; --task ranking trains a click model"), (written(tmp_path, GOOD), "")):
        with pytest.raises(InputError) as error:
            read_any_settings(file, ["ranking.kind=fm"])
        assert str(error.value) == (
            f"--set: ranking.kind: this is a retrieval run, whose settings are under 'retrieval'{hint}"
        )
    file = written(tmp_path, "training: {seed: 0, epochs: 1}")  # says of neither task that it is for it
    assert read_ranking_settings(file, ["ranking.kind=fm"]).ranking.kind == "fm"


def test_several_mistakes_are_told_in_one_line(tmp_path: Path) -> None:
    file = written(tmp_path, GOOD.replace("seed: 3", "seed: -1, epoch: 4"))
    with pytest.raises(InputError) as error:
        read_settings(file)
    assert str(error.value) == (
        f"{file}: training.seed: -1: input should be greater than or equal to 0; training.epoch: {UNKNOWN} 'epochs'?"
    )


@pytest.mark.parametrize("kind", ["ctr", "keep", "ddtcdr", "fm"])
def test_another_kind_of_click_model_is_one_override_away(kind: str) -> None:
    settings = read_ranking_settings(None, [f"ranking.kind={kind}", "training.epochs=3"])
    assert settings.ranking.kind == kind
    assert settings.training.epochs == 3
    with pytest.raises(InputError, match=r"ranking\.extractor: unknown setting"):
        read_ranking_settings(None, [f"ranking.kind={kind}", "ranking.extractor={kind: dnn, hidden_dims: [8]}"])


def test_a_file_that_is_not_there_or_not_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.yaml: no such file; a settings file needs"):
        read_settings(tmp_path / "nowhere.yaml")
    (tmp_path / "run.yaml").write_bytes(b"a: \xff")
    with pytest.raises(InputError, match="not UTF-8 text"):
        read_settings(tmp_path / "run.yaml")


def test_settings_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        read_settings(None).index = HNSWIndexSettings()


def test_more_probes_than_lists_are_refused() -> None:
    content = read_settings(None).model_dump() | {"index": {"kind": "ivf", "num_lists": 4, "num_probes": 5}}
    with pytest.raises(ValueError, match="num_probes: 5 is more than num_lists, 4"):
        RunSettings.model_validate(content)


def test_a_target_that_the_stages_before_do_not_train_on_is_refused() -> None:
    targets = ["ranking.targets=[b]", "training.domains=[a]"]
    for kind in ("cdanet", "keep"):
        with pytest.raises(InputError, match=r"ranking\.targets: 'b' is not among training\.domains \(a\)"):
            read_ranking_settings(None, [f"ranking.kind={kind}", *targets])
    assert read_ranking_settings(None, ["ranking.targets=[b]", "training.domains=[b, a]"])

"""CDAnet's equations as scalar loops in double precision, in the paper's symbols; ours agrees to 1e-10."""

from math import exp, log

import pytest
import torch
from tests.tiny_ranking import TABLES, random_features, ranking_sizes, slices
from torch import Tensor

from isthmus.backbones.settings import DNNSettings
from isthmus.losses import augmentation_loss, translation_loss
from isthmus.models.cdanet import AugmentationNetwork, CDAnetSettings, TranslationNetwork
from isthmus.training.ranking import row_weights

Vector = list[float]
Matrix = list[Vector]
CLOSE = 1e-10


def network(num_domains: int = 2, **changed: object) -> TranslationNetwork:
    torch.manual_seed(3)
    settings = CDAnetSettings.model_validate(
        {
            "embedding_dim": 3,
            "extractor": {"kind": "independent", "hidden_dims": [5], "norm": "none"},
            "latent_dim": 4,
            "tower_dims": [3],
            "initial_std": 0.5,
        }
        | changed
    )
    names = [f"d{number}" for number in range(num_domains)]
    model = TranslationNetwork(settings, domain_names=names, sizes=ranking_sizes(num_domains), table_rows=TABLES)
    return model.double().eval()


def matvec(w: Matrix, x: Vector) -> Vector:
    return [sum(w_row[j] * x[j] for j in range(len(x))) for w_row in w]


def transposed(w: Matrix) -> Matrix:
    return [[w[i][j] for i in range(len(w))] for j in range(len(w[0]))]


def relu(x: Vector) -> Vector:
    return [max(0.0, value) for value in x]


def affine(layer: tuple[Matrix, Vector], x: Vector) -> Vector:
    return [value + b for value, b in zip(matvec(layer[0], x), layer[1], strict=True)]


def sigma(x: float) -> float:
    return 1 / (1 + exp(-x))


def bce(p: float, y: float) -> float:
    return -(y * log(p) + (1 - y) * log(1 - p))


def parameters(model: torch.nn.Module, prefix: str) -> tuple[Matrix, Vector]:
    state = model.state_dict()
    return state[f"{prefix}.weight"].tolist(), state[f"{prefix}.bias"].tolist()


def tower(model: TranslationNetwork, d: int, z: Vector) -> float:
    """R_d: a hidden layer and the logit."""
    hidden = parameters(model, f"towers.hidden.own_networks.{d}.layers.0.linear")
    out = parameters(model, f"towers.output.own_layers.{d}")
    return affine(out, relu(affine(hidden, z)))[0]


def embedded(model: TranslationNetwork, counts: list[int], seed: int) -> tuple[Matrix, Matrix]:
    """e = E(x) of each row by scalar look-ups (eq. 1), and z = F(e) by each domain's extractor (eq. 2)."""
    features = random_features(counts, seed=seed, dtype=torch.float64)
    domain = [d for d, n in enumerate(counts) for _ in range(n)]
    state = model.state_dict()
    user_table, item_table = (state[f"embedding.user.tables.{place}.weight"].tolist() for place in (0, 1))
    vector = state["embedding.row.number_vector"].tolist()
    bag = features.user.bags[0]
    e, z = [], []
    for i, d in enumerate(domain):
        last = d == len(counts) - 1  # the last domain lacks the last field of the user and of the row
        parts = [user_table[int(features.user.categorical[i, 0])]]
        values = bag.values[int(bag.offsets[i]) : int(bag.offsets[i + 1])].tolist()
        pooled = [sum(item_table[v][k] for v in values) / max(1, len(values)) ** 0.5 for k in range(3)]
        parts.append([0.0] * 3 if last else pooled)
        parts.append(item_table[int(features.item.categorical[i, 0])])
        for n in range(2):
            gone = last and n == 1
            parts.append([0.0 if gone else float(features.row.number[i, n]) * vector[n][k] for k in range(3)])
        e.append([value for part in parts for value in part])
        hidden = parameters(model, f"extractor.shared.networks.own_networks.{d}.layers.0.linear")
        out = parameters(model, f"extractor.shared.output.own_layers.{d}")
        z.append(relu(affine(out, relu(affine(hidden, e[-1])))))
    return e, z


def label_of(rows: int) -> Tensor:
    return torch.tensor([float(i % 3 == 0) for i in range(rows)], dtype=torch.float64)


def w_matrix(model: TranslationNetwork, d: int) -> Matrix:
    weights: Matrix = model.state_dict()[f"translators.{d}.0.linear.weight"].tolist()
    return weights


def test_equations_1_and_2_embedding_and_extractors() -> None:
    model = network()
    _, z = embedded(model, [4, 5], seed=1)
    ours = model.latent(random_features([4, 5], seed=1, dtype=torch.float64), slices([4, 5]))
    assert (ours - torch.tensor(z, dtype=torch.float64)).abs().max() < CLOSE


def test_equations_3_and_4_a_translated_row_keeps_its_label() -> None:
    model = network()
    counts, y = [4, 5], label_of(9)
    _, z = embedded(model, counts, seed=1)
    with torch.no_grad():
        made = model.translate(random_features(counts, seed=1, dtype=torch.float64), slices(counts))
    domain = [0] * 4 + [1] * 5
    for i, d in enumerate(domain):
        r = tower(model, 1 - d, matvec(w_matrix(model, d), z[i]))
        assert float(made.cross_logit[i, 0]) == pytest.approx(r, abs=CLOSE)
        crossed = translation_loss(
            made.logit, made.cross_logit, made.cycle_error, y, alpha=1.0, beta=0.0
        ) - translation_loss(made.logit, made.cross_logit, made.cycle_error, y, alpha=0.0, beta=0.0)
        assert float(crossed[i]) == pytest.approx(bce(sigma(r), float(y[i])), abs=CLOSE)


def test_equation_5_orthogonality() -> None:
    model = network()
    with torch.no_grad():  # away from the orthogonal start, where the error is zero
        for d in range(2):
            translator = model.translators_of(d)[0]
            translator.linear.weight.add_(0.3 * torch.randn(4, 4, dtype=torch.float64))
    counts = [4, 5]
    _, z = embedded(model, counts, seed=1)
    with torch.no_grad():
        made = model.translate(random_features(counts, seed=1, dtype=torch.float64), slices(counts))
    for i, d in enumerate([0] * 4 + [1] * 5):
        w = w_matrix(model, d)
        back = matvec(transposed(w), matvec(w, z[i]))
        error = sum((b - a) ** 2 for a, b in zip(z[i], back, strict=True))
        assert float(made.cycle_error[i, 0]) == pytest.approx(error, abs=CLOSE)


def test_equations_6_and_7_the_whole_objective_is_a_sum_of_the_domains_means() -> None:
    model = network()
    counts, y = [4, 5], label_of(9)
    alpha, beta = 0.3, 0.2
    _, z = embedded(model, counts, seed=1)
    features = random_features(counts, seed=1, dtype=torch.float64)
    domain = [0] * 4 + [1] * 5
    l_trans = 0.0
    for d in range(2):
        rows = [i for i in range(9) if domain[i] == d]
        w = w_matrix(model, d)
        vani = sum(bce(sigma(tower(model, d, z[i])), float(y[i])) for i in rows) / len(rows)
        cross = sum(bce(sigma(tower(model, 1 - d, matvec(w, z[i]))), float(y[i])) for i in rows) / len(rows)
        orth = sum(
            sum((b - a) ** 2 for a, b in zip(z[i], matvec(transposed(w), matvec(w, z[i])), strict=True)) for i in rows
        ) / len(rows)
        l_trans += vani + alpha * cross + beta * orth
    with torch.no_grad():
        made = model.translate(features, slices(counts))
    loss = translation_loss(made.logit, made.cross_logit, made.cycle_error, y, alpha=alpha, beta=beta)
    ours = 2 * (loss * row_weights(slices(counts), "domains", loss)).sum()
    assert float(ours) == pytest.approx(l_trans, abs=CLOSE)


@pytest.mark.parametrize("target", [0, 1])
def test_equations_8_and_9_augmentation(target: int) -> None:
    model = network()
    augmented = AugmentationNetwork(model, target).double().eval()
    counts = [6, 0] if target == 0 else [0, 6]
    features, y = random_features(counts, seed=2, dtype=torch.float64), label_of(6)
    _, z = embedded(model, counts, seed=2)
    w = w_matrix(model, target)
    hidden = parameters(augmented, "tower.hidden.own_networks.0.layers.0.linear")
    out = parameters(augmented, "tower.output.own_layers.0")
    with torch.no_grad():
        made = augmented.augment(features, slices(counts))
    loss = augmentation_loss(made.logit, made.cycle_error, y, beta=0.4)
    for i in range(6):
        translated = matvec(w, z[i])
        logit = affine(out, relu(affine(hidden, z[i] + translated)))[0]
        back = matvec(transposed(w), translated)
        orth = sum((b - a) ** 2 for a, b in zip(z[i], back, strict=True))
        assert float(made.logit[i]) == pytest.approx(logit, abs=CLOSE)
        assert float(loss[i]) == pytest.approx(bce(sigma(logit), float(y[i])) + 0.4 * orth, abs=CLOSE)


def test_three_domains_take_the_mean_over_the_others() -> None:
    model = network(3, extractor=DNNSettings(hidden_dims=(5,), norm="none").model_dump())
    with torch.no_grad():
        made = model.translate(random_features([2, 3, 2], dtype=torch.float64), slices([2, 3, 2]))
    assert made.cross_logit.shape == (7, 2)
    y = label_of(7)
    loss = translation_loss(made.logit, made.cross_logit, made.cycle_error, y, alpha=1.0, beta=0.0)
    own = translation_loss(made.logit, made.cross_logit, made.cycle_error, y, alpha=0.0, beta=0.0)
    for i in range(7):
        cross = [bce(sigma(float(r)), float(y[i])) for r in made.cross_logit[i]]
        assert float(loss[i] - own[i]) == pytest.approx(sum(cross) / 2, abs=CLOSE)

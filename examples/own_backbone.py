"""A backbone of your own in both towers, trained and judged like ADI, and the paired test of the two.

python examples/own_backbone.py OUT               on a simulated log
python examples/own_backbone.py OUT my_log.yaml   on your own log
"""

import sys
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

import isthmus
from isthmus.api import Run
from isthmus.backbones.settings import ADISettings
from isthmus.data.dataset import Dataset
from isthmus.data.features import feature_sizes
from isthmus.data.simulator import simulate
from isthmus.domains import DomainSlices
from isthmus.evaluation.compare import Comparison
from isthmus.models.two_tower import TwoTower, TwoTowerSettings
from isthmus.settings import RunSettings
from isthmus.training.retrieval import TrainingSettings, train_retrieval
from isthmus.training.runs import new_model


class ScaledNetwork(nn.Module):
    """One hidden layer of all domains, whose units each domain scales by a vector of its own."""

    def __init__(self, num_domains: int, in_dim: int, hidden_dim: int, out_dim: int) -> None:
        super().__init__()
        self.out_dim = out_dim
        self.hidden = nn.Linear(in_dim, hidden_dim)
        self.scale = nn.Parameter(torch.ones(num_domains, hidden_dim))
        self.out = nn.Linear(hidden_dim, out_dim)
        nn.init.zeros_(self.out.weight)  # the network is added to a linear tower, from zero

    def forward(self, x: Float[Tensor, "batch in_dim"], domain_slices: DomainSlices) -> Float[Tensor, "batch out_dim"]:
        hidden = self.hidden(x).relu()
        scaled = [hidden[rows] * self.scale[domain] for domain, rows in domain_slices]
        latent: Tensor = self.out(torch.cat([hidden[:0], *scaled]))
        return latent


def with_own_backbone(dataset: Dataset, settings: RunSettings, hidden_dim: int) -> TwoTower:
    """An untrained two-tower model without a backbone, given ours on both sides."""
    model = new_model(dataset, settings.retrieval, settings.training)
    dim, fields = settings.retrieval.embedding_dim, settings.retrieval.fields
    user_dim = dim * feature_sizes(dataset, "user", fields).num_fields
    item_dim = dim * feature_sizes(dataset, "item", fields).num_fields
    model.user_tower.backbone = ScaledNetwork(dataset.num_domains, user_dim, hidden_dim, dim)
    model.item_tower.backbone = ScaledNetwork(dataset.num_domains, item_dim, hidden_dim, dim)
    return model


def main(out: Path, log: Path | None = None, *, num_users: int = 2000, epochs: int = 3) -> Comparison:
    """Train ADI and our own backbone on the same data, print both evaluations, and compare them."""
    if log is None:
        log = simulate(out / "log", num_users=num_users, num_items=300, seed=0)
    dataset = isthmus.prepare(log, out / "dataset")
    towers = TwoTowerSettings(embedding_dim=32)
    training = TrainingSettings(seed=0, epochs=epochs, batch_size=512)

    adi = towers.model_copy(update={"backbone": ADISettings(hidden_dims=(32,))})
    isthmus.train(dataset.path, out / "adi", RunSettings(retrieval=adi, training=training))

    settings = RunSettings(retrieval=towers, training=training)
    torch.manual_seed(0)
    model = with_own_backbone(dataset, settings, hidden_dim=32)
    (out / "own").mkdir(exist_ok=True)
    train_retrieval(dataset, model, towers, training, folder=out / "own", device=torch.device("cpu"))
    own = Run(out / "own", settings, dataset, model)
    own.evaluate("test")  # writes the result file that is compared below

    domain, user = dataset.schema.domain_names[0], dataset.vocabulary("user")[0]
    print(f"for {user} in {domain}: {[item.item for item in own.recommend(domain, user=user, k=5).items]}")
    comparison = isthmus.compare(out / "adi", own.result_file("test"))
    print(comparison.to_markdown())
    return comparison


if __name__ == "__main__":
    if not 2 <= len(sys.argv) <= 3:
        raise SystemExit(__doc__)
    main(*(Path(word) for word in sys.argv[1:]))

"""What a click model's gates say, of every model that has some, on the very input that its backbone reads."""

import pytest
import torch
from tests.tiny_ranking import TABLES, random_features, ranking_sizes

from isthmus.backbones.settings import BackboneSettings, DNNSettings, MMoESettings, PLESettings
from isthmus.domains import DomainSlices
from isthmus.models.cdanet import CDAnetSettings
from isthmus.models.ctr import CTRSettings
from isthmus.models.ddtcdr import DDTCDRSettings
from isthmus.models.explanation import parts_of_ranker
from isthmus.models.keep import KEEPSettings
from isthmus.models.ranker import AnyRankingSettings, new_ranker

NAMES = ("a", "b", "c")
MMOE = MMoESettings(hidden_dims=(4,), num_experts=3)
EXPERTS = ("expert 1", "expert 2", "expert 3")


def parts(settings: AnyRankingSettings, domain: int) -> tuple[tuple[str, ...], torch.Tensor] | None:
    """Of four rows of a domain; domains a and b are targets."""
    torch.manual_seed(0)
    sizes = ranking_sizes(3)
    model = new_ranker(settings, domain_names=NAMES, sizes=sizes, table_rows=TABLES, targets=(0, 1)).eval()
    counts = [4 if number == domain else 0 for number in range(3)]
    found = parts_of_ranker(model, random_features(counts), DomainSlices.from_counts(counts), domain)
    return None if found is None else (found.names, found.weight)


@pytest.mark.parametrize("products", [False, True])
@pytest.mark.parametrize("domain", [1, 2])
@pytest.mark.parametrize(
    "settings",
    [CTRSettings(backbone=MMOE), KEEPSettings(backbone=MMOE), CDAnetSettings(extractor=MMOE, gate="sigmoid")],
    ids=lambda settings: settings.kind,
)
def test_every_model_with_experts_says_their_weights(settings: AnyRankingSettings, domain: int, products: bool) -> None:
    found = parts(settings.model_copy(update={"products": products}), domain)
    assert found is not None
    names, weight = found
    assert names == EXPERTS
    torch.testing.assert_close(weight.sum(dim=1), torch.ones(4))
    assert len({tuple(row) for row in weight.tolist()}) > 1  # each row has its own


def test_a_domain_with_an_extractor_of_its_own_is_explained_by_that_one() -> None:
    own: dict[str, BackboneSettings] = {
        "b": PLESettings(hidden_dims=(4,), num_specific=1, num_shared=1),
        "c": DNNSettings(hidden_dims=(4,)),
    }
    settings = CDAnetSettings(extractor=MMOE, own_extractors=own)
    of_target = parts(settings, 1)
    assert of_target is not None
    assert of_target[0] == ("own expert 1", "shared expert 1")
    assert parts(settings, 2) is None
    of_shared = parts(settings, 0)
    assert of_shared is not None
    assert of_shared[0] == EXPERTS


def test_a_model_without_a_backbone_says_nothing() -> None:
    assert parts(DDTCDRSettings(), 0) is None

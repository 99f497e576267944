"""What click models have beside the two papers, as scalar loops in float64."""

from math import exp, log

import pytest
import torch

from isthmus.evaluation.ranking import corrected_for_sampling
from isthmus.layers.field_products import FieldProducts


def test_products_of_fields() -> None:
    generator = torch.Generator().manual_seed(0)
    e = torch.randn(5, 4, 3, generator=generator, dtype=torch.float64)
    expected = []
    for row in range(5):
        products = []
        for f in range(4):
            for g in range(f + 1, 4):
                products.append(sum(float(e[row, f, i]) * float(e[row, g, i]) for i in range(3)))
        expected.append(products)
    assert torch.allclose(FieldProducts(4)(e), torch.tensor(expected, dtype=torch.float64), atol=1e-10, rtol=0)


def test_probabilities_where_a_share_of_the_negatives_was_trained_on() -> None:
    p, w = [0.9, 0.5, 0.01], [0.1, 1.0]
    domain = [0, 1, 0]
    logit = torch.tensor([log(one / (1 - one)) for one in p], dtype=torch.float64)
    corrected = corrected_for_sampling(logit, torch.tensor(domain), w)
    for row in range(3):
        q = p[row] / (p[row] + (1 - p[row]) / w[domain[row]])
        assert 1 / (1 + exp(-float(corrected[row]))) == pytest.approx(q, abs=1e-10)

import torch

from isthmus.layers.domain_indicator import DomainIndicator


def test_domains_start_with_different_vectors_and_only_the_one_read_gets_a_gradient() -> None:
    indicator = DomainIndicator(3, 4)
    assert not torch.equal(indicator(0), indicator(1))
    indicator(1).sum().backward()
    assert [vector.grad is None for vector in indicator.own_vectors] == [True, False, True]

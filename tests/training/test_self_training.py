import pytest
import torch
from pydantic import ValidationError
from tests.tiny import HISTORY, ITEM_ID, USER_ID, Positive, rich_dataset, sizes_of, tiny_dataset, tiny_schema

from isthmus.backbones.settings import ADISettings, DNNSettings
from isthmus.batch import RetrievalBatch
from isthmus.data.dataset import Dataset
from isthmus.data.loader import RetrievalLoader
from isthmus.data.sampling import CandidateSampler
from isthmus.domains import DomainSlices
from isthmus.models.two_tower import TwoTower, TwoTowerSettings
from isthmus.training.self_training import SelfTrainingSettings, named_pairs, no_counts, pseudo_batch

# Items 1 to 8 are a's, 5 to 10 b's, c shows its own 11 alone. Users name rows: user r takes one item.
TAKEN = {"a": range(1, 9), "b": range(5, 11), "c": [11]}
BIAS = {
    "a": dict.fromkeys(range(1, 13), 0.0),
    "b": {5: 0.1, 6: 0.9, 7: 0.5, 8: 0.7},
    "c": {},
}
"""Score of an item in a domain, the towers' vectors being 0; items not named have 5, the best."""


def dataset() -> Dataset:
    rows: list[Positive] = []
    for domain, name in enumerate(TAKEN):
        rows += [(len(rows) + place + 1, item, domain, 0) for place, item in enumerate(TAKEN[name])]
    schema = tiny_schema(fields=(USER_ID, HISTORY, ITEM_ID), clock=False)
    return tiny_dataset(rows, num_users=17, num_items=13, schema=schema)


def new_model(data: Dataset, settings: TwoTowerSettings) -> TwoTower:
    user, item, tables = sizes_of(data)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return TwoTower(
            settings,
            num_domains=data.num_domains,
            user_sizes=user,
            item_sizes=item,
            table_rows=tables,
            initial_bias=torch.randn(data.num_domains, data.num_items),
        )


def scoring_by_bias(data: Dataset) -> TwoTower:
    model = new_model(data, TwoTowerSettings(embedding_dim=2))
    bias = torch.full((3, 13), 5.0)
    for domain, scores in enumerate(BIAS.values()):
        for item, score in scores.items():
            bias[domain, item] = score
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        assert model.item_bias is not None
        model.item_bias.weight.copy_(bias.reshape(-1, 1))
    return model


def whole_batch(data: Dataset) -> RetrievalBatch:
    return next(RetrievalLoader(data, batch_size=1000, seed=0).epoch(0))


def labelled(share: float) -> tuple[list[list[int]] | None, dict[str, int]]:
    """The items that each domain is given, and the counts."""
    data = dataset()
    counts = no_counts(3)
    sampler = CandidateSampler(data, "full", 1, None)
    pseudo = pseudo_batch(scoring_by_bias(data), whole_batch(data), sampler, share, counts)
    items = None
    if pseudo is not None:
        items = [sorted(pseudo.item_row[pseudo.domain_slices[d]].tolist()) for d in range(3)]
    return items, named_pairs(counts, ("a", "b", "c"))


@pytest.mark.parametrize(
    ("share", "items", "counts"),
    [
        # Of a's 8 rows the best quarter, 2, of those that b may show (5 to 8) and by b's score: 6 and 8. Of b's 6
        # rows 1 of those that a may show, all at score 0. Nothing that c shows, or may be shown of c.
        (0.25, [1, 2, 0], {"a->b": 2, "b->a": 1}),
        (0.5, [3, 4, 0], {"a->b": 4, "b->a": 3}),  # all four that b may show
        (1.0, [4, 4, 0], {"a->b": 4, "b->a": 4}),  # 8 of 8 rows asked for, four there
        (0.15, [0, 1, 0], {"a->b": 1}),  # 1.2 and 0.9 rows: whole ones only
    ],
)
def test_the_best_share_of_a_domains_rows_goes_to_each_other_domain(
    share: float, items: list[int], counts: dict[str, int]
) -> None:
    given, counted = labelled(share)
    assert given is not None
    assert [len(own) for own in given] == items
    assert counted == counts
    best_of_b = [6, 8, 7, 5]
    assert given[1] == sorted(best_of_b[: items[1]])
    assert set(given[0]) <= {5, 6, 7, 8}


@pytest.mark.parametrize("share", [0.0, 0.1])
def test_a_share_below_one_row_labels_none(share: float) -> None:
    assert labelled(share) == (None, {})


def test_where_corpora_do_not_meet_there_are_no_pseudo_labels() -> None:
    rows: list[Positive] = [(1, 1, 0, 0), (1, 2, 0, 0), (2, 3, 1, 0), (2, 4, 1, 0)]
    data = tiny_dataset(rows, num_users=3, num_items=5, schema=tiny_schema(domains=("a", "b"), clock=False))
    model = new_model(data, TwoTowerSettings(embedding_dim=2))
    counts = no_counts(2)
    assert pseudo_batch(model, whole_batch(data), CandidateSampler(data, "full", 1, None), 1.0, counts) is None
    assert named_pairs(counts, ("a", "b")) == {}


def test_counts_add_up_over_steps() -> None:
    data = dataset()
    counts = no_counts(3)
    for _ in range(3):
        pseudo_batch(scoring_by_bias(data), whole_batch(data), CandidateSampler(data, "full", 1, None), 0.25, counts)
    assert named_pairs(counts, ("a", "b", "c")) == {"a->b": 6, "b->a": 3}


def test_a_pseudo_row_keeps_its_user_its_history_and_its_known_items() -> None:
    data = rich_dataset(corpora={"a": ("a", "b", "c"), "c": ("a", "b", "c")})
    batch = whole_batch(data)
    model = new_model(data, TwoTowerSettings(embedding_dim=2))
    pseudo = pseudo_batch(model, batch, CandidateSampler(data, "full", 1, None), 0.4, no_counts(3))
    assert pseudo is not None
    assert pseudo.domain_slices.num_rows == pseudo.item_row.numel() > 20
    lines: dict[tuple[object, ...], set[int]] = {}
    domain = batch.domain_slices.row_domain().tolist()

    def line(of: RetrievalBatch, row: int) -> tuple[object, ...]:
        bags = [bag.select(slice(row, row + 1)).values.tolist() for bag in (of.known, *of.user.bags)]
        return int(of.item_row[row]), str(bags), str(of.user.categorical[row].tolist()), float(of.user.number[row, 0])

    for row in range(batch.item_row.numel()):
        lines.setdefault(line(batch, row), set()).add(domain[row])
    target = pseudo.domain_slices.row_domain().tolist()
    for row in range(pseudo.item_row.numel()):
        assert lines[line(pseudo, row)] - {target[row]}  # such a row stands in another domain of the batch


ADI = TwoTowerSettings(
    embedding_dim=4, backbone=ADISettings(hidden_dims=(6,)), connection="literal", dropout=0.5, adaptation="se"
)


@pytest.mark.parametrize(
    "settings", [ADI, ADI.model_copy(update={"adaptation": "none", "backbone": DNNSettings(hidden_dims=(6,))})]
)
def test_the_teacher_gets_no_gradient_and_leaves_no_trace(settings: TwoTowerSettings) -> None:
    data = rich_dataset(corpora={"a": ("a", "b", "c")})
    model = new_model(data, settings).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    generator = torch.get_rng_state()
    sampler = CandidateSampler(data, "full", 1, None)
    pseudo, again = (pseudo_batch(model, whole_batch(data), sampler, 0.5, no_counts(3)) for _ in range(2))
    assert pseudo is not None
    assert again is not None
    assert torch.equal(pseudo.item_row, again.item_row)  # no dropout in its scores
    assert torch.equal(torch.get_rng_state(), generator)
    assert [key for key, value in model.state_dict().items() if not torch.equal(value, before[key])] == []
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not pseudo.user.number.requires_grad
    assert all(module.training for module in model.modules())


def test_the_teacher_scores_both_sides_as_the_other_domain_would_show_them() -> None:
    corpora = {"a": ("a", "b", "c"), "b": ("a", "b", "c"), "c": ("a", "b", "c")}
    data = rich_dataset(corpora=corpora)
    model = new_model(data, ADI.model_copy(update={"initial_std": 1.0, "item_bias": False})).eval()
    batch, sampler = whole_batch(data), CandidateSampler(data, "full", 1, None)
    pseudo = pseudo_batch(model, batch, sampler, 0.3, no_counts(3))
    assert pseudo is not None
    for target in range(3):
        expected = []
        for source, rows in batch.domain_slices:
            if source == target:
                continue
            scores = {}
            for row in range(rows.start, rows.stop):
                one, slices = torch.tensor([row]), DomainSlices.single(target, 1, 3)
                item_row = batch.item_row[one]
                user = model.encode_user(batch.user.take(one), slices)
                item = model.encode_item(sampler.item_features(item_row, slices), item_row, slices)
                scores[row] = model.score(user, item).item()
            best = sorted(scores, key=lambda row: -scores[row])[: int(0.3 * len(scores))]
            expected += [int(batch.item_row[row]) for row in sorted(best)]
        assert pseudo.item_row[pseudo.domain_slices[target]].tolist() == expected


def test_a_model_in_evaluation_mode_stays_in_it() -> None:
    data = dataset()
    model = scoring_by_bias(data).eval()
    pseudo_batch(model, whole_batch(data), CandidateSampler(data, "full", 1, None), 1.0, no_counts(3))
    assert not any(module.training for module in model.modules())


def test_a_domain_absent_from_the_step_is_still_given_labels() -> None:
    data = dataset()
    loader = RetrievalLoader(data, batch_size=1000, seed=0)
    rows = data.events["train"].domain.nonzero()[0][:6]  # b's rows alone
    batch = loader.batch(rows, DomainSlices((0, 0, 6, 6)))
    counts = no_counts(3)
    pseudo = pseudo_batch(scoring_by_bias(data), batch, CandidateSampler(data, "full", 1, None), 1.0, counts)
    assert pseudo is not None
    assert pseudo.domain_slices.counts == (4, 0, 0)
    assert named_pairs(counts, ("a", "b", "c")) == {"b->a": 4}


def test_the_share_grows_every_epoch_up_to_all() -> None:
    settings = SelfTrainingSettings(share=0.25, share_growth=0.25)
    assert [settings.share_at(epoch) for epoch in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert SelfTrainingSettings(share=0.25, share_growth=0.0).share_at(9) == 0.25


@pytest.mark.parametrize("values", [{"share": -0.1}, {"share": 1.5}, {"share_growth": 2}, {"grow": 0.1}])
def test_shares_are_shares(values: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        SelfTrainingSettings.model_validate(values)

"""The tensors that travel between the loader, the models and the training loops."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from isthmus.domains import DomainSlices


@dataclass(frozen=True)
class Bag:
    """A list of table rows for each row of a batch, of any length, empty lists included.

    Attributes:
        values: table rows of all lists, one list after the other.
        offsets: list i is `values[offsets[i]:offsets[i + 1]]`.
    """

    values: Int[Tensor, " value"]
    offsets: Int[Tensor, " batch_plus_1"]

    def to(self, device: torch.device) -> "Bag":
        return Bag(self.values.to(device), self.offsets.to(device))

    def row(self) -> Int[Tensor, " value"]:
        """The batch row that each value belongs to."""
        lengths = self.offsets[1:] - self.offsets[:-1]
        rows = torch.arange(lengths.numel(), device=lengths.device)
        return torch.repeat_interleave(rows, lengths, output_size=self.values.numel())

    def select(self, rows: slice) -> "Bag":
        """The lists of a span of rows."""
        offsets = self.offsets[rows.start : rows.stop + 1]
        return Bag(self.values[int(offsets[0]) : int(offsets[-1])], offsets - offsets[0])

    def take(self, rows: Int[Tensor, " taken"]) -> "Bag":
        """The lists of the named rows, in that order."""
        start = self.offsets[rows]
        length = self.offsets[rows + 1] - start
        offsets = torch.cat([length.new_zeros(1), length.cumsum(0)])
        shift = torch.repeat_interleave(start - offsets[:-1], length)
        return Bag(self.values[torch.arange(shift.numel(), device=shift.device) + shift], offsets)


@dataclass(frozen=True)
class Features:
    """One side's features of a batch, fields told apart by position alone.

    Attributes:
        categorical: table row of each single-valued field.
        bags: one bag for each multi-valued, sequence or history field.
        number: standardised value of each number field and each statistic.
        text: the vector of each text field.
    """

    categorical: Int[Tensor, "batch categorical"]
    bags: tuple[Bag, ...]
    number: Float[Tensor, "batch number"]
    text: tuple[Float[Tensor, "batch _"], ...] = ()

    @property
    def num_rows(self) -> int:
        return self.categorical.shape[0]

    def take(self, rows: Int[Tensor, " taken"]) -> "Features":
        """The features of the named rows, in that order."""
        bags, text = tuple(bag.take(rows) for bag in self.bags), tuple(vector[rows] for vector in self.text)
        return Features(self.categorical[rows], bags, self.number[rows], text)

    def to(self, device: torch.device) -> "Features":
        bags = tuple(bag.to(device) for bag in self.bags)
        text = tuple(vector.to(device) for vector in self.text)
        return Features(self.categorical.to(device), bags, self.number.to(device), text)


@dataclass(frozen=True)
class RetrievalBatch:
    """Positive rows, sorted by domain.

    Attributes:
        user: features of the user side and of the context; a history never holds the row's own item.
        item_row: row of the positive item in the item vocabulary.
        known: items that the row's user is known to like, the row's own among them; never negatives of the row.
        domain_slices: where each domain's rows lie.
    """

    user: Features
    item_row: Int[Tensor, " batch"]
    known: Bag
    domain_slices: DomainSlices

    def to(self, device: torch.device) -> "RetrievalBatch":
        item_row, known = self.item_row.to(device), self.known.to(device)
        return RetrievalBatch(self.user.to(device), item_row, known, self.domain_slices)


@dataclass(frozen=True)
class ItemBlock:
    """Distinct items of each domain, sorted by domain: what a step scores its rows against.

    Attributes:
        item: features of the items.
        item_row: row in the item vocabulary; no item twice within a domain.
        log_weight: log of the expected number of times the item stands in the softmax's denominator: log of how
            often it was drawn, less log Q; minus infinity where an item is here only as a positive.
        domain_slices: where each domain's items lie.
    """

    item: Features
    item_row: Int[Tensor, " item"]
    log_weight: Float[Tensor, " item"]
    domain_slices: DomainSlices


@dataclass(frozen=True)
class FeatureSizes:
    """What a model may know of one side's fields, which are ordered: categorical, bags, numbers, texts.

    Attributes:
        names: for reports only.
        categorical, bags: the name of each field's embedding table.
        num_numbers: how many number fields and statistics there are.
        present: for each domain, which of the fields it has.
        text_dims: how many numbers each text field's vector has.
    """

    names: tuple[str, ...]
    categorical: tuple[str, ...]
    bags: tuple[str, ...]
    num_numbers: int
    present: tuple[tuple[bool, ...], ...]
    text_dims: tuple[int, ...] = ()

    @property
    def num_fields(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class RankingFeatures:
    """What a click model reads of a batch of rows sorted by domain.

    Attributes:
        user: features of the user side and of the context; a history lies wholly before the row. One row stands for
            all where they are of one user in one domain, as at serving.
        item: features of the item shown.
        row: features of both and the moment together, such as statistics.
    """

    user: Features
    item: Features
    row: Features

    @property
    def num_rows(self) -> int:
        return self.item.num_rows

    def take(self, rows: Int[Tensor, " taken"]) -> "RankingFeatures":
        """The features of the named rows, in that order."""
        user = self.user if self.user.num_rows != self.num_rows else self.user.take(rows)
        return RankingFeatures(user, self.item.take(rows), self.row.take(rows))

    def to(self, device: torch.device) -> "RankingFeatures":
        return RankingFeatures(self.user.to(device), self.item.to(device), self.row.to(device))


@dataclass(frozen=True)
class RankingSizes:
    """What a click model may know of the fields of `RankingFeatures`; a side may have none."""

    user: FeatureSizes
    item: FeatureSizes
    row: FeatureSizes

    @property
    def num_fields(self) -> int:
        return self.user.num_fields + self.item.num_fields + self.row.num_fields


@dataclass(frozen=True)
class RankingBatch:
    """Labelled rows, sorted by domain.

    Attributes:
        label: 1 for a positive, 0 for a negative.
        domain_slices: where each domain's rows lie.
    """

    features: RankingFeatures
    label: Float[Tensor, " batch"]
    domain_slices: DomainSlices

    def to(self, device: torch.device) -> "RankingBatch":
        return RankingBatch(self.features.to(device), self.label.to(device), self.domain_slices)

"""Embedding of fields (ADI eq. 6-7): one table a vocabulary, shared by all domains."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from isthmus.batch import Bag, Features, FeatureSizes, RankingFeatures, RankingSizes
from isthmus.domains import DomainSlices
from isthmus.layers.products import Linear


class FieldEmbedding(nn.Module):
    """Embeds one side's features; a field that a domain does not have is a zero vector there.

    A list is the sum of its values' vectors divided by the square root of their number. A number is its value times a
    learned vector. A text's vector is mapped linearly, so that one without known words stays zero. Row 0 of a table,
    the unseen value, starts as the zero vector.

    Args:
        tables: embedding tables by name; a table handed to several embeddings is shared by them.
        categorical, bags: the table of each field.
        num_numbers: how many number fields follow.
        text_dims: width of the vector of each text field, which come last.
        present: for each domain, which of the fields it has.
        tables_by_domain: each table holds one block of rows a domain, and no two domains share a vector.
    """

    def __init__(
        self,
        tables: Mapping[str, nn.Embedding],
        *,
        categorical: Sequence[str],
        bags: Sequence[str],
        num_numbers: int,
        present: Sequence[Sequence[bool]],
        dim: int,
        tables_by_domain: bool = False,
        text_dims: Sequence[int] = (),
    ) -> None:
        super().__init__()
        # By place: a declared name, such as "type" or "item.brand", may be none that a module can have.
        self.table_names = tuple(dict.fromkeys((*categorical, *bags)))
        self.tables = nn.ModuleList(tables[name] for name in self.table_names)
        self.categorical, self.bags, self.num_numbers = tuple(categorical), tuple(bags), num_numbers
        self.num_fields = len(self.categorical) + len(self.bags) + num_numbers + len(text_dims)
        self.dim = dim
        self.tables_by_domain = tables_by_domain
        self.number_vector = nn.Parameter(torch.empty(num_numbers, dim).normal_(std=dim**-0.5)) if num_numbers else None
        self.text_maps = nn.ModuleList(Linear(text_dim, dim, bias=False) for text_dim in text_dims)
        self.fields_of = tuple(tuple(fields) for fields in present)
        self.register_buffer("present", torch.tensor(present, dtype=torch.bool), persistent=False)
        self.has_absent_fields = not all(all(fields) for fields in present)
        self.present: Tensor

    def forward(self, features: Features, domain_slices: DomainSlices) -> Float[Tensor, "batch field dim"]:
        return torch.stack(self.fields(features, domain_slices), dim=1)

    def fields(self, features: Features, domain_slices: DomainSlices) -> list[Float[Tensor, "batch dim"]]:
        """The embedded fields, in the type that products of matrices have: what they read is then cast once."""
        num_domains = domain_slices.num_domains
        domain = domain_slices.row_domain(features.categorical.device)
        fields: list[Tensor] = []
        for position, name in enumerate(self.categorical):
            table = self._table(name)
            row = features.categorical[:, position]
            fields.append(table(row + domain * (table.num_embeddings // num_domains) if self.tables_by_domain else row))
        for name, bag in zip(self.bags, features.bags, strict=True):
            table = self._table(name)
            values = bag.values
            if self.tables_by_domain:
                values = values + domain[bag.row()] * (table.num_embeddings // num_domains)
            fields.append(pool(table, Bag(values, bag.offsets)))
        if self.number_vector is not None:
            fields.extend(torch.einsum("bn,nd->nbd", features.number, self.number_vector))
        fields.extend(text_map(text) for text_map, text in zip(self.text_maps, features.text, strict=True))
        fields = [for_products(field) for field in fields]
        if not self.has_absent_fields:
            return fields
        domains = [number for number, _ in domain_slices]
        if len(domains) == 1:
            is_present = self.fields_of[domains[0]]
            return [x if is_own else torch.zeros_like(x) for x, is_own in zip(fields, is_present, strict=True)]
        absent = ~self.present[domain]
        return [field.masked_fill(absent[:, place, None], 0.0) for place, field in enumerate(fields)]

    def _table(self, name: str) -> nn.Embedding:
        table = self.tables[self.table_names.index(name)]
        assert isinstance(table, nn.Embedding)
        return table


def for_products(x: Tensor) -> Tensor:
    """`x` in the type that autocast gives the factors of a matrix product; as it is without autocast."""
    kind = x.device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return x.to(torch.get_autocast_dtype(kind))
    return x


def pool(table: nn.Embedding, bag: Bag) -> Float[Tensor, "batch dim"]:
    """Sum of each list's vectors over the square root of its length; zero for an empty list."""
    if torch.compiler.is_exporting():  # where an embedding bag would become a loop over its lists
        total = _sum_of_lists(table(bag.values), bag.offsets)
    else:
        total = functional.embedding_bag(
            bag.values, table.weight, bag.offsets, mode="sum", sparse=table.sparse, include_last_offset=True
        )
    length = (bag.offsets[1:] - bag.offsets[:-1]).clamp(min=1)  # an empty list's sum is zero already
    return total * length.to(total.dtype).rsqrt().unsqueeze(1)


def _sum_of_lists(
    vectors: Float[Tensor, "value dim"], offsets: Int[Tensor, " batch_plus_1"]
) -> Float[Tensor, "batch dim"]:
    """The sum of each list's vectors, by operations that know no list: a value's list is how many ends precede it."""
    ends = torch.zeros(vectors.shape[0] + 1, dtype=torch.int64)
    ends = ends.scatter_add(0, offsets[1:], torch.ones_like(offsets[1:]))
    row = ends.cumsum(0)[:-1]
    return vectors.new_zeros(offsets.shape[0] - 1, vectors.shape[1]).index_add(0, row, vectors)


def new_table(num_rows: int, dim: int, *, std: float, num_domains: int = 1) -> nn.Embedding:
    """A table of `num_domains` blocks of `num_rows` vectors, drawn from N(0, std^2); row 0 of each block is zero."""
    table = nn.Embedding(num_rows * num_domains, dim, sparse=True)
    with torch.no_grad():
        table.weight.normal_(0.0, std)
        table.weight[::num_rows] = 0.0
    return table


class RankingEmbedding(nn.Module):
    """Embeds all that a click model reads: the user's fields, then the item's, then those of the row.

    Args:
        tables: embedding tables by name; the sides share a table that fields of both name.
    """

    def __init__(
        self, tables: Mapping[str, nn.Embedding], sizes: RankingSizes, dim: int, *, tables_by_domain: bool = False
    ) -> None:
        super().__init__()

        def side(sizes: FeatureSizes) -> FieldEmbedding:
            return FieldEmbedding(
                tables,
                categorical=sizes.categorical,
                bags=sizes.bags,
                num_numbers=sizes.num_numbers,
                present=sizes.present,
                dim=dim,
                tables_by_domain=tables_by_domain,
                text_dims=sizes.text_dims,
            )

        self.user, self.item = side(sizes.user), side(sizes.item)
        self.row = side(sizes.row) if sizes.row.num_fields else None
        self.num_fields, self.dim = sizes.num_fields, dim

    def forward(self, features: RankingFeatures, domain_slices: DomainSlices) -> Float[Tensor, "batch field dim"]:
        item = self.item.fields(features.item, domain_slices)
        if features.user.num_rows == features.num_rows:
            user = self.user.fields(features.user, domain_slices)
        else:  # one user's row stands for all
            ((domain, _),) = domain_slices
            one = DomainSlices.single(domain, 1, domain_slices.num_domains)
            user = [field.expand(features.num_rows, -1) for field in self.user.fields(features.user, one)]
        fields = user + item
        if self.row is not None:
            fields += self.row.fields(features.row, domain_slices)
        return torch.stack(fields, dim=1)

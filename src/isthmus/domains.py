"""A domain is a span of rows: where each domain's rows lie in a batch that is sorted by domain."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch
from jaxtyping import Int
from torch import Tensor


@dataclass(frozen=True)
class DomainSlices:
    """Where each domain's rows lie in a batch sorted by domain.

    Attributes:
        bounds: `num_domains + 1` row numbers; domain d owns rows `bounds[d]` to `bounds[d + 1]`, end excluded.

    The numbers are Python integers, so that routing rows never waits for an accelerator.
    """

    bounds: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.bounds) < 2 or self.bounds[0] != 0:
            raise ValueError(f"bounds must start at 0 and cover one domain or more, got {self.bounds}")
        if any(end < start for start, end in pairwise(self.bounds)):
            raise ValueError(f"bounds must not fall, got {self.bounds}: is the batch sorted by domain?")

    @classmethod
    def from_counts(cls, counts: Sequence[int]) -> "DomainSlices":
        """Slices of a batch that holds `counts[d]` rows of domain d."""
        return cls((0, *accumulate(counts)))

    @classmethod
    def single(cls, domain: int, num_rows: int, num_domains: int) -> "DomainSlices":
        """Slices of a batch whose rows are all of one domain."""
        if not 0 <= domain < num_domains:
            raise ValueError(f"domain {domain} is not one of the {num_domains} declared domains")
        return cls.from_counts([num_rows if d == domain else 0 for d in range(num_domains)])

    @classmethod
    def from_sorted(cls, domain: Int[Tensor, " batch"], num_domains: int) -> "DomainSlices":
        """Slices of a sorted column of domain numbers.

        Raises:
            ValueError: the column is not sorted, or a number is not that of a declared domain.
        """
        if domain.numel():
            if bool((domain[1:] < domain[:-1]).any()):
                raise ValueError("rows are not sorted by domain")
            if int(domain[0]) < 0 or int(domain[-1]) >= num_domains:
                raise ValueError(f"domain numbers must lie in 0..{num_domains - 1}")
        return cls.from_counts(torch.bincount(domain, minlength=num_domains).tolist())

    @property
    def num_domains(self) -> int:
        return len(self.bounds) - 1

    @property
    def num_rows(self) -> int:
        return self.bounds[-1]

    @property
    def counts(self) -> tuple[int, ...]:
        return tuple(end - start for start, end in pairwise(self.bounds))

    def __getitem__(self, domain: int) -> slice:
        return slice(self.bounds[domain], self.bounds[domain + 1])

    def __iter__(self) -> Iterator[tuple[int, slice]]:
        """Each domain that has rows here, with its rows."""
        for domain, (start, end) in enumerate(pairwise(self.bounds)):
            if end > start:
                yield domain, slice(start, end)

    def row_domain(self, device: torch.device | None = None) -> Int[Tensor, " batch"]:
        """The domain number of every row."""
        present = list(self)
        if len(present) == 1:  # as at serving; also, what is traced for export has no number of rows yet
            return torch.full((self.num_rows,), present[0][0], dtype=torch.int64, device=device)
        counts = torch.tensor(self.counts, device=device)
        return torch.repeat_interleave(torch.arange(self.num_domains, device=device), counts, output_size=self.num_rows)

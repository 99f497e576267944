"""Gives the domains of a click model other numbers, to see that nothing else changes."""

import re
from collections.abc import Sequence
from itertools import accumulate

from torch import nn

from isthmus.layers.embedding import FieldEmbedding


def renamed(key: str, new_number: Sequence[int]) -> str:
    """The name of a parameter when domain d is `new_number[d]`: what a domain owns is in a list named `own_...`."""
    return re.sub(r"(\bown_\w+\.)(\d+)", lambda found: found[1] + str(new_number[int(found[2])]), key)


def renumbered_sizes(model: nn.Module, new_number: Sequence[int]) -> None:
    """Let every embedding of the model know which fields the renumbered domains have."""
    old_number = [new_number.index(d) for d in range(len(new_number))]
    for part in model.modules():
        if isinstance(part, FieldEmbedding):
            part.present = part.present[old_number]


def reordered(counts: Sequence[int], new_number: Sequence[int]) -> tuple[list[int], list[int]]:
    """A batch's rows in the order of the new numbers, and how many there are of each."""
    starts = [0, *accumulate(counts)]
    old_number = [new_number.index(d) for d in range(len(new_number))]
    rows = [row for d in old_number for row in range(starts[d], starts[d] + counts[d])]
    return rows, [counts[d] for d in old_number]

"""The settings of each kind of index. Whoever only trains reads them too, and loads no library of indexes for it."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field, PositiveInt, model_validator


class ExactIndexSettings(BaseModel, frozen=True, extra="forbid"):
    """Every item of the corpus is scored."""

    kind: Literal["exact"] = "exact"


class IVFIndexSettings(BaseModel, frozen=True, extra="forbid"):
    """Only the lists of items nearest to the user are read.

    num_lists: a corpus with fewer items than that is searched exactly.
    num_probes: lists read for a user; more where these cannot fill a request.
    eight_bits: an item's numbers are rounded to 8 bits each.
    """

    kind: Literal["ivf"] = "ivf"
    num_lists: PositiveInt = 256
    num_probes: PositiveInt = 16
    eight_bits: bool = False
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def probes_fit(self) -> "IVFIndexSettings":
        if self.num_probes > self.num_lists:
            raise ValueError(f"num_probes: {self.num_probes} is more than num_lists, {self.num_lists}")
        return self


class HNSWIndexSettings(BaseModel, frozen=True, extra="forbid"):
    """A graph of near neighbours is walked.

    build_breadth, search_breadth: candidates kept while an item is linked, and while a user is served.
    """

    kind: Literal["hnsw"] = "hnsw"
    links_per_item: int = Field(default=32, ge=2)
    build_breadth: PositiveInt = 200
    search_breadth: PositiveInt = 64


AnyIndexSettings = ExactIndexSettings | IVFIndexSettings | HNSWIndexSettings
IndexSettings = Annotated[AnyIndexSettings, Field(discriminator="kind")]
"""Settings of one index, told apart by `kind`; for fields of other settings."""

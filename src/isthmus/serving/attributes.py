"""What is known of items for display and for filters: their declared fields as readable values."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from isthmus.data.dataset import Dataset, Lists, read_manifest
from isthmus.errors import InputError, did_you_mean
from isthmus.schema import FieldSpec
from isthmus.serving.view import UNSEEN, Names

DIGITS = 6  # numbers are stored standardised in single precision, which keeps about 7
Value = str | float | list[str]


@dataclass(frozen=True)
class Filter:
    """A condition on one field: `any_of` texts, for a list one of its values, or a number from `least` to `most`."""

    field: str
    any_of: tuple[str, ...] | None = None
    least: float | None = None
    most: float | None = None


class Attributes:
    """The item fields of a dataset: texts by their vocabulary, numbers in their own units."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        shown = ("categorical", "multi_valued", "sequence", "number")
        self.fields = {f.name: f for f in dataset.schema.side_fields("item") if f.kind in shown}
        self.titles = dataset.titles()
        vocabularies = {field.vocabulary_name for field in self.fields.values() if field.kind != "number"}
        self._values = {name: Names.of(dataset, name) for name in vocabularies}
        spreads = read_manifest(dataset.path)["numbers"]
        self._numbers = {
            name: significant(np.asarray(dataset.features[name], np.float64) * spread["std"] + spread["mean"])
            for name, spread in spreads.items()
            if name in self.fields
        }

    def title(self, item_row: int) -> str | None:
        return self.titles_of(np.array([item_row]))[0]

    def of_item(self, item_row: int, domain: int) -> dict[str, Value]:
        """The values of one item; see `of_items`."""
        return self.of_items(np.array([item_row]), domain)[0]

    def titles_of(self, item_row: Int[np.ndarray, " item"]) -> list[str | None]:
        """The readable name of each item, where there is one."""
        if self.titles is None:
            return [None] * len(item_row)
        return [str(title) or None for title in self.titles[item_row]]

    def of_items(self, item_row: Int[np.ndarray, " item"], domain: int) -> list[dict[str, Value]]:
        """The values of items as a domain shows them; a field without one, or that the domain lacks, is left out."""
        values: list[dict[str, Value]] = [{} for _ in item_row]
        for name, field in self.fields.items():
            if not self._is_present(field, domain):
                continue
            places = item_row + self._shift(field, domain)
            stored = self.dataset.features[name]
            column: Sequence[Value | None]
            if field.kind == "number":
                column = self._numbers[name][places].tolist()
            elif isinstance(stored, Lists):
                names = self._values[field.vocabulary_name]
                ends = zip(stored.offsets[places].tolist(), stored.offsets[places + 1].tolist(), strict=True)
                column = [[names.text(row) for row in stored.values[start:end].tolist()] for start, end in ends]
            else:
                column = self._values[field.vocabulary_name].texts_of(stored[places])
            for item, value in zip(values, column, strict=True):
                if value is not None:
                    item[name] = value
        return values

    def matching(
        self, filters: Sequence[Filter], item_row: Int[np.ndarray, " item"], domain: int
    ) -> Bool[np.ndarray, " item"]:
        """Which of a domain's items fulfil all conditions; a text that no item has fulfils none.

        Raises:
            InputError: a field is not known, or not in this domain, or the condition is not one for its kind.
        """
        fulfilled = np.ones(len(item_row), dtype=bool)
        for condition in filters:
            field = self.fields.get(condition.field)
            if field is None:
                known = ", ".join(self.fields) or "none"
                hint = did_you_mean(condition.field, self.fields) or f"; known are {known}"
                raise InputError(f"filters.{condition.field}: unknown field of items{hint}")
            if not self._is_present(field, domain):
                name = self.dataset.schema.domain_names[domain]
                raise InputError(f"filters.{condition.field}: items have no such field in domain {name!r}")
            places = item_row + self._shift(field, domain)
            fulfilled &= self._ranged(condition, places) if field.kind == "number" else self._named(condition, places)
        return fulfilled

    def _ranged(self, condition: Filter, places: Int[np.ndarray, " item"]) -> Bool[np.ndarray, " item"]:
        if condition.any_of is not None:
            raise InputError(f"filters.{condition.field}: is a number; give 'min' or 'max', not texts")
        values = self._numbers[condition.field][places]
        least = -np.inf if condition.least is None else condition.least
        most = np.inf if condition.most is None else condition.most
        within: np.ndarray = (values >= least) & (values <= most)
        return within

    def _named(self, condition: Filter, places: Int[np.ndarray, " item"]) -> Bool[np.ndarray, " item"]:
        if condition.any_of is None:
            raise InputError(f"filters.{condition.field}: is no number; give a text or a list of texts")
        rows = self._values[self.fields[condition.field].vocabulary_name].rows(condition.any_of)
        stored = self.dataset.features[condition.field]
        if not isinstance(stored, Lists):
            among: np.ndarray = np.isin(stored[places], rows[rows != UNSEEN])
            return among
        is_hit = np.concatenate([[0], np.cumsum(np.isin(stored.values, rows[rows != UNSEEN]))])
        offsets = np.asarray(stored.offsets)
        some: np.ndarray = is_hit[offsets[places + 1]] > is_hit[offsets[places]]
        return some

    def _is_present(self, field: FieldSpec, domain: int) -> bool:
        return field.domains is None or self.dataset.schema.domain_names[domain] in field.domains

    def _shift(self, field: FieldSpec, domain: int) -> int:
        return domain * self.dataset.num_items if self.dataset.is_by_domain(field) else 0


def significant(values: Float[np.ndarray, " value"]) -> Float[np.ndarray, " value"]:
    """Rounded to the digits that single precision keeps, so that a price of 19.99 is 19.99 again."""
    magnitude = np.floor(np.log10(np.abs(values), where=values != 0, out=np.zeros(len(values))))
    power = DIGITS - 1 - magnitude
    # dividing by a whole power of ten gives the nearest decimal; multiplying by 0.01 does not
    scale = 10.0 ** np.abs(power)
    rounded: np.ndarray = np.where(power >= 0, np.rint(values * scale) / scale, np.rint(values / scale) * scale)
    return rounded

"""What a log means: its domains, its fields, which event is a positive and how it is split."""

import hashlib
import json
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator


def fit_for_a_name(name: str) -> str:
    """The name, which files and folders are called by."""
    if not name or any(letter in name for letter in "/\\\0"):
        raise ValueError(f"{name!r} is no name: it must not be empty, nor hold '/', '\\' or a zero byte")
    return name


Name = Annotated[str, AfterValidator(fit_for_a_name)]
OVER_DOMAINS = ("macro", "traffic-weighted")  # what an evaluation calls its means over domains
# What a dataset stores of every event.
EVENT_COLUMNS = ("user", "item", "domain", "time", "candidates", "label", "fold", "user_number")
Share = Annotated[float, Field(gt=0, lt=1)]
Scope = Literal["own", "other", "all"]
StatisticValue = Literal["mean", "count", "adjusted_mean"]


class Declared(BaseModel):
    """Base of what a YAML file declares: frozen, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Positive(Declared):
    """Which event rows are positives: those whose `column` is `at_least` a number, or is one of `values`.

    With neither, the column is a label: 1 is a positive, 0 is not, and anything else is an error.
    """

    column: Name
    at_least: float | None = None
    values: tuple[str, ...] | None = None

    @model_validator(mode="after")
    def one_rule(self) -> "Positive":
        if self.at_least is not None and self.values is not None:
            raise ValueError("give one of 'at_least' and 'values', or neither for a column of labels 0 and 1")
        return self


class Clock(Declared):
    """The log's column of times, and what its numbers count; timestamps and ISO 8601 text say that themselves."""

    column: Name
    unit: Literal["s", "ms", "us"] = "s"


class EventLog(Declared):
    """The log: files (Parquet, CSV or TSV, by their ending; paths relative to the YAML) and its columns."""

    files: tuple[str, ...] = Field(min_length=1)
    user: Name
    item: Name
    domain: Name
    time: Name | Clock | None = None  # seconds since 1970, or any number that only orders a user's events; ISO 8601
    positive: Positive | None = None  # None: every row is a positive


class Domain(Declared):
    """A domain, and the domains whose items it may show; None: its own items only."""

    corpus: tuple[Name, ...] | None = None


class FeatureTable(Declared):
    """A file of features with one row a user or item, or one row a user or item and domain."""

    files: tuple[str, ...] = Field(min_length=1)
    user: Name | None = None
    item: Name | None = None
    domain: Name | None = None

    @model_validator(mode="after")
    def one_side(self) -> "FeatureTable":
        if (self.user is None) == (self.item is None):
            raise ValueError("give one of 'user' and 'item': the column that identifies the row")
        return self


class FieldSpec(Declared):
    """One input field.

    side: whose value it is: the user's, the item's, that of the moment (`context`, which retrieval knows too), or of
        the user, the item and the moment together (`row`, for ranking alone).
    kind: `id` (the side's own identifier), `history` (the user's earlier positives), `categorical`, `multi_valued` and
        `sequence` (values joined by `separator`, or a list column), `number`, `text` (words, as a vector), `statistic`
        (of side `row`: what training labels say of the row's user, item or field value).
    source: the feature table that has the column; `events` (the default): the log itself. A user's or an item's value
        is then that of its latest training row.
    domains: the domains that have the field; None: all.
    vocabulary, table: fields of the same vocabulary share the numbering of values, those of the same table share the
        embeddings too. Both default to the field's own name; `id` has its side's vocabulary, `history` the items'.
    scope: of a history or a statistic: the user's positives, or the labels, of the row's `own` domain, of all `other`
        domains, or of `all`.
    dim, vectors: of a text: how many numbers its vector has (TF-IDF and truncated SVD fitted on training texts), or a
        file of word vectors in GloVe's form (relative to the YAML), whose mean over the text's words it is.
    of, value: of a statistic: of the row's `user`, its `item`, or its value in the named field; the `mean` label,
        shrunk to the domain's, or the log of 1 + the `count` of rows. Only training rows count, never the row itself:
        those strictly before it, or, without a clock, those of other folds. With a `column`, the mean is of that
        number in the log instead, an outcome such as a rating or the seconds watched, which says more than the label.
        An `adjusted_mean` is the mean after each row's other side is allowed for: of an item or its field, what its
        users usually give beyond others, in all domains; of a user or its field, what its items usually get.
    """

    name: Name
    side: Literal["user", "item", "context", "row"]
    kind: Literal["id", "history", "categorical", "multi_valued", "sequence", "number", "text", "statistic"]
    source: Name = "events"
    column: Name | None = None
    domains: tuple[Name, ...] | None = None
    vocabulary: Name | None = None
    table: Name | None = None
    separator: str = Field(default="|", min_length=1)
    max_length: int = Field(default=200, ge=1)
    scope: Scope = "own"
    missing: Literal["error", "mean"] = "error"
    dim: int = Field(default=32, ge=1)
    vectors: Name | None = None
    of: Name | None = None
    value: StatisticValue = "mean"

    @property
    def column_name(self) -> str:
        return self.column or self.name

    @property
    def vocabulary_name(self) -> str:
        match self.kind:
            case "id":
                return self.side
            case "history":
                return "item"
            case _:
                return self.vocabulary or self.name

    @property
    def table_name(self) -> str:
        return self.table or self.name


class TimeSplit(Declared):
    """The latest `test` share of events is test, the latest `valid` share before it validation; one global clock."""

    by: Literal["time"]
    valid: Share = 0.1
    test: Share = 0.1


class LastOut(Declared):
    """A user's last positive in a domain is test, the one before validation; without time, seeded random ones.

    A user with fewer than three positives in a domain stays wholly in training.
    """

    by: Literal["last_out"]
    seed: int = Field(default=0, ge=0)


class GivenSplit(Declared):
    """The log's `column` says `train`, `valid` or `test`.

    Where no row says `valid`, one training positive of a seeded `valid_users` share of each domain's users is carved
    out of training (users with two positives or more): the last by time, else a random one.
    """

    by: Literal["given"]
    column: Name = "split"
    valid_users: float = Field(default=0.1, gt=0, le=1)
    seed: int = Field(default=0, ge=0)


class RandomSplit(Declared):
    """Seeded random rows of each domain are validation and test; for logs without a clock."""

    by: Literal["random"]
    valid: Share = 0.1
    test: Share = 0.1
    seed: int = Field(default=0, ge=0)


class ColdUsersSplit(Declared):
    """Users who are new to `domain`: of a seeded share of users all rows in that domain are validation or test.

    Drawn among those with a row in `domain` and `min_rows` rows or more in `source`. All other rows are training. Who
    is drawn depends on these users' ids and the seed alone, so further domains change nothing.
    """

    by: Literal["cold_users"]
    domain: Name
    source: Name
    min_rows: int = Field(default=5, ge=1)
    valid: Share = 0.1
    test: Share = 0.1
    seed: int = Field(default=0, ge=0)


class SampledNegatives(Declared):
    """Negatives drawn for each positive, in its domain and at its time, among items the user has not taken.

    draw: `uniform` over items, by `popularity` in training, or from the items of other positives of the same split and
        domain, all (`same_split`) or within `window` positives in time (`time_window`): popularity says nothing.
    items: of a uniform draw: those that training has in the domain, or `all` that the log has there.
    """

    per_positive: int = Field(default=5, ge=1)
    draw: Literal["uniform", "popularity", "same_split", "time_window"] = "uniform"
    items: Literal["training", "all"] = "training"
    window: int = Field(default=1000, ge=1)
    seed: int = Field(default=0, ge=0)


class Ranking(Declared):
    """Labelled rows for click models.

    negatives: `explicit`: the rows of the log that are not positive by `events.positive`; or how they are drawn.
    folds, seed: of statistics and histories where there is no clock: a training row knows only rows of other folds.
    prior: how many rows of the domain's mean label a mean statistic is mixed with.
    """

    negatives: Literal["explicit"] | SampledNegatives = "explicit"
    folds: int = Field(default=10, ge=2)
    prior: float = Field(default=5.0, ge=0)
    seed: int = Field(default=0, ge=0)


class Candidates(Declared):
    """Lists that an evaluation chooses from.

    files: columns `user`, `domain` and `items` (joined by commas or a list column) for the test positives; without
        files, lists are drawn for test as for validation.
    sampled: for validation, this many items of the domain's corpus that the user has not taken, drawn uniformly, and
        the positive itself.
    """

    files: tuple[str, ...] = ()
    sampled: int = Field(default=99, ge=1)
    seed: int = Field(default=0, ge=0)


class Schema(Declared):
    """A log's declaration, as written in its YAML file."""

    name: Name
    events: EventLog
    domains: dict[Name, Domain] = Field(min_length=1)
    unknown_domain: Name | Literal["error"] = "error"
    tables: dict[Name, FeatureTable] = {}
    fields: tuple[FieldSpec, ...] = Field(min_length=1)
    split: Annotated[TimeSplit | LastOut | GivenSplit | RandomSplit | ColdUsersSplit, Field(discriminator="by")]
    candidates: Candidates | None = None
    ranking: Ranking | None = None
    title: FieldSpec | None = None  # an item's readable name, for display: source and column are read

    @property
    def domain_names(self) -> tuple[str, ...]:
        return tuple(self.domains)

    @property
    def draws_negatives(self) -> bool:
        return self.ranking is not None and self.ranking.negatives != "explicit"

    @property
    def outcome_columns(self) -> tuple[str, ...]:
        """The log's columns that statistics are means of, beside the label."""
        columns = (field.column for field in self.fields if field.kind == "statistic")
        return tuple(dict.fromkeys(column for column in columns if column is not None))

    def other_side(self, of: str) -> Literal["user", "item"]:
        """Whom what a statistic is about meets: a user or its fields an item, all else a user."""
        is_users = of == "user" or any(field.name == of and field.side == "user" for field in self.fields)
        return "item" if is_users else "user"

    def domain_number(self, name: str) -> int:
        """The number of a declared domain, or of the declared fallback for a name that is not declared.

        Raises:
            ValueError: the name is not declared and there is no fallback.
        """
        names = self.domain_names
        if name in names:
            return names.index(name)
        if self.unknown_domain != "error":
            return names.index(self.unknown_domain)
        raise ValueError(
            f"unknown domain {name!r}; declared are {', '.join(names)} (declare it under 'domains', or name a "
            "fallback in 'unknown_domain')"
        )

    def corpus_domains(self, domain: str) -> tuple[str, ...]:
        """The domains whose items `domain` may show."""
        return self.domains[domain].corpus or (domain,)

    def side_fields(self, side: Literal["user", "item", "row"]) -> tuple[FieldSpec, ...]:
        """The fields of one side, in the order of its features; the context belongs to the user's."""
        sides = ("user", "context") if side == "user" else (side,)
        return tuple(field for field in self.fields if field.side in sides)

    @model_validator(mode="after")
    def names_fit(self) -> "Schema":
        declared = set(self.domains)
        for name, domain in self.domains.items():
            if unknown := set(domain.corpus or ()) - declared:
                raise ValueError(f"domains.{name}.corpus: unknown domain {sorted(unknown)[0]!r}")
        if self.unknown_domain != "error" and self.unknown_domain not in declared:
            raise ValueError(f"unknown_domain: {self.unknown_domain!r} is not a declared domain")
        if "error" in declared:
            raise ValueError("domains: 'error' cannot be a domain's name")
        for name in declared & set(OVER_DOMAINS):
            raise ValueError(f"domains.{name}: an evaluation calls its mean over domains so; give another name")
        seen: set[str] = set()
        vocabulary_of_table: dict[str, str] = {}
        for field in self.fields:
            where = f"fields.{field.name}"
            if field.name in seen:
                raise ValueError(f"{where}: declared twice")
            seen.add(field.name)
            if unknown := set(field.domains or ()) - declared:
                raise ValueError(f"{where}.domains: unknown domain {sorted(unknown)[0]!r}")
            if field.kind == "history" and field.side != "user":
                raise ValueError(f"{where}: a history belongs to side 'user', not {field.side!r}")
            if field.kind == "id" and field.side not in ("user", "item"):
                raise ValueError(f"{where}: an id belongs to side 'user' or 'item'")
            if field.side in ("context", "row") and field.source != "events":
                raise ValueError(f"{where}.source: a {field.side} field comes from the log, not from {field.source!r}")
            if field.side in ("context", "row") and field.name in EVENT_COLUMNS:
                raise ValueError(f"{where}: no {field.side} field can have this name; use 'column' for the log's name")
            is_read = field.source == "events" and field.kind not in ("id", "history", "statistic")
            label = None if self.ranking is None or self.events.positive is None else self.events.positive.column
            if is_read and field.column_name == label:
                raise ValueError(
                    f"{where}: column {label!r} is what events.positive judges by, which a model would know the label "
                    "from; a 'statistic' may be of it"
                )
            if field.side == "row" and self.ranking is None:
                raise ValueError(f"{where}: a field of side 'row' is for ranking; declare 'ranking'")
            if field.kind == "text" and field.side not in ("user", "item"):
                raise ValueError(f"{where}: a text belongs to side 'user' or 'item', not {field.side!r}")
            if (field.kind == "statistic") != (field.of is not None):
                raise ValueError(f"{where}.of: names what a field of kind 'statistic' is about, and of no other kind")
            if field.kind == "statistic":
                if field.column is not None and (field.value == "count" or self.draws_negatives):
                    raise ValueError(
                        f"{where}.column: an outcome is for a 'mean' or 'adjusted_mean' over explicit negatives; a "
                        "count has none, nor has a drawn negative"
                    )
                if field.side != "row":
                    raise ValueError(f"{where}: a statistic is of side 'row', not {field.side!r}")
                about = next((f for f in self.fields if f.name == field.of), None)
                if field.of not in ("user", "item") and (about is None or about.kind != "categorical"):
                    raise ValueError(f"{where}.of: 'user', 'item' or a categorical field, not {field.of!r}")
            if field.name.endswith((".values", ".offsets")):
                raise ValueError(f"{where}: a name cannot end in '.values' or '.offsets'")
            if field.source != "events":
                if field.source not in self.tables:
                    raise ValueError(f"{where}.source: no table {field.source!r} under 'tables'")
                has_side = self.tables[field.source].user if field.side == "user" else self.tables[field.source].item
                if has_side is None:
                    raise ValueError(f"{where}.source: table {field.source!r} is not keyed by the {field.side}")
            if field.kind not in ("number", "text", "statistic"):
                other = vocabulary_of_table.setdefault(field.table_name, field.vocabulary_name)
                if other != field.vocabulary_name:
                    raise ValueError(f"{where}.table: {field.table_name!r} already holds vocabulary {other!r}")
        if self.title is not None:
            if self.title.side != "item" or self.title.kind != "categorical":
                raise ValueError("title: is of side 'item' and kind 'categorical'")
            if self.title.source != "events" and self.title.source not in self.tables:
                raise ValueError(f"title.source: no table {self.title.source!r} under 'tables'")
            if self.title.source != "events" and self.tables[self.title.source].item is None:
                raise ValueError(f"title.source: table {self.title.source!r} is not keyed by the item")
        for side in ("user", "item"):
            if not any(field.side == side for field in self.fields):
                raise ValueError(f"fields: none on side {side!r}")
        if self.split.by == "cold_users":
            for key, name in (("domain", self.split.domain), ("source", self.split.source)):
                if name not in declared:
                    raise ValueError(f"split.{key}: {name!r} is not a declared domain")
            if self.split.domain == self.split.source:
                raise ValueError("split.source: must be another domain than split.domain")
        if self.ranking is not None:
            if self.ranking.negatives == "explicit":
                if self.events.positive is None:
                    raise ValueError("ranking.negatives: 'explicit' needs events.positive, which says what is one")
            elif self.ranking.negatives.draw == "time_window" and self.events.time is None:
                raise ValueError("ranking.negatives.draw: 'time_window' needs events.time")
        if self.split.by == "time" and self.events.time is None:
            raise ValueError("split.by: 'time' needs events.time; without a clock use 'last_out'")
        return self

    def hash(self) -> str:
        """A short fingerprint of the whole declaration."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

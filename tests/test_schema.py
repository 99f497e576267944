from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError

from isthmus.schema import FieldSpec, Positive, Schema

Declaration = dict[str, Any]


def declaration() -> Declaration:
    return {
        "name": "shop",
        "events": {"files": ["log.csv"], "user": "u", "item": "i", "domain": "d", "time": "t"},
        "domains": {"us": {}, "us_app": {"corpus": ["us", "us_app"]}, "de": {}},
        "tables": {
            "people": {"files": ["people.csv"], "user": "u"},
            "offers": {"files": ["offers.csv"], "item": "i", "domain": "d"},
        },
        "fields": [
            {"name": "user", "side": "user", "kind": "id"},
            {"name": "taken", "side": "user", "kind": "history", "table": "item"},
            {"name": "hour", "side": "context", "kind": "categorical"},
            {"name": "item", "side": "item", "kind": "id"},
            {"name": "brand", "side": "item", "kind": "categorical", "source": "offers"},
            {"name": "price", "side": "item", "kind": "number", "source": "offers"},
        ],
        "split": {"by": "time"},
    }


def test_the_declaration_under_test_is_accepted() -> None:
    schema = Schema.model_validate(declaration())
    assert schema.domain_names == ("us", "us_app", "de")
    assert [field.name for field in schema.side_fields("user")] == ["user", "taken", "hour"]
    assert [field.name for field in schema.side_fields("item")] == ["item", "brand", "price"]


def set_key(*path: str | int, to: Any) -> Callable[[Declaration], None]:
    def change(declared: Declaration) -> None:
        place: Any = declared
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = to

    return change


def add_field(**field: Any) -> Callable[[Declaration], None]:
    return lambda declared: declared["fields"].append(field)


def drop_fields(side: str) -> Callable[[Declaration], None]:
    return lambda declared: declared.update(fields=[f for f in declared["fields"] if f["side"] != side])


REFUSALS = {
    "a corpus of an undeclared domain": (set_key("domains", "de", to={"corpus": ["fr"]}), "de.corpus.*'fr'"),
    "a fallback that is not declared": (set_key("unknown_domain", to="fr"), "'fr' is not a declared domain"),
    "a domain named error": (set_key("domains", "error", to={}), "'error' cannot be"),
    "a domain that has the name of a mean": (set_key("domains", "macro", to={}), "calls its mean over domains so"),
    "no domain": (set_key("domains", to={}), "at least 1"),
    "a field declared twice": (add_field(name="hour", side="context", kind="number"), "hour: declared twice"),
    "a field of an undeclared domain": (set_key("fields", 0, "domains", to=["fr"]), "user.domains: .*'fr'"),
    "a history of items": (add_field(name="h", side="item", kind="history"), "history belongs to side 'user'"),
    "an id of the context": (add_field(name="x", side="context", kind="id"), "id belongs to side"),
    "a context field of a table": (
        add_field(name="x", side="context", kind="number", source="offers"),
        "context field comes from the log",
    ),
    "an undeclared table": (set_key("fields", 4, "source", to="sellers"), "no table 'sellers'"),
    "a user's field of an item's table": (
        add_field(name="x", side="user", kind="number", source="offers"),
        "not keyed by the user",
    ),
    "one table for two vocabularies": (set_key("fields", 4, "table", to="item"), "already holds vocabulary 'item'"),
    "no user field": (drop_fields("user"), "none on side 'user'"),
    "no item field": (drop_fields("item"), "none on side 'item'"),
    "a split by time without a clock": (set_key("events", "time", to=None), "needs events.time"),
    "an unknown key": (set_key("events", "tiem", to="t"), "Extra inputs"),
    "a path as a name": (set_key("fields", 0, "name", to="../user"), "'../user' is no name"),
    "an empty separator": (set_key("fields", 4, "separator", to=""), "at least 1"),
    "a table of both sides": (set_key("tables", "people", "item", to="i"), "give one of 'user' and 'item'"),
    "a table of no side": (set_key("tables", "people", to={"files": ["x.csv"]}), "give one of 'user' and 'item'"),
    "shares above one": (set_key("split", "test", to=1.5), "less than 1"),
    "a split of no kind": (set_key("split", to={"by": "chance"}), "does not match any of the expected tags"),
}


@pytest.mark.parametrize("case", list(REFUSALS))
def test_what_does_not_fit_is_refused(case: str) -> None:
    change, message = REFUSALS[case]
    declared = declaration()
    change(declared)
    with pytest.raises(ValidationError, match=message):
        Schema.model_validate(declared)


def test_every_refusal_was_tried() -> None:
    assert len(REFUSALS) == 23


def test_an_undeclared_domain_is_an_error_or_the_declared_fallback() -> None:
    strict = Schema.model_validate(declaration())
    with pytest.raises(ValueError, match=r"unknown domain 'fr'; declared are us, us_app, de"):
        strict.domain_number("fr")
    lenient = Schema.model_validate({**declaration(), "unknown_domain": "de"})
    assert lenient.domain_number("fr") == 2


def test_domains_whose_names_begin_alike_are_told_apart() -> None:
    schema = Schema.model_validate(declaration())
    assert [schema.domain_number(name) for name in ("us", "us_app", "de")] == [0, 1, 2]
    with pytest.raises(ValueError, match="unknown domain 'us_'"):
        schema.domain_number("us_")


def test_a_corpus_is_the_domains_own_unless_declared() -> None:
    schema = Schema.model_validate(declaration())
    assert schema.corpus_domains("us") == ("us",)
    assert schema.corpus_domains("us_app") == ("us", "us_app")


@pytest.mark.parametrize(
    ("field", "vocabulary", "table"),
    [
        ({"name": "user", "side": "user", "kind": "id"}, "user", "user"),
        ({"name": "me", "side": "user", "kind": "id"}, "user", "me"),
        ({"name": "taken", "side": "user", "kind": "history", "vocabulary": "ignored"}, "item", "taken"),
        ({"name": "a", "side": "item", "kind": "categorical"}, "a", "a"),
        ({"name": "a", "side": "item", "kind": "categorical", "vocabulary": "b"}, "b", "a"),
        ({"name": "a", "side": "item", "kind": "sequence", "vocabulary": "b", "table": "c"}, "b", "c"),
    ],
)
def test_which_vocabulary_and_table_a_field_uses(field: Declaration, vocabulary: str, table: str) -> None:
    spec = FieldSpec.model_validate(field)
    assert (spec.vocabulary_name, spec.table_name) == (vocabulary, table)


@pytest.mark.parametrize("rule", [{"at_least": 1.0, "values": ("click",)}])
def test_a_positive_has_one_rule(rule: Declaration) -> None:
    with pytest.raises(ValidationError, match="give one of 'at_least' and 'values'"):
        Positive.model_validate({"column": "event", **rule})


@pytest.mark.parametrize("side", ["row", "context", "item"])
def test_a_click_model_may_not_read_what_says_whether_a_row_is_a_positive(side: str) -> None:
    declared = declaration()
    declared["events"]["positive"] = {"column": "stars", "at_least": 4}
    declared["ranking"] = {"negatives": "explicit"}
    leak = {"name": "taste", "side": side, "kind": "number", "column": "stars"}
    average = {"name": "mean", "side": "row", "kind": "statistic", "of": "user", "column": "stars"}
    with pytest.raises(ValidationError, match="column 'stars' is what"):
        Schema.model_validate(declared | {"fields": [*declared["fields"], leak]})
    assert Schema.model_validate(declared | {"fields": [*declared["fields"], average]})
    if side == "item":  # what a table has under that name is another thing
        assert Schema.model_validate(declared | {"fields": [*declared["fields"], leak | {"source": "offers"}]})


def test_what_a_statistic_is_about_meets_the_other_side() -> None:
    declared = declaration()
    declared["fields"].append({"name": "age", "side": "user", "kind": "categorical"})
    schema = Schema.model_validate(declared)
    assert (schema.other_side("user"), schema.other_side("age")) == ("item", "item")
    of_items = [field.name for field in schema.fields if field.side in ("item", "context")]
    assert of_items
    assert {schema.other_side(of) for of in ("item", *of_items)} == {"user"}


def test_the_hash_follows_the_declaration_and_nothing_else() -> None:
    schema = Schema.model_validate(declaration())
    again = Schema.model_validate(schema.model_dump(mode="json"))
    assert schema.hash() == again.hash()
    assert len(schema.hash()) == 16
    renamed = declaration()
    renamed["events"]["item"] = "sku"
    assert Schema.model_validate(renamed).hash() != schema.hash()

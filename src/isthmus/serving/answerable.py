"""What requests to a bundle may say, so that another one can take its place without any of them becoming an error."""

from pathlib import Path

from isthmus.data.dataset import read_manifest as read_dataset_manifest
from isthmus.errors import InputError
from isthmus.schema import Schema
from isthmus.serving.bundle_files import Manifest

ANY_DOMAIN = "domains that are not declared"
OF_ITEMS = ("categorical", "multi_valued", "sequence")


def answerable(folder: Path, manifest: Manifest) -> frozenset[str]:
    """What requests may say, a text each: domains, context fields, filters of each domain, a history, and of which part
    of every corpus they ask.

    Whether a domain's lists are ranked is not among it: without a click model they are in retrieval's order.
    """
    schema = _schema(folder / manifest.retrieval.data)
    shard = manifest.retrieval.shard
    said = {f"domain {name}" for name in manifest.domains}
    said.add("the whole of every corpus" if shard is None else f"shard {shard.place} of {shard.count}")
    if schema.unknown_domain != "error":
        said.add(ANY_DOMAIN)
    chosen = manifest.retrieval.settings.fields
    if any(f.kind == "history" and (chosen is None or f.name in chosen) for f in schema.side_fields("user")):
        said.add("history")
    context = _context(schema, chosen)
    if manifest.ranking is not None:
        context |= _context(_schema(folder / manifest.ranking.data), manifest.ranking.settings.fields)
        context.pop(manifest.ranking.score_field or "", None)  # which is computed
    said.update(f"context.{name} ({kind})" for name, kind in context.items())
    for field in schema.side_fields("item"):
        if field.kind == "number" or field.kind in OF_ITEMS:
            kind = "number" if field.kind == "number" else "text"
            domains = manifest.domains if field.domains is None else field.domains
            said.update(f"filters.{field.name} ({kind}) in {name}" for name in domains if name in manifest.domains)
    return frozenset(said)


def lacking(answers: frozenset[str], present: frozenset[str]) -> list[str]:
    """What requests may say now that would be errors with another bundle."""
    missing = present - answers
    gone = {text.removeprefix("domain ") for text in missing if text.startswith("domain ")}
    # a domain that is not there has no filters either, which need not be said
    return sorted(text for text in missing if text.rpartition(" in ")[2] not in gone or not text.startswith("filters."))


def require_answers(folder: Path, answers: frozenset[str], present: frozenset[str]) -> None:
    """Raises InputError where requests that are answered now would be errors with another bundle."""
    if told := lacking(answers, present):
        raise InputError(
            f"{folder}: cannot answer what requests may say now: {', '.join(told)}; publish it in a place of its own, "
            "or say that this is meant with --allow-changed-schema"
        )


def _schema(data: Path) -> Schema:
    return Schema.model_validate(read_dataset_manifest(data)["schema"])


def _context(schema: Schema, chosen: tuple[str, ...] | None) -> dict[str, str]:
    """The kind of value that each context field takes."""
    kinds = {}
    for field in schema.fields:
        is_read = chosen is None or field.name in chosen
        if field.side in ("context", "row") and field.kind != "statistic" and is_read:
            lists = {"number": "number", "multi_valued": "list", "sequence": "list"}
            kinds[field.name] = lists.get(field.kind, "text")
    return kinds

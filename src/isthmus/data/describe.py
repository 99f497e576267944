"""What a dataset holds: the counts that the papers' data tables give."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from isthmus.data.dataset import read_manifest
from isthmus.files import markdown_table

MOST_SIDE_BY_SIDE = 8  # domains; of more, a terminal has no room for columns
NUM_NEAREST = 3


@dataclass(frozen=True)
class DomainSummary:
    """Counts of one domain.

    Attributes:
        users, items: those with a training or validation positive.
        repeats: rows of the log that say again what another row says.
        dropped_by_split: held-out rows left out, since the user had taken the item before.
        valid_items_unseen, test_items_unseen: held-out positives whose item no training row has; they stay, as misses.
        test_items_new_to_domain: test positives whose item has no training or validation positive in this domain.
        test_users_unseen: test positives of users without a training positive.
    """

    name: str
    users: int
    items: int
    train: int
    valid: int
    test: int
    repeats: int
    dropped_by_split: int
    valid_items_unseen: int
    test_items_unseen: int
    test_items_new_to_domain: int
    test_users_unseen: int


@dataclass(frozen=True)
class Description:
    """Counts by domain, and how many users and items each pair of domains shares.

    Attributes:
        labelled: by split, each domain's labelled rows and how many of them are positives; empty without ranking.
    """

    name: str
    domains: tuple[DomainSummary, ...]
    user_overlap: tuple[tuple[int, ...], ...]
    item_overlap: tuple[tuple[int, ...], ...]
    labelled: Mapping[str, tuple[tuple[int, int], ...]]

    def to_markdown(self) -> str:
        """Two tables: counts by domain, and `users / items` in common, of many domains with the nearest alone."""
        rows = [
            ("users", [d.users for d in self.domains]),
            ("items", [d.items for d in self.domains]),
            ("records (training + validation)", [d.train + d.valid for d in self.domains]),
            ("training positives", [d.train for d in self.domains]),
            ("validation positives", [d.valid for d in self.domains]),
            ("test positives", [d.test for d in self.domains]),
            ("repeated rows dropped", [d.repeats for d in self.domains]),
            ("held-out rows dropped, taken before", [d.dropped_by_split for d in self.domains]),
            ("validation positives, item not in training", [d.valid_items_unseen for d in self.domains]),
            ("test positives, item not in training", [d.test_items_unseen for d in self.domains]),
            ("test positives, item new to the domain", [d.test_items_new_to_domain for d in self.domains]),
            ("test positives, user not in training", [d.test_users_unseen for d in self.domains]),
        ]
        counts = [[label, *(f"{count:,}" for count in values)] for label, values in rows]
        of_labels = [
            [split, *(f"{count:,} / {positives / count:.1%}" if count else "0" for count, positives in by_domain)]
            for split, by_domain in self.labelled.items()
        ]
        labels = f"\nLabelled rows / share of positives:\n\n{self._table(of_labels)}\n"
        return (
            f"## {self.name}\n\n{self._table(counts)}\n\n"
            f"Users / items in common (training and validation):\n\n{self._in_common()}\n"
            f"{labels if of_labels else ''}"
        )

    def _table(self, rows: list[list[str]]) -> str:
        """Named rows with a value a domain; a line a domain where there are many."""
        lines = [["", *(domain.name for domain in self.domains)], *rows]
        if len(self.domains) > MOST_SIDE_BY_SIDE:
            lines = [list(line) for line in zip(*lines, strict=True)]
        return markdown_table(lines[0], lines[1:])

    def _in_common(self) -> str:
        names = [domain.name for domain in self.domains]
        if len(names) <= MOST_SIDE_BY_SIDE:
            shared = [
                [name, *(f"{user:,} / {item:,}" for user, item in zip(users, items, strict=True))]
                for name, users, items in zip(names, self.user_overlap, self.item_overlap, strict=True)
            ]
            return markdown_table(["", *names], shared)

        def nearest(own: int, overlap: tuple[int, ...]) -> str:
            others = sorted((d for d in range(len(names)) if d != own and overlap[d]), key=lambda d: -overlap[d])
            return ", ".join(f"{names[d]} {overlap[d]:,}" for d in others[:NUM_NEAREST]) or "none"

        rows = [
            [name, nearest(own, self.user_overlap[own]), nearest(own, self.item_overlap[own])]
            for own, name in enumerate(names)
        ]
        return markdown_table(["", "most users in common", "most items in common"], rows)


def describe(path: Path) -> Description:
    """The counts of a dataset folder; raises DatasetError where there is none."""
    manifest = read_manifest(path)
    counts = manifest["counts"]
    domains = tuple(
        DomainSummary(
            name=name,
            users=domain["users"],
            items=domain["items"],
            train=domain["rows"]["train"],
            valid=domain["rows"]["valid"],
            test=domain["rows"]["test"],
            repeats=domain["repeats"],
            dropped_by_split=domain["dropped_by_split"],
            valid_items_unseen=domain["item_not_in_training"]["valid"],
            test_items_unseen=domain["item_not_in_training"]["test"],
            test_items_new_to_domain=domain["test_item_new_to_domain"],
            test_users_unseen=domain["user_not_in_training"]["test"],
        )
        for name, domain in counts["domains"].items()
    )
    return Description(
        name=manifest["schema"]["name"],
        domains=domains,
        user_overlap=tuple(tuple(row) for row in counts["user_overlap"]),
        item_overlap=tuple(tuple(row) for row in counts["item_overlap"]),
        labelled={
            split: tuple((rows[domain.name]["rows"], rows[domain.name]["positives"]) for domain in domains)
            for split, rows in manifest["impressions"].items()
        },
    )

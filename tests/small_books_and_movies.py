"""Books and movies in RecBole's atomic form, few enough to train on in a test."""

from pathlib import Path

import numpy as np

NUM_USERS, NUM_BOOKS, NUM_MOVIES = 25, 40, 30
BOOKS_OF_USER, MOVIES_OF_USER = 24, 8


def write_native(folder: Path) -> Path:
    """25 users with 24 of 40 books and 8 of 30 movies each; movie n has the title of book n."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    for name, letter, kind, count, taken in (
        ("Books", "B", "novel", NUM_BOOKS, BOOKS_OF_USER),
        ("Movies_and_TV", "M", "film", NUM_MOVIES, MOVIES_OF_USER),
    ):
        inter = ["user_id:token\titem_id:token\trating:float"]
        for user in range(NUM_USERS):
            items = generator.permutation(count)[:taken].tolist()
            inter += [f"U{user:02}\t{letter}{item:02}\t1" for item in items]
        (folder / f"{name}.inter.tsv").write_text("\n".join(inter) + "\n")
        link = ["item_id:token\tentity_id:token"]
        link += [f"{letter}{item:02}\tres:Story_word{item}_({kind})" for item in range(count)]
        (folder / f"{name}.link.tsv").write_text("\n".join(link) + "\n")
    return folder

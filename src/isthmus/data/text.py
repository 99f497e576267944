"""Texts as vectors: TF-IDF reduced by a truncated SVD that training texts fit, or means of given word vectors."""

import math
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float
from scipy.sparse import csr_matrix
from scipy.sparse.linalg import svds

from isthmus.errors import InputError

WORD = re.compile(r"\w+")


def words(text: str) -> list[str]:
    """The words of a text, in lower case."""
    return WORD.findall(text.lower())


def tfidf_vectors(
    texts: Sequence[str], is_training: Bool[np.ndarray, " line"], *, dim: int, seed: int = 0
) -> Float[np.ndarray, "line dim"]:
    """Vectors of texts, float32, zero where no word of the text occurs in training.

    A word counts 1 + log of its occurrences times log((1 + n) / (1 + texts that have it)) + 1; rows are divided by
    their length and projected on the first right singular vectors of the training rows. Where these have fewer than
    `dim` dimensions, zeros fill the rest.
    """
    counted = [Counter(words(text)) for text in texts]
    num_texts: Counter[str] = Counter()
    for number in np.flatnonzero(is_training).tolist():
        num_texts.update(counted[number].keys())
    column = {word: place for place, word in enumerate(sorted(num_texts))}
    total = int(is_training.sum())
    idf = np.array([np.log((1 + total) / (1 + num_texts[word])) + 1 for word in column])
    lengths = [sum(word in column for word in counts) for counts in counted]
    columns = np.array([column[word] for counts in counted for word in counts if word in column], np.int64)
    amounts = np.array([n for counts in counted for word, n in counts.items() if word in column], np.float64)
    weights = (1 + np.log(amounts)) * idf[columns] if len(columns) else amounts
    matrix = csr_matrix((weights, columns, np.concatenate([[0], np.cumsum(lengths)])), (len(texts), len(column)))
    norms = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1))[:, 0])
    matrix = csr_matrix(matrix.multiply(1 / np.where(norms > 0, norms, 1)[:, None]))
    vectors = np.zeros((len(texts), dim), np.float32)
    train = matrix[np.flatnonzero(is_training)]
    rank = min(dim, min(train.shape) - 1)
    if rank >= 1:
        start = np.random.default_rng(seed).standard_normal(min(train.shape))
        _, strength, directions = svds(train, k=rank, v0=start)
        order = np.argsort(-strength)
        directions = directions[order]
        # A singular vector's sign is free; fixed so that the same texts give the same numbers.
        sign = np.sign(directions[np.arange(rank), np.abs(directions).argmax(axis=1)])
        vectors[:, :rank] = matrix @ (directions * sign[:, None]).T
    return vectors


def word_vectors(texts: Sequence[str], file: Path) -> Float[np.ndarray, "line dim"]:
    """The mean vector of each text's words, float32, zero where none is in the file.

    Args:
        file: a word and its numbers a line, parted by spaces (GloVe's form); read line by line. Words with spaces in
            them, which GloVe's own files have, are left out.

    Raises:
        InputError: the file is missing or empty, begins with a header, or a line is not a word and as many numbers as
            the first has.
    """
    if not file.is_file():
        raise InputError(f"{file}: no such file of word vectors; give one in GloVe's form, or leave 'vectors' out")
    tokens = [words(text) for text in texts]
    wanted = {word for text in tokens for word in text}
    found: dict[str, np.ndarray] = {}
    dim = 0
    with file.open(encoding="utf-8", errors="replace") as stream:
        for number, line in enumerate(stream, start=1):
            word, *numbers = line.rstrip().split(" ")
            if number == 1 and len(numbers) == 1 and word.isdigit() and numbers[0].isdigit():
                raise InputError(f"{file}: line 1: {line.rstrip()!r} is a header, not a word; delete the line")
            dim = dim or len(numbers)
            if dim and len(numbers) > dim and not any(map(_is_number, numbers[:-dim])):
                continue
            if not numbers or len(numbers) != dim:
                raise InputError(
                    f"{file}: line {number}: {len(numbers)} numbers, {dim} in line 1; every line is a word and as many "
                    "numbers as the first"
                )
            if word in wanted or number == 1:
                if not all(map(_is_number, numbers)):
                    strange = next(text for text in numbers if not _is_number(text))
                    raise InputError(
                        f"{file}: line {number}: {strange!r} is not a finite number; a word and its numbers are wanted"
                    )
                found[word] = np.array(numbers, np.float32)
    if not dim:
        raise InputError(f"{file}: empty; a word and its numbers a line are wanted")
    vectors = np.zeros((len(texts), dim), np.float32)
    for row, text in enumerate(tokens):
        known = [found[word] for word in text if word in found]
        if known:
            vectors[row] = np.mean(known, axis=0)
    return vectors


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False

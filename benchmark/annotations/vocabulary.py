"""The categories of a file with their ids, and the check that two files have the same ones.

LVIS v0.5 and v1 number mostly the same categories differently, so files of both can be combined without any
error of type or size, and the resulting numbers are meaningless.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Self

from benchmark.annotations.reading import Category
from benchmark.errors import BenchmarkError

KNOWN = {
    "edfded7705f187e125b737dc773a848c6de4fd35bd806d427bedbae2f1ae807e": "LVIS v0.5 (1230 categories)",
    "6f5c76c990fd49f25be9359b7f38c0d2d479d609f384120f4743b96b10b425c0": "LVIS v1 (1203 categories)",
    "c52aca7598e3c5d352ca0ed68c0803c7fac7aaff89dae3c18cf8d58155e87d1e": "COCO (80 categories)",
}
_EXAMPLES = 3

Pairs = Iterable[tuple[int, str]] | Iterable[Category]


def vocabulary_hash(categories: Pairs) -> str:
    """SHA-256 of the categories' ids and names in ascending id, which identifies a vocabulary.

    Takes ``Category`` records or (id, name) pairs. Uses names and not synsets, because COCO and the class
    tables have only names.
    """
    pairs = sorted((item.id, item.name) if isinstance(item, Category) else item for item in categories)
    return hashlib.sha256("".join(f"{id_}\t{name}\n" for id_, name in pairs).encode()).hexdigest()


@dataclass(frozen=True)
class Vocabulary:
    """The categories of ``source`` (a description with its path).

    ``digest`` is their ``vocabulary_hash``, None if the source has none; ``names`` maps category ids to
    names, None if the source has only the hash.
    """

    source: str
    digest: str | None
    names: Mapping[int, str] | None = None

    @classmethod
    def of(cls, source: str, categories: Pairs) -> Self:
        """The vocabulary of ``Category`` records or (id, name) pairs."""
        names = dict((item.id, item.name) if isinstance(item, Category) else item for item in categories)
        return cls(source, vocabulary_hash(names.items()), names)

    @property
    def title(self) -> str:
        """The name of a known version, or else the number of categories and the hash."""
        if self.digest is None:
            return "categories that it does not tell"
        size = "categories" if self.names is None else f"{len(self.names)} categories"
        return KNOWN.get(self.digest, f"{size} of no known version (hash {self.digest[:12]})")


def check_same_vocabulary(
    found: Vocabulary, expected: Vocabulary, error: type[BenchmarkError], remedy: str
) -> None:
    """Raise ``error`` unless both have the same categories under the same ids.

    The message names both versions and, if both have names, the first ids that differ.
    """
    if found.digest is not None and found.digest == expected.digest:
        return
    different = _differences(found.names, expected.names)
    told = found.names is not None and expected.names is not None
    known = any(side.digest in KNOWN for side in (found, expected))
    guess = " (another LVIS version?)" if known or not told else ""
    raise error(
        f"{found.source} and {expected.source} are of different categories{guess}",
        found=f"{found.title} and {expected.title}{different}",
        expected="the same categories under the same ids",
        remedy=remedy,
    )


def _differences(left: Mapping[int, str] | None, right: Mapping[int, str] | None) -> str:
    if left is None or right is None:
        return ""
    ids = [id_ for id_ in sorted({*left, *right}) if left.get(id_) != right.get(id_)]
    examples = [
        f"id {id_} is {left.get(id_, 'missing')} in the first, {right.get(id_, 'missing')} in the second"
        for id_ in islice(ids, _EXAMPLES)
    ]
    more = f"; {len(ids) - len(examples)} more" if len(ids) > len(examples) else ""
    return f": {'; '.join(examples)}{more}" if examples else ""

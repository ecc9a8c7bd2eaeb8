"""Files of different LVIS versions are never combined, and the message states the versions."""

from pathlib import Path

import pytest
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

from benchmark.annotations import (
    AnnotationError,
    Vocabulary,
    check_same_vocabulary,
    read_annotations,
    vocabulary_hash,
)
from benchmark.statistics import ClassStatistics

DATA = Path("tests/data")
REAL = DATA / "lvis_val_100.json"


def lvis(version: str) -> Vocabulary:
    return ClassStatistics.read(DATA / f"lvis_{version}_categories.csv").as_vocabulary(f"table {version}")


def test_the_hash_knows_numbering_and_names_but_not_order():
    file = read_annotations(REAL)
    pairs = [(category.id, category.name) for category in file.categories]
    assert vocabulary_hash(file.categories) == vocabulary_hash(reversed(pairs))
    assert vocabulary_hash(pairs) != vocabulary_hash([(id_ + 1, name) for id_, name in pairs])
    assert vocabulary_hash(pairs) != vocabulary_hash(pairs[:-1])


def test_real_files_are_known_by_the_name_of_their_version():
    assert Vocabulary.of("file", read_annotations(REAL).categories).title == "LVIS v0.5 (1230 categories)"
    assert lvis("v0.5").title == "LVIS v0.5 (1230 categories)"
    assert lvis("v1").title == "LVIS v1 (1203 categories)"
    names = enumerate(FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"])
    coco = [(id_, name) for id_, name in names if name not in ("__background__", "N/A")]
    assert Vocabulary.of("weights", coco).title == "COCO (80 categories)"


def test_two_versions_are_both_named_with_what_differs():
    check_same_vocabulary(lvis("v0.5"), lvis("v0.5"), AnnotationError, "none")
    with pytest.raises(AnnotationError) as caught:
        check_same_vocabulary(lvis("v0.5"), lvis("v1"), AnnotationError, "take one version")
    for part in ("table v0.5 and table v1", "LVIS v0.5", "LVIS v1", "id 1 is acorn", "aerosol_can", "more"):
        assert part in str(caught.value)


def test_other_data_than_lvis_is_not_told_about_its_versions():
    ours, theirs = (
        Vocabulary.of(name, enumerate(["cat", "dog", "cow"][:n])) for name, n in (("a", 3), ("b", 2))
    )
    with pytest.raises(AnnotationError, match="id 2 is cow in the first, missing in the second") as caught:
        check_same_vocabulary(ours, theirs, AnnotationError, "list them")
    assert "LVIS" not in str(caught.value)


def test_a_hash_alone_is_enough_and_no_hash_is_never_the_same():
    known = lvis("v1")
    check_same_vocabulary(Vocabulary("checkpoint", known.digest), known, AnnotationError, "none")
    for digest in (lvis("v0.5").digest, "0" * 64, None):
        with pytest.raises(AnnotationError, match=r"checkpoint and table v1.*different(.|\n)*LVIS v1"):
            check_same_vocabulary(Vocabulary("checkpoint", digest), known, AnnotationError, "none")
    with pytest.raises(AnnotationError):
        check_same_vocabulary(Vocabulary("a", None), Vocabulary("b", None), AnnotationError, "none")

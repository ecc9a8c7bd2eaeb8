"""Annotation files in LVIS v0.5, LVIS v1 and COCO format: read, check, subset; and the synthetic dataset."""

from benchmark.annotations.checking import Problem, check_annotations
from benchmark.annotations.reading import (
    Annotation,
    AnnotationError,
    AnnotationFile,
    Category,
    Image,
    annotation_rle,
    frequency_letter,
    read_annotations,
    resolve_image,
)
from benchmark.annotations.subset import subset_annotations
from benchmark.annotations.synthetic import synthesize_dataset
from benchmark.annotations.vocabulary import Vocabulary, check_same_vocabulary, vocabulary_hash

__all__ = [
    "Annotation",
    "AnnotationError",
    "AnnotationFile",
    "Category",
    "Image",
    "Problem",
    "Vocabulary",
    "annotation_rle",
    "check_annotations",
    "check_same_vocabulary",
    "frequency_letter",
    "read_annotations",
    "resolve_image",
    "subset_annotations",
    "synthesize_dataset",
    "vocabulary_hash",
]

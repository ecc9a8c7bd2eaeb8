"""Annotation files in LVIS v0.5, LVIS v1 and COCO format: read, check, subset; and the synthetic dataset."""

from benchmark.annotations.checking import check_annotations, check_dataset
from benchmark.annotations.image_files import check_images
from benchmark.annotations.problems import Problem, counted, problems_text
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
from benchmark.annotations.subset import Choice, subset_annotations, subset_pair
from benchmark.annotations.synthetic import synthesize_dataset
from benchmark.annotations.vocabulary import Vocabulary, check_same_vocabulary, vocabulary_hash

__all__ = [
    "Annotation",
    "AnnotationError",
    "AnnotationFile",
    "Category",
    "Choice",
    "Image",
    "Problem",
    "Vocabulary",
    "annotation_rle",
    "check_annotations",
    "check_dataset",
    "check_images",
    "check_same_vocabulary",
    "counted",
    "frequency_letter",
    "problems_text",
    "read_annotations",
    "resolve_image",
    "subset_annotations",
    "subset_pair",
    "synthesize_dataset",
    "vocabulary_hash",
]

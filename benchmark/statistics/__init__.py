"""Class counts, frequency groups and repeat factors."""

from benchmark.annotations import frequency_letter
from benchmark.statistics.class_statistics import (
    ClassStatistics,
    class_statistics,
    differences_from_file,
)
from benchmark.statistics.errors import StatisticsError
from benchmark.statistics.groups import GroupTables, group_tables
from benchmark.statistics.repeat_factors import (
    category_repeat_factors,
    ceiling_repeat_factors,
    class_balanced_factors,
    image_repeat_factors,
    infrequent_categories,
)

__all__ = [
    "ClassStatistics",
    "GroupTables",
    "StatisticsError",
    "category_repeat_factors",
    "ceiling_repeat_factors",
    "class_balanced_factors",
    "class_statistics",
    "differences_from_file",
    "frequency_letter",
    "group_tables",
    "image_repeat_factors",
    "infrequent_categories",
]

"""Class counts, frequency groups, class weights and repeat factors."""

from benchmark.annotations import frequency_letter
from benchmark.statistics.class_statistics import (
    ClassStatistics,
    class_statistics,
    class_statistics_with_differences,
)
from benchmark.statistics.class_tables import Groups, counted_groups, read_groups, read_tables
from benchmark.statistics.class_weights import (
    CLASS_WEIGHTS,
    class_balanced_weights,
    class_balanced_weights_with_background,
    class_weight_table,
    group_class_weights,
    inverse_count_weights,
)
from benchmark.statistics.divisions import warn_of_empty_groups, warn_unless_divided
from benchmark.statistics.errors import StatisticsError
from benchmark.statistics.frequencies import counts_and_total, image_frequencies, rarity
from benchmark.statistics.groups import GroupTables, group_tables
from benchmark.statistics.inspection import inspect_intermediates
from benchmark.statistics.intermediates import (
    intermediates,
    project_files,
    released_files,
    write_intermediates,
)
from benchmark.statistics.released_tables import with_released
from benchmark.statistics.repeat_factors import (
    category_repeat_factors,
    ceiling_repeat_factors,
    copies_added_to_original,
    image_repeat_factors,
    infrequent_categories,
)

__all__ = [
    "CLASS_WEIGHTS",
    "ClassStatistics",
    "GroupTables",
    "Groups",
    "StatisticsError",
    "category_repeat_factors",
    "ceiling_repeat_factors",
    "class_balanced_weights",
    "class_balanced_weights_with_background",
    "class_statistics",
    "class_statistics_with_differences",
    "class_weight_table",
    "copies_added_to_original",
    "counted_groups",
    "counts_and_total",
    "frequency_letter",
    "group_class_weights",
    "group_tables",
    "image_frequencies",
    "image_repeat_factors",
    "infrequent_categories",
    "inspect_intermediates",
    "intermediates",
    "inverse_count_weights",
    "project_files",
    "rarity",
    "read_groups",
    "read_tables",
    "released_files",
    "warn_of_empty_groups",
    "warn_unless_divided",
    "with_released",
    "write_intermediates",
]

"""The data that BAGS, re-weighting, repeat-factor sampling and SimCal need from a training file, in one
folder.

Tables with one row per category are CSV, which people can read and compare (numbers are written exactly).
Tables with a row per image or more are Parquet: typed, small, and readable in any language. Neither can run
code when it is opened. ``2bins/`` and ``8bins/`` contain the two ablations of BAGS.

==========================  ======================================================================
class_statistics.csv        id, name, frequency, image_count, instance_count (``ClassStatistics.read``)
class_weights.csv           id, name, the three tables of ``CLASS_WEIGHTS``, repeat_factor; the last row,
                            without id, is background
groups.csv                  id, name, group (from 1), target (place in the group's bin, 0 is "others"),
                            weight (1 / count within the group); the edges lead as ``# edges: 10 100 1000``
images.parquet              image_id, repeat_factor: the images with annotations in the order of the file
category_images.parquet     category_id, image_id, position (row of images.parquet), instances: by category
==========================  ======================================================================

With ``upstream``, the releases' own files are beside them (``benchmark.statistics.upstream_files``).
"""

import io
import pickle
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmark.files import atomic_path, file_error
from benchmark.statistics.class_statistics import (
    ClassStatistics,
    Occurrences,
    differences_from_file,
    occurrences,
)
from benchmark.statistics.class_tables import GROUP_COLUMNS, ClassTables, Groups, counted_groups
from benchmark.statistics.class_weights import CLASS_WEIGHTS, class_weight_table
from benchmark.statistics.errors import StatisticsError
from benchmark.statistics.groups import EDGES, members
from benchmark.statistics.repeat_factors import category_repeat_factors
from benchmark.statistics.upstream_files import (
    WEIGHT_FILES,
    background_first,
    class_index,
    group_files,
    pickle_bytes,
    tensor_bytes,
)
from benchmark.tables import csv_text

ABLATIONS = {"2bins": (100,), "8bins": (5, 10, 50, 100, 500, 1000, 5000)}
REPEAT_THRESHOLD = 0.001  # of the releases, and of LVIS
MASKED_BELOW = 100  # instances; tau-norm-select


@dataclass(frozen=True, eq=False)
class Intermediates:
    """The images of every category. Labels are 0..C-1 in ascending category id."""

    statistics: ClassStatistics
    file_order: NDArray[np.int64]
    """(C,) the labels in the order of the file's category list, as inside a group."""
    image_ids: NDArray[np.int64]
    """(I,) the images with annotations, in the order of the file."""
    labels: NDArray[np.int64]
    """(P,) the label of every (category, image) pair; ascending."""
    positions: NDArray[np.int64]
    """(P,) the pair's image, a position in ``image_ids``; ascending within a label."""
    instances: NDArray[np.int64]
    """(P,) the pair's annotations, at least 1."""

    @property
    def category_repeat_factors(self) -> NDArray[np.float32]:
        """(C,) float32 at the releases' threshold, counting annotated images only."""
        counts = self.statistics.image_counts
        return category_repeat_factors(counts, max(len(self.image_ids), 1), REPEAT_THRESHOLD)

    @property
    def image_repeat_factors(self) -> NDArray[np.float32]:
        """(I,) float32: the largest factor among an image's categories."""
        factors = np.ones(len(self.image_ids), np.float32)
        np.maximum.at(factors, self.positions, self.category_repeat_factors[self.labels])
        return factors

    def class_tables(self, edges: Sequence[int]) -> ClassTables:
        """The tables for classifiers, with groups between ``edges``."""
        counts = self.statistics.instance_counts
        weights = {table: class_weight_table(table, counts) for table in CLASS_WEIGHTS}
        return ClassTables(counted_groups(counts, edges, self.file_order.tolist()), weights)


def intermediates(path: Path | str) -> tuple[Intermediates, list[str]]:
    """Read the data for the tables from an LVIS- or COCO-format training file, in one pass.

    Counts are those of the annotations, as in ``class_statistics``. The returned sentences name differences
    from the counts stored in the file, which the releases' scripts use. (The releases also leave out images
    below 32 pixels, which neither LVIS nor COCO has.)

    Raises as ``class_statistics``; ``AnnotationError`` and ``FileError``.
    """
    found = occurrences(path)
    return _intermediates(found), differences_from_file(found)


def _intermediates(found: Occurrences) -> Intermediates:
    annotated = np.bincount(found.images, minlength=len(found.image_ids)) > 0
    positions = (np.cumsum(annotated) - 1)[found.images]
    image_ids = found.image_ids[annotated]
    pairs = np.sort(found.labels * len(image_ids) + positions)
    starts = np.flatnonzero(np.diff(pairs, prepend=-1))
    instances = np.diff(starts, append=len(pairs))
    labels, positions = np.divmod(pairs[starts], max(len(image_ids), 1))
    return Intermediates(found.statistics, found.file_order, image_ids, labels, positions, instances)


def write_intermediates(
    content: Intermediates, folder: Path | str, edges: Sequence[int] = EDGES, upstream: bool = False
) -> None:
    """Write the folder, completely or not at all.

    Args:
        content: the tables.
        folder: absent, empty, or written by this function before; in the last case it is replaced.
        edges: edges of the groups in ``groups.csv``; those of the ablations are fixed.
        upstream: also write the releases' files.

    Raises:
        StatisticsError: the edges do not increase, or the folder contains other files.
        FileError: an error of the system.
    """
    folder = Path(folder).resolve()  # a link remains a link
    tables = content.class_tables(edges)
    files = project_files(content, tables)
    for name, ablation in ABLATIONS.items():
        files[f"{name}/groups.csv"] = groups_csv(content.statistics, content.class_tables(ablation).groups)
    if upstream:
        files |= released_files(content, tables)
        for name, ablation in ABLATIONS.items():
            for file, data in group_files(content.class_tables(ablation).groups.tables, ablation).items():
                files[f"{name}/{file}"] = data
    _check_replaceable(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.", suffix=".tmp"))
    except OSError as error:
        raise file_error("write", folder, error) from error
    made, replaced = work / "made", work / "replaced"
    try:
        content.statistics.write(made / "class_statistics.csv")
        for name, data in files.items():
            with atomic_path(made / name) as temporary:
                temporary.write_bytes(data)
        if folder.exists():
            folder.rename(replaced)
        made.rename(folder)
    except BaseException as error:
        if replaced.exists() and not folder.exists():
            replaced.rename(folder)
        if isinstance(error, OSError):
            raise file_error("write", folder, error) from error
        raise
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _check_replaceable(folder: Path) -> None:
    """Refuse to replace a folder with other files, such as the one with the annotations."""
    if folder.exists() and not folder.is_dir():
        raise StatisticsError(
            "the output is a file", where=folder, expected="a folder", remedy="choose another path"
        )
    known = _OURS | set(ABLATIONS)
    present = {name for place in ("", *ABLATIONS) for name in _entries(folder, place)}
    foreign = sorted(present - known)
    if foreign or (present and "class_statistics.csv" not in present):
        raise StatisticsError(
            "the output folder holds files that are not of longtail intermediates",
            where=folder,
            found=", ".join((foreign or sorted(present))[:3]),
            expected="a folder of its own: absent, empty, or an earlier result",
            remedy="choose another folder; the files can be moved from there",
        )


def _entries(folder: Path, place: str) -> list[str]:
    """The entries of a folder below ``folder``, relative to it; none if it does not exist."""
    if not (folder / place).is_dir():
        return []
    return [(Path(place) / entry.name).as_posix() for entry in (folder / place).iterdir()]


def project_files(content: Intermediates, tables: ClassTables) -> dict[str, bytes]:
    """Our own files by name, without ``class_statistics.csv``: those of the images and of ``tables``."""
    import pyarrow as pa

    statistics = content.statistics
    ids, names = statistics.category_ids.tolist(), statistics.names
    weights = [tables.class_weights[table].tolist() for table in CLASS_WEIGHTS]
    factors = [*(float(str(factor)) for factor in content.category_repeat_factors), 1.0]
    return {
        "groups.csv": groups_csv(statistics, tables.groups),
        "class_weights.csv": _csv(
            ["id", "name", *CLASS_WEIGHTS, "repeat_factor"],
            zip([*ids, ""], [*names, "background"], *weights, factors, strict=True),
        ),
        "images.parquet": _parquet(
            pa.table({"image_id": content.image_ids, "repeat_factor": content.image_repeat_factors})
        ),
        "category_images.parquet": _parquet(
            pa.table(
                {
                    "category_id": statistics.category_ids[content.labels],
                    "image_id": content.image_ids[content.positions],
                    "position": content.positions,
                    "instances": content.instances,
                }
            )
        ),
    }


def groups_csv(statistics: ClassStatistics, groups: Groups) -> bytes:
    """The content of ``groups.csv``."""
    tables, every = groups.tables, np.arange(statistics.num_classes)
    return f"# edges: {' '.join(map(str, groups.edges))}\n".encode() + _csv(
        GROUP_COLUMNS,
        zip(
            statistics.category_ids.tolist(),
            statistics.names,
            tables.group_of_label.tolist(),
            tables.targets[tables.group_of_label, every].tolist(),
            groups.weights[tables.group_of_label, every].tolist(),
            strict=True,
        ),
    )


def released_files(content: Intermediates, tables: ClassTables) -> dict[str, bytes]:
    """The content of ``project_files`` as the releases' own files, by name."""
    counts, groups = content.statistics.instance_counts, tables.groups
    files = group_files(groups.tables, groups.edges)
    for name, table in WEIGHT_FILES.items():
        files[name] = tensor_bytes(background_first(tables.class_weights[table]))
    files["bins_cls_weight.pkl"] = pickle_bytes(
        [
            np.append(1.0, groups.weights[group, members(groups.tables.targets[:, :-1], group)])
            for group in range(1, len(groups.weights))
        ]
    )
    files["mask.pt"] = tensor_bytes(np.append(0, counts < MASKED_BELOW).astype(np.int64))
    index = class_index(content.image_ids, content.labels, content.positions, content.instances, len(counts))
    files["class_to_imageid_and_inscount.pt"] = pickle.dumps(index, protocol=3)
    return files


_GROUP_FILES = ("groups.csv", "label2binlabel.pt", "pred_slice_with0.pt", "valsplit.pkl")
_OURS = {
    "class_statistics.csv",
    "class_weights.csv",
    "images.parquet",
    "category_images.parquet",
    *WEIGHT_FILES,
    "bins_cls_weight.pkl",
    "mask.pt",
    "class_to_imageid_and_inscount.pt",
    *(f"{place}{name}" for place in ("", *(f"{name}/" for name in ABLATIONS)) for name in _GROUP_FILES),
}


def _csv(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> bytes:
    return csv_text([columns, *rows]).encode()


def _parquet(table: object) -> bytes:
    import pyarrow.parquet as pq

    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()

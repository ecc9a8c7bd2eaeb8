"""The results table as Markdown, CSV and LaTeX."""

import csv
import io
from collections.abc import Sequence

from benchmark.cost import Cost
from benchmark.evaluation.metrics import METRICS
from benchmark.reporting.collect import HEADLINE, RowResult, cost_of_rows
from benchmark.reporting.differences import Distinctions
from benchmark.reporting.footnotes import Footnotes
from benchmark.reporting.noise import difference_table, explanation, marks_note, statements

WORDS = {"segm": "mask", "bbox": "box"}


def markdown(
    title: str,
    rows: Sequence[RowResult],
    notes: Sequence[str],
    distinctions: Distinctions,
    metrics: Sequence[str] = (),
) -> str:
    """The table with its heading, then which rows differ, deviations, runs that are not done and how to read
    the numbers.

    ``distinctions`` mark the best numbers; ``metrics`` are columns besides the headline's.
    """
    runs = [run for row in rows for run in row.runs]
    footnotes = Footnotes(rows)
    parts = [f"# {title}", f"{sum(run.done for run in runs)} of {len(runs)} runs done. AP in percent."]
    parts.append(_markdown_table(rows, footnotes, distinctions, (*HEADLINE, *metrics)))
    if distinctions.pairs:
        parts += [difference_table(rows, distinctions), *statements(distinctions), explanation()]
    parts += filter(None, [marks_note(rows, distinctions)])
    if footnotes.texts:
        deviations = [f"- [{number}] {text}" for number, text in enumerate(footnotes.texts, start=1)]
        parts.append("\n".join(["Deviations from what was published:", "", *deviations]))
    status = _not_done(rows)
    if status or notes:
        parts.append("\n".join(["Not done:", "", *status, *(f"- {note}" for note in notes)]))
    parts.append(
        "AP is the mean over all categories with ground truth, not the mean of APr, APc and APf. Categories\n"
        "compete for the 300 detections kept in an image, so AP also rewards calibration across them\n"
        "(Dave et al., arXiv 2102.01066). Rows with other schedules or initial weights are not comparable."
    )
    parts.append(f"Cost of all rows, steps that several share counted once: {_cost(cost_of_rows(rows))}.")
    return "\n\n".join(parts) + "\n"


def _markdown_table(
    rows: Sequence[RowResult], footnotes: Footnotes, distinctions: Distinctions, metrics: Sequence[str]
) -> str:
    costs = [cost_of_rows([row]) for row in rows]
    has_reported = any(row.reported for row in rows)
    has_verdict = any(_verdict(row) for row in rows)
    has_gpu_hours = any(cost.gpu_hours for cost in costs)
    header = ["row", "method", "detector", "dataset", "schedule", "seeds", "IoU"]
    header += [METRICS[key].title for key in metrics] + ["box AP"]
    header += ["reported AP", "difference"] if has_reported else []
    header += ["within tolerance"] if has_verdict else []
    header += ["status", "wall time", *(["GPU-hours"] if has_gpu_hours else []), "peak memory"]
    groups = group_starts(rows)
    lines = []
    for number, (row, cost) in enumerate(zip(rows, costs, strict=True)):
        if number in groups:
            lines.append("| " + " | ".join([f"**{groups[number]}**", *[""] * (len(header) - 1)]) + " |")
        cells = _recipe_cells(row, footnotes.marks(row))
        for key in metrics:
            text = _value(row, row.iou, key)
            cells.append(f"**{text}**" if distinctions.best(row.id, key) else text)
        cells.append(_value(row, "bbox", "AP"))
        cells += _reported_cells(row) if has_reported else []
        cells += [_verdict(row)] if has_verdict else []
        cells += [row.status, duration(row.seconds), *([f"{cost.gpu_hours:.1f}"] if has_gpu_hours else [])]
        cells += [memory(row.memory_mb)]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    numeric = {*(METRICS[key].title for key in metrics), "box AP", "reported AP", "difference"}
    numeric |= {"seeds", "GPU-hours"}
    rule = "| " + " | ".join("--:" if name in numeric else "---" for name in header) + " |"
    return "\n".join(["| " + " | ".join(header) + " |", rule, *lines])


def _recipe_cells(row: RowResult, marks: Sequence[int]) -> list[str]:
    """Row, method with the numbers of its footnotes, detector, dataset, schedule, seeds and IoU type."""
    run = row.runs[0].run
    method = f"{row.title} [{', '.join(map(str, marks))}]" if marks else row.title
    seeds = f"{sum(item.done for item in row.runs)} of {len(row.runs)}"
    return [row.id, method, run.detector_name, run.dataset_name, row.schedule, seeds, WORDS[row.iou]]


def _reported_cells(row: RowResult) -> list[str]:
    """The published AP and the difference of ours from it; empty where there is none."""
    metric = f"{row.iou}/AP"
    reported = row.reported.values.get(metric) if row.reported else None
    difference = row.difference(metric)
    return ["" if reported is None else f"{reported:g}", "" if difference is None else f"{difference:+.1f}"]


def comma_separated(rows: Sequence[RowResult]) -> str:
    """Every number: percent with three decimals, seconds, MB; mean and standard deviation over seeds.

    Attempts, GPU-hours and energy are sums over all seeds and steps of a row, including steps that rows
    share. ``touches`` is what the method changes, if the experiment groups its rows by that.
    """
    keys = [key for key in METRICS if METRICS[key].kind in ("precision", "calibration")]
    header = [
        "row",
        "touches",
        "method",
        "detector",
        "dataset",
        "budget",
        "schedule",
        "seeds",
        "seeds_done",
        "headline_iou",
    ]
    for iou in WORDS:
        for key in keys:
            header += [f"{iou}_{key}", f"{iou}_{key}_std"]
        header += [f"reported_{iou}_AP", f"difference_{iou}_AP"]
    header += ["deviations", "status", "reason", "wall_s", "peak_memory_mb"]
    header += ["attempts", "gpu_hours", "energy_kwh", "device_memory_mb"]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(header)
    for row in rows:
        run = row.runs[0].run
        done = sum(item.done for item in row.runs)
        cells: list[object] = [row.id, row.touches, row.title]
        cells += [run.detector_name, run.dataset_name, run.budget]
        cells += [row.schedule, " ".join(str(item.run.seed) for item in row.runs), done, row.iou]
        for iou in WORDS:
            for key in keys:
                cells += [_percent(row.mean(iou, key)), _percent(row.spread(iou, key))]
            reported = row.reported.values.get(f"{iou}/AP") if row.reported else None
            difference = row.difference(f"{iou}/AP")
            cells += ["" if reported is None else reported, "" if difference is None else f"{difference:.3f}"]
        states = dict.fromkeys(item.state for item in row.runs)
        reasons = dict.fromkeys(
            _one_paragraph(text) for item in row.runs for text in (item.reason, item.older) if text
        )
        cells += [len(row.deviations), "; ".join(states), "; ".join(reasons)]
        cells += ["" if row.seconds is None else f"{row.seconds:.1f}", row.memory_mb]
        cost = cost_of_rows([row])
        cells += [cost.attempts, cost.gpu_hours, cost.energy_kwh, cost.device_memory_mb]
        table.writerow(cells)
    return text.getvalue()


_ALONE = (
    "% \\input this where a paper wants it (it needs booktabs), or compile it as it is.",
    # LaTeX lets \@nodocument be \relax from \begin{document} on
    r"\expandafter\ifx\csname @nodocument\endcsname\relax\else",
    r"\documentclass{article}\usepackage{booktabs}\def\tablealone{\end{document}}\begin{document}\small\noindent",
    r"\fi",
)


def latex(
    title: str, rows: Sequence[RowResult], distinctions: Distinctions, metrics: Sequence[str] = ()
) -> str:
    """A booktabs table; ``distinctions`` make the best numbers bold. ``metrics`` are columns besides the
    headline's."""
    keys = (*HEADLINE, *metrics)
    columns = [METRICS[key] for key in (*keys, "AP")]  # the last one is of boxes
    footnotes, groups = Footnotes(rows), group_starts(rows)
    lines = []
    for number, row in enumerate(rows):
        if number in groups:
            lines += [r"\midrule"] if number else []
            lines.append(rf"\multicolumn{{{3 + len(columns)}}}{{l}}{{\emph{{{groups[number]}}}}} \\")
        cells = [_escape(row.title), _escape(row.runs[0].run.detector_name), WORDS[row.iou]]
        shown = [_value(row, row.iou, key) for key in keys] + [_value(row, "bbox", "AP")]
        for key, text in zip((*keys, "box AP"), shown, strict=True):  # box AP is never marked
            text = text.replace("±", r"$\pm$") or "--"
            cells.append(rf"\textbf{{{text}}}" if distinctions.best(row.id, key) else text)
        if marks := footnotes.marks(row):
            cells[0] += rf"\textsuperscript{{{','.join(map(str, marks))}}}"
        if not any(run.done for run in row.runs):
            cells[0] += " (older code)" if row.counted else rf" ({_escape(row.runs[0].state)})"
        lines.append(" & ".join(cells) + r" \\")
    runs = [run for row in rows for run in row.runs]
    head = " & ".join(["Method", "Detector", "IoU", *(metric.title for metric in columns[:-1]), "box AP"])
    return "\n".join(
        [
            f"% {title}: {sum(run.done for run in runs)} of {len(runs)} runs done",
            *_ALONE,
            r"\begin{tabular}{lll" + "r" * len(columns) + "}",
            r"\toprule",
            head + r" \\",
            r"\midrule",
            *lines,
            r"\bottomrule",
            *(
                rf"\multicolumn{{{3 + len(columns)}}}{{p{{.9\linewidth}}}}"
                rf"{{\footnotesize\textsuperscript{{{number}}}{_escape(text)}}}\\"
                for number, text in enumerate(footnotes.texts, start=1)
            ),
            *(
                rf"\multicolumn{{{3 + len(columns)}}}{{p{{.9\linewidth}}}}{{\footnotesize {_escape(text)}}}\\"
                for text in filter(None, [marks_note(rows, distinctions)])
            ),
            r"\end{tabular}",
            r"\ifdefined\tablealone\expandafter\tablealone\fi",
            "",
        ]
    )


def group_starts(rows: Sequence[RowResult]) -> dict[int, str]:
    """What the methods of a group of rows change, by the number of its first row; empty without groups."""
    found = [row.touches for row in rows]
    return {
        number: touches
        for number, touches in enumerate(found)
        if touches is not None and (number == 0 or touches != found[number - 1])
    }


def duration(seconds: float | None) -> str:
    """Seconds as text."""
    if seconds is None:
        return ""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def memory(megabytes: float | None) -> str:
    """MB of 2**20 bytes as text."""
    return "" if megabytes is None else f"{megabytes / 1024:.1f} GB"


def _not_done(rows: Sequence[RowResult]) -> list[str]:
    """A line for each run that is not done."""
    return [
        f"- {row.id}, seed {run.run.seed}: {run.state}"
        + (f": {_one_paragraph(run.reason)}" if run.reason else "")
        + (f"; {run.older}" if run.older else "")
        for row in rows
        for run in row.runs
        if not run.done
    ]


def _cost(cost: Cost) -> str:
    parts = [f"{duration(cost.wall_s)} of wall time in {cost.attempts} attempts at steps"]
    if cost.gpu_hours:
        parts.append(f"{cost.gpu_hours:.1f} GPU-hours")
    if cost.energy_kwh is not None:
        parts.append(f"{cost.energy_kwh:.1f} kWh of the GPUs")
    if cost.host_memory_mb is not None:
        parts.append(f"at most {memory(cost.host_memory_mb)} of main memory")
    if cost.device_memory_mb is not None:
        parts.append(f"at most {memory(cost.device_memory_mb)} of a GPU's memory")
    return ", ".join(parts)


def _value(row: RowResult, iou: str, key: str) -> str:
    text = METRICS[key].format(row.mean(iou, key))
    spread = row.spread(iou, key)
    return text if spread is None else f"{text} ± {METRICS[key].format(spread)}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value * 100:.3f}"


def _verdict(row: RowResult) -> str:
    return {True: "yes", False: "no", None: ""}[row.verdict(f"{row.iou}/AP")]


def _one_paragraph(reason: str | None) -> str:
    return "; ".join(" ".join(line.split()) for line in (reason or "").splitlines() if line.strip())


def _escape(text: str) -> str:
    text = text.replace("\\", r"\textbackslash ")
    for character in "&%$#_{}":
        text = text.replace(character, "\\" + character)
    return text.replace("~", r"\textasciitilde ").replace("^", r"\textasciicircum ")

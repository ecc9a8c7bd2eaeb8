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


def markdown(title: str, rows: Sequence[RowResult], notes: Sequence[str], distinctions: Distinctions) -> str:
    """Heading, table, which rows are told apart, deviations, a line for each run that is not done, and how to
    read the numbers. ``distinctions`` mark the best numbers."""
    header = ["row", "method", "detector", "dataset", "schedule", "seeds", "IoU"]
    header += [METRICS[key].title for key in HEADLINE] + ["box AP"]
    compared = any(row.reported for row in rows)
    judged = any(_verdict(row) for row in rows)
    header += ["reported AP", "difference"] if compared else []
    header += ["within tolerance"] if judged else []
    header += ["status", "wall time", "peak memory"]
    footnotes = Footnotes(rows)
    lines = []
    for row in rows:
        run = row.runs[0].run
        done = sum(item.done for item in row.runs)
        marks = ", ".join(map(str, footnotes.marks(row)))
        method = f"{row.title} [{marks}]" if marks else row.title
        cells = [row.row.row.id, method, run.detector_name, run.dataset_name, row.schedule]
        cells += [f"{done} of {len(row.runs)}", WORDS[row.iou]]
        for key in HEADLINE:
            text = _value(row, row.iou, key)
            cells.append(f"**{text}**" if distinctions.best(row.row.row.id, key) else text)
        cells.append(_value(row, "bbox", "AP"))
        if compared:
            metric = f"{row.iou}/AP"
            reported = row.reported.values.get(metric) if row.reported else None
            difference = row.difference(metric)
            cells += ["" if reported is None else f"{reported:g}"]
            cells += ["" if difference is None else f"{difference:+.1f}"]
        cells += [_verdict(row)] if judged else []
        cells += [row.status, duration(row.seconds), memory(row.memory_mb)]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    numeric = {*(METRICS[key].title for key in HEADLINE), "box AP", "reported AP", "difference", "seeds"}
    rule = "| " + " | ".join("--:" if name in numeric else "---" for name in header) + " |"
    runs = [run for row in rows for run in row.runs]
    parts = [f"# {title}", f"{sum(run.done for run in runs)} of {len(runs)} runs done. AP in percent."]
    parts.append("\n".join(["| " + " | ".join(header) + " |", rule, *lines]))
    if distinctions.pairs:
        parts += [difference_table(rows, distinctions), *statements(distinctions), explanation()]
    parts += filter(None, [marks_note(rows, distinctions)])
    if footnotes.texts:
        notes_of_rows = [f"- [{number}] {text}" for number, text in enumerate(footnotes.texts, start=1)]
        parts.append("\n".join(["Deviations from what was published:", "", *notes_of_rows]))
    status = [
        f"- {row.row.row.id}, seed {run.run.seed}: {run.state}"
        + (f": {_one_paragraph(run.reason)}" if run.reason else "")
        + (f"; {run.older}" if run.older else "")
        for row in rows
        for run in row.runs
        if not run.done
    ]
    if status or notes:
        parts.append("\n".join(["Not done:", "", *status, *(f"- {note}" for note in notes)]))
    parts.append(
        "AP is the mean over all categories with ground truth, not the mean of APr, APc and APf. Categories\n"
        "compete for the 300 detections kept in an image, so AP also rewards calibration across them\n"
        "(Dave et al., arXiv 2102.01066). Rows with other schedules or initial weights are not comparable."
    )
    parts.append(f"Cost of all rows, steps that several share counted once: {_cost(cost_of_rows(rows))}.")
    return "\n\n".join(parts) + "\n"


def comma_separated(rows: Sequence[RowResult]) -> str:
    """Every number: percent with three decimals, seconds, MB; mean and standard deviation over seeds.

    Attempts, GPU-hours and energy are sums over all seeds and steps of a row, also those that rows share.
    """
    keys = [key for key in METRICS if METRICS[key].kind == "precision"]
    header = [
        "row",
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
        cells: list[object] = [row.row.row.id, row.title, run.detector_name, run.dataset_name, run.budget]
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
        cells += [len(row.row.deviations), "; ".join(states), "; ".join(reasons)]
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


def latex(title: str, rows: Sequence[RowResult], distinctions: Distinctions) -> str:
    """A booktabs table; ``distinctions`` make the best numbers bold."""
    columns = [*HEADLINE, "box AP"]
    footnotes = Footnotes(rows)
    lines = []
    for row in rows:
        cells = [_escape(row.title), _escape(row.runs[0].run.detector_name), WORDS[row.iou]]
        shown = [_value(row, row.iou, key) for key in HEADLINE] + [_value(row, "bbox", "AP")]
        for column, text in zip(columns, shown, strict=True):
            text = text.replace("±", r"$\pm$") or "--"
            best = column in HEADLINE and distinctions.best(row.row.row.id, column)
            cells.append(rf"\textbf{{{text}}}" if best else text)
        if marks := footnotes.marks(row):
            cells[0] += rf"\textsuperscript{{{','.join(map(str, marks))}}}"
        if not any(run.done for run in row.runs):
            cells[0] += " (older code)" if row.counted else rf" ({_escape(row.runs[0].state)})"
        lines.append(" & ".join(cells) + r" \\")
    runs = [run for row in rows for run in row.runs]
    head = " & ".join(["Method", "Detector", "IoU", *(METRICS[key].title for key in HEADLINE), "box AP"])
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


def duration(seconds: float | None) -> str:
    """Seconds for people."""
    if seconds is None:
        return ""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def memory(megabytes: float | None) -> str:
    """MB of 2**20 bytes for people."""
    return "" if megabytes is None else f"{megabytes / 1024:.1f} GB"


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

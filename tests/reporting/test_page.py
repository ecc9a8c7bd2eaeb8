"""report.html in a real browser, from disk and without a network: every interaction works, without errors or
requests."""

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from places import fail, made, step_of
from reporting.results_tree import EXPERIMENT, complete_run, detect_objects, made_up_experiment, write_images

from benchmark.files import write_json
from benchmark.recipes.paths import experiment_folder, run_name
from benchmark.records import read_record
from benchmark.reporting import write_report
from benchmark.steps import Means, make, steps_of

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium here: apt-get install chromium, or CHROMIUM=/path/of/it"
)
HOSTILE = "Title </script><script>document.title='taken'</script><b>"
PATIENCE = 120_000  # milliseconds that a busy machine may take before a step counts as stuck
Metrics = dict[str, float]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The page of an experiment of four rows: three finished, one of them with two seeds, and one failed."""
    folder = tmp_path_factory.mktemp("page")
    failed = "  - {id: gol, method: gol, detector: torchvision/tiny_mask_rcnn, dataset: synthetic}\n"
    text = EXPERIMENT.replace("Made-up numbers", json.dumps(HOSTILE)) + failed
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        experiment = made_up_experiment(folder, text)
        *done, gol = [run for row in experiment.rows for run in row.runs]
        write_images(gol.dataset)
        for run, level in zip(done, (0.5, 0.52, 0.42, 0.47), strict=True):
            complete_run(run, level, 0.4)
        fail(step_of(gol, "train"), OSError("the disk is full"))
        write_report(experiment)
        yield folder / "results" / "experiments" / "made_up" / "report.html"


@pytest.fixture
def swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The page of an experiment of two sweeps, the first with two seeds."""
    monkeypatch.chdir(tmp_path)
    row = "method: bags, detector: torchvision/tiny_mask_rcnn, dataset: synthetic"
    sweeps = f"""  - {{id: ratio, {row}, sweep: {{others_ratio: [0.0001, 4, 16]}}, seeds: [0, 1]}}
  - {{id: few, {row}, options: {{edges: [10]}}, sweep: {{others_ratio: [4, 8]}}}}
"""
    experiment = made_up_experiment(tmp_path, f"{EXPERIMENT.partition('  - ')[0]}{sweeps}")
    for number, row in enumerate(experiment.rows):
        for run in row.runs:
            complete_run(run, 0.6 - number / 20 + run.seed / 50, 0.4)
    write_report(experiment)
    return experiment_folder("made_up") / "report.html"


@pytest.fixture
def grouped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The page of an experiment in groups: two losses, of which the second has an APr just below 21.75."""
    monkeypatch.chdir(tmp_path)
    more = "  - {id: gumbel, method: gumbel, detector: torchvision/tiny_mask_rcnn, dataset: synthetic}\n"
    text = EXPERIMENT.replace("rows:\n", "group_by: touches\nmetrics: [ECE]\nrows:\n") + more
    experiment = made_up_experiment(tmp_path, text)
    for run in [run for row in experiment.rows for run in row.runs]:
        if run.method != "gumbel":
            complete_run(run, 0.5, 0.4)
            continue
        *before, last = steps_of(run)
        complete_run(run, 0.5, 0.4, until=before)
        with made(last) as folder:
            write_json(folder / "metrics.json", {"segm": {"AP": 0.3, "APr": 0.2174999987, "ECE": 0.1}})
    write_report(experiment)
    return experiment_folder("made_up") / "report.html"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        # Chromium's own sandbox does not work for root or without user namespaces, as in most containers
        running = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"], timeout=PATIENCE
        )
        yield running
        running.close()


@pytest.fixture
def opened(browser: Any, report: Path) -> Iterator[Any]:
    """Opens the page with given settings of the browser; checks at the end that nothing was requested and
    nothing failed."""
    contexts, problems = [], []

    def refuse(route: Any) -> None:
        if not route.request.url.startswith("file:"):
            problems.append(f"request of {route.request.url}")
            route.abort()
        else:
            route.continue_()

    def open_page(file: Path = report, **settings: Any) -> Any:
        context = browser.new_context(
            offline=True, **{"viewport": {"width": 1280, "height": 900}, **settings}
        )
        contexts.append(context)
        context.set_default_timeout(PATIENCE)
        context.route("**/*", refuse)
        page = context.new_page()
        page.on("request", lambda made: made.url.startswith("http") and problems.append(made.url))
        page.on("console", lambda said: problems.append(f"{said.type}: {said.text}"))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(file.resolve().as_uri())
        page.wait_for_selector("html[data-ready]", state="attached")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert problems == []


def column(page: Any, title: str) -> list[str]:
    """The texts of a column of the results table, from the top."""
    titles = [text.rstrip(" ▾▴") for text in page.locator("#table thead th").all_inner_texts()]
    place = titles.index(title) + 1
    return page.locator(f"#table tbody tr > :nth-child({place})").all_inner_texts()


def methods(page: Any) -> list[str]:
    return column(page, "method")


def metrics_of(report: Path, method: str, seed: int = 0) -> Metrics:
    (path,) = report.parents[3].glob(f"results/runs/*/*/*/*/{method}/seed{seed}/evaluate/metrics.json")
    return json.loads(path.read_text())["segm"]


def test_opens_with_every_row_and_plot(opened: Any, report: Path) -> None:
    page = opened()
    assert page.title() == f"{HOSTILE} · Longtail Bench"
    assert page.locator("h1").inner_text() == HOSTILE
    assert "4 of 5 runs done" in page.locator("#summary").inner_text()
    assert methods(page) == ["Softmax", "Sigmoid + RFS", "BAGS", "GOL"]
    ap = f"{metrics_of(report, 'sigmoid')['AP'] * 100:.1f}"
    assert column(page, "AP")[1] == ap
    assert "±" in column(page, "AP")[0]  # of two seeds
    assert column(page, "status")[3] == "failed"
    assert "the disk is full" in page.locator("#runs").inner_text()
    for name in ("groups", "counts", "pair", "norms", "calibration"):
        assert page.locator(f"#plot-{name} .scatterlayer .trace").count() >= 3, name
    # of the pretraining, and one of each stage
    assert page.locator("#plots-training .scatterlayer .trace").count() == 5
    assert page.locator("#plots-tables .barlayer .trace").count() >= 4  # groups of bags
    assert "group 1: below 10 instances" in page.locator("#plots-tables").inner_text()
    assert page.locator("#papers pre").count() == 3
    assert not page.locator("#sweeps").is_visible()
    assert not page.locator("#apart").is_visible()
    assert "No number is marked as the best" in page.locator("#marks").inner_text()
    assert page.locator(".best").count() == 0
    assert not page.locator("nav a[href='#sweeps']").is_visible()
    assert "li2020overcoming" in page.locator("#papers").inner_text()


def test_a_sweep_is_drawn_described_and_told_in_numbers(opened: Any, swept: Path) -> None:
    page = opened(swept)
    page.locator("nav a[href='#sweeps']").click()
    figures = page.locator("#plots-sweeps figure")
    assert figures.count() == 2
    ratio = figures.first
    assert ratio.locator(".scatterlayer .trace").count() == 4  # AP, APr, APc and APf
    assert ratio.locator(".errorbar").count() > 0
    assert figures.last.locator(".errorbar").count() == 0
    says = "AP, APr, APc and APf against others_ratio, from 0.0001 to 16, for the rows of ratio."
    assert ratio.locator("figcaption").inner_text() == (
        f"{says} Logarithmic axis. Bars: standard deviation over seeds."
    )
    assert ratio.get_attribute("aria-label").startswith(f"{says} AP is highest at 0.0001, with ")
    ratio.locator("summary").click()
    assert ratio.locator("tbody tr").first.locator("td").nth(2).inner_text() == "0.0001"
    one, other = (figures.nth(number).locator(".main-svg").first.bounding_box() for number in (0, 1))
    assert one["x"] + one["width"] <= other["x"]  # side by side, neither over the other


def test_differences_that_are_no_noise_are_marked(
    opened: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three seeds of a row that finds one object and of one that finds all: the second is marked in the table
    and in the differences. The page still fits a phone."""
    monkeypatch.chdir(tmp_path)
    head, softmax, _, bags = EXPERIMENT.replace("[0, 1]", "[0, 1, 2]").split("  - ")
    bags = bags.replace("reported: bags/20", "seeds: [0, 1, 2]")
    experiment = made_up_experiment(tmp_path, f"{head}  - {softmax}  - {bags}")
    write_images(experiment.rows[0].runs[0].dataset)
    for row, wrong in zip(experiment.rows, (100, 0), strict=True):
        for run in row.runs:
            *before, predict, evaluate = steps_of(run)
            complete_run(run, 0.5, 0.4, until=before)
            detect_objects(predict, wrong)
            make(evaluate, Means())
    write_report(experiment)
    page = opened(experiment_folder("made_up") / "report.html", viewport={"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert column(page, "rank") == ["2", "1"]
    assert page.locator("#table tr[data-row=softmax] .best").count() == 0
    assert page.locator("#table tr[data-row=bags] .best").count() == 4  # AP, APr, APc, APf
    page.locator("#apart-metric").select_option("APr")
    cells = page.locator("#differences td strong").all_inner_texts()
    assert [text[0] for text in cells] == ["\N{MINUS SIGN}", "+"]
    assert "AP: 1 of 1 pairs of rows differ significantly." in page.locator("#statements").inner_text()


def test_sorts_by_any_column_with_what_is_missing_at_the_end(opened: Any) -> None:
    page = opened()
    header = page.locator("#table thead th", has=page.locator("button[data-key=AP]"))
    for _direction, order in (("descending", -1), ("ascending", 1)):
        header.locator("button").click()
        assert header.get_attribute("aria-sort") == _direction
        values = [float(text.split()[0].lstrip("•")) for text in column(page, "AP")[:3]]
        assert values == sorted(values, key=lambda value: order * value)
        assert methods(page)[3] == "GOL"
    page.locator("#table button[data-key=title]").click()
    assert methods(page) == ["BAGS", "GOL", "Sigmoid + RFS", "Softmax"]


def test_groups_have_their_headings_until_the_table_is_sorted(opened: Any, grouped: Path) -> None:
    """The further metrics are columns, and a number is rounded as in the other tables."""
    page = opened(grouped)
    lines = page.locator("#table tbody tr > :nth-child(2)").all_inner_texts()
    assert lines == ["baseline", "Softmax", "loss", "Sigmoid + RFS", "Gumbel", "decoupled", "BAGS"]
    cells = page.locator("tr[data-row=gumbel] > *").all_inner_texts()
    table = (grouped.parent / "table.md").read_text()
    written = next(line for line in table.splitlines() if line.startswith("| gumbel ")).split(" | ")
    assert "21.7" in written
    assert cells[2] == "loss"
    assert cells[4] == "21.7"
    assert "10.0" in cells[7]
    page.locator("#table button[data-key=AP]").click()
    assert page.locator("#table tr.group").count() == 0
    assert len(methods(page)) == 4


def test_filters_by_words_and_state(opened: Any) -> None:
    page = opened()
    page.locator("#search").fill("tiny softmax")
    assert methods(page) == ["Softmax"]
    assert page.locator("#count").inner_text() == "1 of 4 rows."
    page.locator("#search").fill("")
    page.locator("#state").select_option("failed")
    assert methods(page) == ["GOL"]
    page.locator("#state").select_option("")
    assert len(methods(page)) == 4
    before = page.locator("#table thead th").count()
    page.locator("#iou").select_option("bbox")
    assert page.locator("#table thead th").count() == before - 1  # no further column for boxes
    page.locator("#search").fill("no such thing")
    assert methods(page) == []


def test_plots_show_the_chosen_methods_and_values_under_the_pointer(opened: Any) -> None:
    page = opened()
    page.get_by_label("BAGS in the plots").uncheck()
    assert "BAGS" not in page.locator("#plot-groups .ytick").all_text_contents()
    assert "Softmax" in page.locator("#plot-groups .ytick").all_text_contents()
    assert page.locator("#plot-counts .scatterlayer .trace").count() == 4  # points and curves of two methods
    page.locator("#count-points").uncheck()
    assert page.locator("#plot-counts .scatterlayer .trace").count() == 2
    page.locator("#show-none").click()
    assert "Nothing to show" in page.locator("#plot-groups").inner_text()
    page.locator("#show-all").click()
    page.locator("#plot-groups .scatterlayer .trace .point").first.hover(force=True)
    page.wait_for_selector("#plot-groups .hoverlayer .hovertext")
    assert re.search(r"AP \d+\.\d", page.locator("#plot-groups .hoverlayer").text_content())
    summary = page.locator("#groups details summary")
    summary.click()
    assert page.locator("#groups details tbody tr").count() == 12  # AP, APr, APc, APf of three methods


def test_compares_two_methods(opened: Any, report: Path) -> None:
    page = opened()
    page.locator("#first").select_option("sigmoid")
    page.locator("#second").select_option("bags")
    first, second = metrics_of(report, "sigmoid"), metrics_of(report, "bags")
    change = (second["APr"] - first["APr"]) * 100
    summary = page.locator("#pair-summary").inner_text()
    shown = re.search(r"APr (\+|\N{MINUS SIGN})(\d+\.\d)", summary)
    assert shown is not None
    assert float(f"{'+' if shown[1] == '+' else '-'}{shown[2]}") == pytest.approx(change, abs=0.051)
    gained = page.locator("#gained tbody tr > :nth-child(2)").all_inner_texts()
    assert gained == sorted(gained, key=float, reverse=True)
    assert all(text.startswith("+") for text in gained)
    most = page.locator("#lost tbody th").first.inner_text()
    page.locator("#swap").click()
    assert page.locator("#gained tbody th").first.inner_text() == most
    assert page.locator("#first").input_value() == "bags"


def test_examples_of_both_methods_stand_side_by_side(opened: Any) -> None:
    page = opened()
    page.locator("#second").select_option("bags")
    example = page.locator("#examples .example").first
    assert example.locator("figcaption").all_inner_texts() == ["Softmax", "BAGS"]
    assert page.locator("#examples .example").count() == 6
    assert example.locator("svg path.shape").count() == 8  # four objects, twice
    assert {"right"} <= {item.get_attribute("class") for item in page.locator("#examples li").all()}
    page.locator("#draw-masks").uncheck()
    assert example.locator("svg path.shape").count() == 0
    assert example.locator("svg rect.shape").count() == 8
    page.locator("#draw-truth").check()
    assert example.locator("svg rect.truth").count() == 8
    page.locator("#best").fill("1")
    assert example.locator("li").count() == 2


def test_a_number_opens_where_it_comes_from(opened: Any, report: Path) -> None:
    page = opened()
    page.locator("#table tr[data-row=bags] button.number").first.click()
    dialog = page.locator("#provenance")
    text = dialog.inner_text()
    steps = [f"{step}: done" for step in ("softmax train", "retrain", "predict", "evaluate")]
    for part in ("AP of BAGS", *steps, "26.25"):
        assert part in text
    (path,) = report.parents[3].glob("results/runs/*/*/*/*/bags/seed0/evaluate/record.json")
    record = read_record(path)
    assert record is not None
    assert record.code_version in text
    assert record.subject.inputs["detections"] in text
    assert f"evaluation {record.subject.numerics['evaluation']}" in text
    assert record.hardware["platform"] in text
    dialog.get_by_text("resolved recipe").click()
    assert '"method": "bags"' in dialog.inner_text()
    page.locator("#close").click()
    assert not dialog.is_visible()


def test_everything_is_reached_by_keyboard(opened: Any) -> None:
    page = opened()
    focused = "document.activeElement"
    page.keyboard.press("Tab")
    assert page.evaluate(f"{focused}.textContent") == "To the results"
    page.locator("#table button[data-key=APr]").focus()
    page.keyboard.press("Enter")
    assert page.evaluate(f"{focused}.dataset.key") == "APr"  # the focus stays where it was
    first = methods(page)[0]
    page.keyboard.press("Enter")
    assert methods(page)[0] != first
    number = page.locator("#table tbody button.number").first
    number.focus()
    page.keyboard.press("Enter")
    assert page.locator("#provenance").is_visible()
    page.keyboard.press("Escape")
    assert not page.locator("#provenance").is_visible()
    assert page.evaluate(f"{focused}.className").startswith("number")
    page.locator("#first").focus()
    page.keyboard.press("End")
    assert page.locator("#pair-summary").inner_text().startswith("BAGS → ")
    unnamed = """[...document.querySelectorAll('button, input, select, [role=region], svg[role=img]')]
        .filter((node) => !node.closest('.modebar-container') && !node.getAttribute('aria-label')
            && !node.textContent.trim() && !(node.labels && node.labels.length))
        .map((node) => node.outerHTML)"""
    assert page.evaluate(unnamed) == []


def test_light_and_dark(opened: Any) -> None:
    colour = "getComputedStyle(document.body).backgroundColor"
    label = "getComputedStyle(document.querySelector('#plot-groups .ytick text')).fill"
    page = opened()
    light, ink = page.evaluate(colour), page.evaluate(label)
    page.locator("#theme").click()
    assert page.evaluate(colour) != light
    page.wait_for_function(f"{label} !== {json.dumps(ink)}")  # the plots too
    assert page.locator("#theme").get_attribute("aria-pressed") == "true"
    dark = opened(color_scheme="dark")
    assert dark.evaluate(colour) == page.evaluate(colour)
    dark.locator("#theme").click()
    assert dark.evaluate(colour) == light


def test_fits_a_phone(opened: Any) -> None:
    """Only tables and code scroll sideways, inside their own box."""
    page = opened(viewport={"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.locator("#all-metrics").check()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    wide = page.locator("#results .scroll")
    assert wide.evaluate("(node) => node.scrollWidth > node.clientWidth")
    cut = """[...document.querySelectorAll('.xtick text, .ytick text, .legendtext')]
        .map((node) => node.getBoundingClientRect())
        .filter((box) => box.right > 391 || box.left < -1).length"""
    assert page.evaluate(cut) == 0


def test_refers_to_nothing_outside(report: Path) -> None:
    """No element of ours can load anything, and the policy of the page forbids it."""
    text = report.read_text()
    assert "default-src 'none'" in text
    head = text[: text.index('<script type="application/json"')]
    assert not re.findall(r"""(?:src|href)=["'](?!#|data:)""", head)
    assert not re.findall(r"@import|url\(", head)


def test_the_same_results_give_the_same_bytes(report: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(report.parents[3])
    before = report.read_bytes()
    from benchmark.recipes import load_experiment

    write_report(load_experiment("made_up.yaml"))
    assert report.read_bytes() == before
    assert f"results/runs/{run_name(load_experiment('made_up.yaml').rows[0].runs[0])}".encode() in before

"use strict";
// One plot per question. A method has the same colour and symbol in all of them.
const COLOURS = {
  light: ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000"],
  dark: ["#5aa9e6", "#ff8a3d", "#2fc48d", "#e79bc9", "#9ad4f7", "#f2b632", "#f4f4f4"],
};
const SYMBOLS = ["circle", "square", "diamond", "triangle-down", "triangle-up", "cross", "x", "star"];
const DASHES = ["solid", "dash", "dot", "dashdot"];
const GROUPS = { r: 1, c: 2, f: 0 };  // numbers of colours

const theme = () => document.documentElement.dataset.theme;
const colour = (number) => COLOURS[theme()][number % COLOURS.light.length];
const symbol = (number) => SYMBOLS[number % SYMBOLS.length];
const dash = (number) => DASHES[Math.floor(number / COLOURS.light.length) % DASHES.length];
const variable = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const narrow = () => window.innerWidth < 640;
const shownRows = () => rows.filter((row) => chosen.shown.has(row.id) && row.counted);

function draw(id, traces, layout, height) {
  const place = typeof id === "string" ? $(id) : id;
  const figure = place.closest("figure");
  if (!traces.length) {
    if (place.data) Plotly.purge(place);
    place.style.height = "auto";
    place.replaceChildren(make("p", { class: "empty" }, layout.empty || "Nothing to show for the chosen methods."));
    if (figure.querySelector("details")) figure.querySelector("details").remove();
    return;
  }
  if (!place.data) place.replaceChildren();
  place.style.height = `${height}px`;
  const [ink, line] = [variable("--ink"), variable("--line")];
  const axis = { gridcolor: line, zerolinecolor: line, linecolor: line, automargin: true, title: { standoff: 8 } };
  const full = {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", height, margin: { l: 10, r: 10, t: 10, b: 10 },
    font: { family: getComputedStyle(document.body).fontFamily, size: narrow() ? 11 : 13, color: ink },
    hoverlabel: { bgcolor: variable("--panel"), bordercolor: line, font: { color: ink } },
    legend: { orientation: "h", yanchor: "bottom", y: 1.02, xanchor: "left", x: 0 },
    hovermode: "closest", dragmode: false,
    ...layout,
    xaxis: { ...axis, ...layout.xaxis, title: { ...axis.title, text: layout.xtitle } },
    yaxis: { ...axis, ...layout.yaxis, title: { ...axis.title, text: layout.ytitle } },
  };
  for (const key of ["empty", "xtitle", "ytitle"]) delete full[key];
  Plotly.react(place, traces, full, { responsive: true, displaylogo: false, modeBarButtons: [["toImage", "zoom2d", "resetScale2d"]] });
  numbersOf(figure, traces, [layout.xtitle, layout.ytitle]);
}

// The plotted numbers as a table, for those who cannot hover.
function numbersOf(figure, traces, titles) {
  let details = figure.querySelector("details");
  if (!details) {
    details = make("details", {}, make("summary", {}, "Numbers of this plot"), make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Numbers of this plot" }));
    details.addEventListener("toggle", () => details.open && details.fill());
    figure.append(details);
  }
  details.fill = () => {
    const head = make("tr", {}, ...["", "", titles[0] || "", titles[1] || ""].map((title) => make("th", { scope: "col" }, title)));
    const lines = traces.flatMap((trace) => trace.x.map((x, index) => [trace.name || "", (trace.text || [])[index] || "", x, trace.y[index]]))
      .filter((line) => line[3] !== null && line[2] !== null);
    const body = lines.slice(0, 2000).map((line) => make("tr", {}, ...line.map((cell) =>
      make("td", { class: typeof cell === "number" ? "number" : "" }, typeof cell === "number" ? Number(Math.abs(cell) < 1 ? cell.toPrecision(6) : cell.toFixed(3)) : cell))));
    const note = lines.length > body.length ? make("p", { class: "small" }, `The first ${body.length} of ${lines.length}; choose fewer methods for the others.`) : "";
    details.querySelector(".scroll").replaceChildren(note, make("table", {}, make("thead", {}, head), make("tbody", {}, ...body)));
  };
  if (details.open) details.fill();
}

// Plots side by side, each as [its node, what draws it]: a plot is as wide as the others beside it let it be.
function drawColumns(place, parts) {
  for (const plot of place.querySelectorAll(".plot")) Plotly.purge(plot);
  place.replaceChildren(...parts.map(([node]) => node));
  for (const [, drawOne] of parts) drawOne();
}

function apTitle(list) {
  const kinds = new Set(list.map(iouOf));
  return `${kinds.size === 1 ? `${content.words[[...kinds][0]]} ` : ""}AP (%)`;
}

// Of AP and its parts: name, number of the colour, symbol.
const PARTS = { AP: ["AP, all", 6, "circle"], APr: ["APr, rare", GROUPS.r, "diamond"], APc: ["APc, common", GROUPS.c, "square"], APf: ["APf, frequent", GROUPS.f, "triangle-up"] };
const partsThere = () => Object.keys(PARTS).map((key) => metricOf.get(key)).filter(Boolean);

function drawGroups() {
  const list = shownRows().filter((row) => valueOf(row, "AP"));
  const names = list.map(nameOf);
  const traces = list.length ? partsThere().map((metric) => {
    const [label, number, form] = PARTS[metric.key];
    const values = list.map((row) => valueOf(row, metric.key));
    const scaled = (value) => (value === null ? null : value * metric.scale);
    const spread = values.map((value) => (value && value.std !== null ? scaled(value.std) : 0));
    const ends = values.map((value) => value && value.interval);
    return {
      type: "scatter", mode: "markers", name: label, y: names, x: values.map((value) => value && scaled(value.mean)),
      marker: { color: colour(number), symbol: form, size: metric.key === "AP" ? 11 : 9 },
      error_x: {
        type: "data", thickness: 1.2, width: 3, visible: spread.some(Boolean) || ends.some(Boolean), symmetric: !ends.some(Boolean),
        array: values.map((value, i) => (ends[i] ? scaled(ends[i][1] - value.mean) : spread[i])),
        arrayminus: values.map((value, i) => (ends[i] ? scaled(value.mean - ends[i][0]) : spread[i])),
      },
      hovertemplate: `%{y}<br>${metric.title} %{x:.1f}<extra></extra>`,
    };
  }) : [];
  const kinds = list.flatMap((row) => Object.values(row.values[iouOf(row)] || {}));
  $("bars").textContent = kinds.some((value) => value.interval) ? "Bars: 95 % interval over images; with several seeds, their standard deviation."
    : kinds.some((value) => value.std !== null) ? "Bars: standard deviation over seeds." : "";
  draw("plot-groups", traces, {
    xtitle: apTitle(list), xaxis: { rangemode: "tozero", zeroline: false },
    yaxis: { autorange: "reversed", type: "category", ticklabelstandoff: 6 },
  }, 110 + 28 * list.length);
}

// All values of a sweep, whichever methods are chosen.
function drawSweeps() {
  for (const node of [$("sweeps"), document.querySelector('nav a[href="#sweeps"]')]) node.hidden = !content.sweeps.length;
  drawColumns($("plots-sweeps"), content.sweeps.map((sweep) => {
    const list = sweep.rows.map((id) => byId.get(id));
    const traces = partsThere().map((metric) => sweepTrace(sweep, list, metric));
    const says = `AP, APr, APc and APf against ${sweep.key}, from ${sweep.values[0]} to ${sweep.values[sweep.values.length - 1]}, for the rows of ${sweep.id}.`;
    const how = `${sweep.log ? " Logarithmic axis." : ""}${list.some((row) => row.counted > 1) ? " Bars: standard deviation over seeds." : ""}`;
    const plot = make("div", { class: "plot" });
    const figure = make("figure", { "aria-label": `${says} ${spokenOf(sweep, list)}` }, plot, make("figcaption", {}, says + how));
    return [make("div", {}, make("h3", {}, `${sweep.key} of ${sweep.id}`), figure), () => draw(plot, traces, {
      xtitle: sweep.key, ytitle: apTitle(list), yaxis: { rangemode: "tozero" },
      xaxis: { type: sweep.log ? "log" : "linear", tickvals: sweep.values, ticktext: sweep.values.map(String), zeroline: false },
    }, 380)];
  }));
}

function sweepTrace(sweep, list, metric) {
  const [label, number, form] = PARTS[metric.key];
  const values = list.map((row) => valueOf(row, metric.key));
  const spread = values.map((value) => (value && value.std !== null ? value.std * metric.scale : 0));
  return {
    type: "scatter", mode: "lines+markers", name: label, x: sweep.values, y: values.map((value) => value && value.mean * metric.scale),
    line: { color: colour(number), width: metric.key === "AP" ? 3 : 1.8 }, marker: { symbol: form, size: metric.key === "AP" ? 10 : 8 },
    error_y: { type: "data", array: spread, visible: spread.some(Boolean), thickness: 1.2, width: 3 },
    hovertemplate: `${sweep.key} %{x}<br>${metric.title} %{y:.1f}<extra></extra>`,
  };
}

// What the plot shows, for those who cannot see it.
function spokenOf(sweep, list) {
  const points = list.map((row, index) => [sweep.values[index], valueOf(row, "AP")]).filter((point) => point[1]);
  if (!points.length) return "";
  const best = points.reduce((one, other) => (other[1].mean > one[1].mean ? other : one));
  return `AP is highest at ${best[0]}, with ${shownAs(best[1].mean, metricOf.get("AP"))} percent.`;
}

function countsOf(row, kind) {
  return content.datasets[row.dataset][`${kind}_counts`];
}

// Points and curve of one quantity of the categories against their training count.
function countTraces(list, kind, name, points, scaleOf) {
  return list.flatMap((row) => {
    const found = classesOf(row, name || iouOf(row));
    if (!found) return [];
    const data = content.datasets[row.dataset];
    const scale = scaleOf ? scaleOf(found.values) : 1;
    const kept = found.values.map((value, index) => index).filter((index) => found.values[index] !== null && countsOf(row, kind)[index] > 0);
    const [x, y] = found.curves[kind];
    const look = { color: colour(row.number), symbol: symbol(row.number) };
    const group = { legendgroup: row.id, name: nameOf(row) };
    const curve = {
      ...group, type: "scatter", mode: "lines", x, y: y.map((value) => value / scale), line: { color: look.color, width: 2.5, dash: dash(row.number) },
      hovertemplate: `${nameOf(row)}<br>about %{x:.0f}: %{y:.3~g}<extra></extra>`,
    };
    const cloud = {
      ...group, type: "scatter", mode: "markers", showlegend: false, x: kept.map((index) => countsOf(row, kind)[index]),
      y: kept.map((index) => found.values[index] / scale), text: kept.map((index) => data.names[index]),
      customdata: kept.map((index) => letters[data.frequencies[index]] || ""),
      marker: { ...look, size: kept.length > 300 ? 4 : 7, opacity: 0.45 },
      hovertemplate: `<b>%{text}</b> (%{customdata})<br>${nameOf(row)}<br>%{x} ${kind}s: %{y:.3~g}<extra></extra>`,
    };
    return points ? [cloud, curve] : [curve];
  });
}

function groupLines(kind) {
  if (kind !== "image") return { shapes: [] };
  const line = (x) => ({ type: "line", x0: x, x1: x, yref: "paper", y0: 0, y1: 1, line: { color: variable("--soft"), dash: "dash", width: 1 } });
  return { shapes: [line(10.5), line(100.5)] };
}

function drawCounts() {
  const kind = $("count-kind").value;
  const list = shownRows();
  draw("plot-counts", countTraces(list, kind, null, $("count-points").checked), {
    xtitle: `training ${kind}s of the category`, ytitle: `${apTitle(list)} of the category`, xaxis: { type: "log", dtick: 1 }, ...groupLines(kind),
  }, narrow() ? 440 : 520);
}

function drawNorms() {
  const kind = $("norm-kind").value;
  const mean = (values) => {
    const kept = values.filter((value) => value !== null);
    return kept.reduce((sum, value) => sum + value, 0) / kept.length || 1;
  };
  const relative = $("norm-relative").checked;
  const list = shownRows();
  const without = list.filter((row) => !classesOf(row, "norm"));
  draw("plot-norms", countTraces(list, kind, "norm", true, relative ? mean : null), {
    xtitle: `training ${kind}s of the category`, ytitle: relative ? "weight norm / mean" : "weight norm", xaxis: { type: "log", dtick: 1 }, ...groupLines(kind),
    empty: "No weight norms for the chosen methods: the workflow writes them if the checkpoint is available.",
  }, narrow() ? 420 : 480);
  let note = $("norms").querySelector(".missing");
  if (!note) $("norms").append((note = make("p", { class: "small missing" })));
  note.textContent = without.length && without.length < list.length ? `Without norms (no checkpoint here, or no vector for each category): ${without.map(nameOf).join(", ")}.` : "";
}

// Logarithmic where the losses span much, with ticks at 1, 2, 5 of every decade.
function lossAxis(traces) {
  const values = traces.flatMap((trace) => trace.y).filter((value) => value > 0);
  const [low, high] = [Math.min(...values), Math.max(...values)];
  if (high / low < 5) return {};
  const tickvals = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++) tickvals.push(...[1, 2, 5].map((step) => step * 10 ** power));
  return { type: "log", tickvals, ticktext: tickvals.map((value) => String(Number(value.toPrecision(2)))) };
}

function drawTraining() {
  const list = content.training.filter((item) => item.rows.some((id) => chosen.shown.has(id)));
  const stages = [...new Set(list.map((item) => item.stage))];
  const several = new Set(content.training.map((item) => item.seed)).size > 1;
  drawColumns($("plots-training"), stages.map((stage) => {
    const plot = make("div", { class: "plot" });
    const node = make("div", {}, make("h3", {}, `Stage ${stage}`), make("figure", {}, plot));
    const seen = new Map();
    const traces = list.filter((item) => item.stage === stage).map((item) => {
      const row = byId.get(item.own);
      const turn = seen.get(item.title) || 0;
      seen.set(item.title, turn + 1);
      const name = (row ? nameOf(row) : `${item.title} (base)`) + (several ? `, seed ${item.seed}` : "");
      return {
        type: "scatter", mode: "lines", name, x: item.iterations, y: item.losses,
        line: { color: row ? colour(row.number) : variable("--soft"), width: 1.8, dash: turn ? DASHES[turn % 4] : row ? dash(row.number) : "solid" },
        hovertemplate: `${name}<br>iteration %{x:.0f}<br>loss %{y:.3f}<extra></extra>`,
      };
    });
    const layout = { xtitle: "iteration", ytitle: "training loss", yaxis: lossAxis(traces) };
    return [node, () => draw(plot, traces, layout, 320 + 20 * Math.ceil(traces.length / 3))];
  }));
  if (!stages.length) $("plots-training").append(make("p", { class: "small" }, "No training curves for the chosen methods."));
}

// Histograms of groups and of repeat factors, each with its sizes as a table.
function drawTables() {
  const list = content.tables.filter((item) => item.rows.some((id) => chosen.shown.has(id)));
  for (const node of [$("tables"), document.querySelector('nav a[href="#tables"]')]) node.hidden = !list.length;
  drawColumns($("plots-tables"), list.map((item) => {
    const plot = make("div", { class: "plot" });
    const users = make("p", { class: "small" }, `Read by ${item.rows.map((id) => nameOf(byId.get(id))).join(", ")}.`);
    const node = make("div", {}, make("h3", {}, item.title), make("figure", {}, plot),
      make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": `Sizes, ${item.title}` }, sizesOf(item)), users);
    const traces = item.series.map((series, number) => ({
      type: "bar", name: series.name, x: item.bins, y: series.counts, marker: { color: colour(number) },
      hovertemplate: `%{x}: %{y} categories<extra>${series.name}</extra>`,
    }));
    const layout = { xtitle: item.axis, ytitle: "categories", barmode: "stack", xaxis: { type: "category" } };
    return [node, () => draw(plot, traces, layout, 320 + 20 * item.series.length)];
  }));
}

function sizesOf(item) {
  const head = make("tr", {}, ...["", "categories", "instances"].map((name, index) => make("th", { scope: "col", class: index ? "number" : "" }, name)));
  const body = item.series.map((series) => make("tr", {}, make("th", { scope: "row" }, series.name),
    make("td", { class: "number" }, String(series.categories)), make("td", { class: "number" }, String(series.instances))));
  return make("table", {}, make("thead", {}, head), make("tbody", {}, ...body));
}

function drawCalibration() {
  const list = rows.filter((row) => (content.calibration || {})[row.id]);
  for (const node of [$("calibration"), document.querySelector('nav a[href="#calibration"]')]) node.hidden = !list.length;
  if (!list.length) return;
  const traces = list.filter((row) => chosen.shown.has(row.id)).map((row) => {
    const bins = content.calibration[row.id];
    return {
      type: "scatter", mode: "lines+markers", name: nameOf(row), x: bins.score, y: bins.precision, text: bins.count.map((count) => `${count} detections`),
      line: { color: colour(row.number), dash: dash(row.number) }, marker: { symbol: symbol(row.number), size: 7 },
      hovertemplate: `${nameOf(row)}<br>score %{x:.2f}: %{y:.2f} right<br>%{text}<extra></extra>`,
    };
  });
  draw("plot-calibration", traces, {
    xtitle: "mean score", ytitle: "share of right detections", xaxis: { range: [0, 1.03] }, yaxis: { range: [0, 1.03] },
    shapes: [{ type: "line", x0: 0, y0: 0, x1: 1, y1: 1, line: { color: variable("--soft"), dash: "dash", width: 1 } }],
  }, 460);
}

// Per-class change from the first to the second chosen method.
function changes() {
  const [first, second] = [byId.get(chosen.first), byId.get(chosen.second)];
  if (!first || !second || first.dataset !== second.dataset) return null;
  const iou = chosen.iou || (first.iou === second.iou ? first.iou : "bbox");
  const [a, b] = [classesOf(first, iou), classesOf(second, iou)];
  if (!a || !b) return null;
  const data = content.datasets[first.dataset];
  const list = a.values.map((value, index) => ({
    name: data.names[index], letter: data.frequencies[index], images: data.image_counts[index], instances: data.instance_counts[index],
    before: value, after: b.values[index], change: value === null || b.values[index] === null ? null : b.values[index] - value,
  })).filter((item) => item.change !== null);
  return { first, second, iou, list };
}

function drawPair() {
  const found = changes();
  for (const id of ["gained", "lost"]) $(id).replaceChildren();
  if (!found) {
    $("pair-summary").textContent = "Choose two finished methods of one dataset.";
    draw("plot-pair", [], { empty: "" });
    return;
  }
  const { first, second, iou, list } = found;
  const metric = metricOf.get("AP");
  const parts = ["AP", "APr", "APc", "APf"].filter((key) => valueOf(first, key, iou) && valueOf(second, key, iou)).map((key) => {
    const difference = (valueOf(second, key, iou).mean - valueOf(first, key, iou).mean) * metric.scale;
    return `${key} ${signed(difference)}`;
  });
  const better = list.filter((item) => item.change > 0).length;
  const worse = list.filter((item) => item.change < 0).length;
  $("pair-summary").textContent = `${nameOf(first)} → ${nameOf(second)}, ${content.words[iou]}s: ${parts.join(", ")}. `
    + `Of ${list.length} categories ${better} gain and ${worse} lose.`;
  const traces = Object.entries(GROUPS).map(([letter, number]) => {
    const items = list.filter((item) => item.letter === letter && item.instances > 0);
    return {
      type: "scatter", mode: "markers", name: letters[letter], x: items.map((item) => item.instances), y: items.map((item) => item.change),
      text: items.map((item) => item.name), customdata: items.map((item) => [item.before, item.after, item.images]),
      marker: { color: colour(number), symbol: { r: "diamond", c: "square", f: "triangle-up" }[letter], size: 9, opacity: 0.85 },
      hovertemplate: "<b>%{text}</b><br>%{customdata[0]:.1f} → %{customdata[1]:.1f} (%{y:+.1f})<br>%{x} instances in %{customdata[2]} images<extra></extra>",
    };
  });
  draw("plot-pair", traces, {
    xtitle: "training instances of the category", ytitle: "change of AP (points)", xaxis: { type: "log", dtick: 1 },
    yaxis: { zeroline: true, zerolinecolor: variable("--soft"), zerolinewidth: 2 },
  }, 420);
  const sorted = [...list].sort((a, b) => b.change - a.change);
  fillMoved("gained", sorted.filter((item) => item.change > 0).slice(0, 10));
  fillMoved("lost", sorted.filter((item) => item.change < 0).slice(-10).reverse());
}

function fillMoved(id, items) {
  const head = ["category", "change", "from", "to", "images", ""].map((name, index) =>
    make("th", { scope: "col", class: index > 0 && index < 5 ? "number" : "" }, name));
  const body = items.map((item) => make("tr", {},
    make("th", { scope: "row" }, item.name), make("td", { class: `number ${item.change > 0 ? "good" : "bad"}` }, signed(item.change)),
    make("td", { class: "number" }, item.before.toFixed(1)), make("td", { class: "number" }, item.after.toFixed(1)),
    make("td", { class: "number" }, item.images), make("td", {}, letters[item.letter] || "")));
  $(id).replaceChildren(items.length ? make("table", {}, make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...body)) : make("p", { class: "small" }, "No category."));
}

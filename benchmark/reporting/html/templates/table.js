"use strict";
// The results table, the table of runs, and where a number comes from.
const sort = { key: null, down: true };
const grouped = rows.some((row) => row.touches);

// Marks only significant differences, in the IoU type of the headline.
function best(metric, row) {
  return iouOf(row) === row.iou && row.best.includes(metric.key);
}

function metricColumn(metric) {
  return {
    key: metric.key, label: metric.title, tip: metric.meaning, numeric: true, down: metric.higher,
    value: (row) => (valueOf(row, metric.key) || { mean: null }).mean,
    cell: (row) => {
      const value = valueOf(row, metric.key);
      if (!value) return "";
      const number = make("button", {
        type: "button", class: best(metric, row) ? "number best" : "number",
        "aria-label": `${metric.title} of ${nameOf(row)}: ${shownAs(value.mean, metric)}; where it comes from`,
        onclick: () => openProvenance(row, metric),
      }, shownAs(value.mean, metric));
      const spread = value.interval ? ` [${value.interval.map((end) => shownAs(end, metric)).join(", ")}]`
        : value.std === null ? "" : ` ± ${shownAs(value.std, metric)}`;
      return spread ? make("span", {}, number, make("span", { class: "spread" }, spread)) : number;
    },
  };
}

function columns() {
  const headline = content.headline.map((key) => metricOf.get(key)).filter(Boolean);
  const metrics = $("all-metrics").checked ? content.metrics : headline;
  const reported = (row) => row.reported[`${iouOf(row)}/AP`] || null;
  const text = (key, label, value, tip) => ({ key, label, tip, value, cell: value });
  const list = [
    { key: "plot", label: "plot", fixed: true, cell: plotBox },
    { ...text("title", "method", nameOf, "the method's name; small numbers are declared deviations"),
      cell: (row) => (row.footnotes.length ? make("span", {}, nameOf(row), make("sup", {}, ` ${row.footnotes.join(", ")}`)) : nameOf(row)) },
    ...(grouped ? [text("touches", "touches", (row) => row.touches, "what the method changes of the baseline")] : []),
    ...metrics.map(metricColumn),
  ];
  if (rows.some((row) => row.ranks.AP)) {
    list.push({ key: "rank", label: "rank", tip: "places that the row may have by AP among those that it can be compared with", numeric: true,
      value: (row) => row.ranks.AP && row.ranks.AP.places[0], cell: (row) => (row.ranks.AP ? row.ranks.AP.text : "") });
  }
  if (!chosen.iou && content.ious.length > 1) {
    list.push({
      key: "box", label: "box AP", tip: "AP of boxes", numeric: true, down: true,
      value: (row) => (valueOf(row, "AP", "bbox") || { mean: null }).mean,
      cell: (row) => { const value = valueOf(row, "AP", "bbox"); return value ? shownAs(value.mean, metricOf.get("AP")) : ""; },
    });
  }
  if (rows.some(reported)) {
    list.push(
      { key: "reported", label: "reported AP", tip: "the paper's number", numeric: true, down: true,
        value: (row) => reported(row) && reported(row).value, cell: (row) => (reported(row) ? String(reported(row).value) : "") },
      { key: "difference", label: "difference", tip: "ours minus the paper's, where dataset and schedule are the paper's", numeric: true, down: true,
        value: (row) => reported(row) && reported(row).difference,
        cell: (row) => (reported(row) && reported(row).difference !== null ? signed(reported(row).difference) : "") },
      { key: "verdict", label: "verdict", tip: "whether the difference is within the tolerance",
        value: (row) => reported(row) && reported(row).verdict,
        cell: (row) => {
          const verdict = reported(row) && reported(row).verdict;
          return verdict ? make("span", { class: verdict === "within" ? "good" : "bad" }, `${verdict} tolerance`) : "";
        } },
    );
  }
  const same = (value) => new Set(rows.map(value)).size === 1;
  list.push({ key: "seeds", label: "seeds", tip: "finished runs of all runs", numeric: true, down: true,
    value: (row) => row.done, cell: (row) => `${row.done} of ${row.total}` });
  list.push({ key: "status", label: "status", tip: "state, and the reason where it is not done", value: (row) => row.status,
    cell: (row) => make("span", { class: row.state === "done" ? "good" : "bad", title: row.status }, row.older ? "older code" : row.state) });
  list.push({ key: "time", label: "wall time", tip: "of all steps from initial weights, mean over seeds", numeric: true,
    value: (row) => row.seconds, cell: (row) => row.time });
  if (rows.some((row) => row.gpu_hours)) {
    list.push({ key: "gpu", label: "GPU-hours", tip: "of all steps from initial weights, sum over seeds and attempts", numeric: true,
      value: (row) => row.gpu_hours, cell: (row) => row.gpu_hours.toFixed(1) });
  }
  list.push({ key: "memory", label: "memory", tip: "highest of any step", numeric: true, value: (row) => row.memory_mb, cell: (row) => row.memory });
  list.push(text("id", "row", (row) => row.id, "the row of the experiment"));
  list.push(text("schedule", "schedule", (row) => row.schedule, "budget, and the length of every stage"));
  if (!same((row) => row.dataset)) list.push(text("dataset", "dataset", (row) => row.dataset));
  list.push(text("detector", "detector", (row) => row.detector));
  if (!chosen.iou && !same((row) => row.iou)) list.push(text("iou", "overlap of", (row) => content.words[row.iou]));
  return list;
}

function plotBox(row) {
  return make("input", {
    type: "checkbox", checked: chosen.shown.has(row.id), "aria-label": `${nameOf(row)} in the plots`, disabled: !row.counted,
    onchange: (event) => {
      if (event.target.checked) chosen.shown.add(row.id); else chosen.shown.delete(row.id);
      redraw("shown");
    },
  });
}

function filtered() {
  const words = $("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const kept = rows.filter((row) => {
    const text = [row.id, row.title, row.method, row.detector, row.dataset, row.status].join(" ").toLowerCase();
    return words.every((word) => text.includes(word))
      && ["state", "dataset", "detector"].every((key) => !$(key).value || row[key] === $(key).value);
  });
  const column = columns().find((item) => item.key === sort.key);
  if (!column) return kept;
  const missing = (value) => value === null || value === undefined || value === "";
  return kept.sort((left, right) => {
    const [a, b] = [column.value(left), column.value(right)];
    if (missing(a) || missing(b)) return missing(a) - missing(b) || left.number - right.number;  // always at the end
    const order = typeof a === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
    return (sort.down ? -order : order) || left.number - right.number;
  });
}

function drawTable() {
  const list = columns();
  const head = make("tr", {}, ...list.map((column) => {
    if (column.fixed) return make("th", { scope: "col" }, column.label);
    const now = sort.key === column.key;
    return make("th", { scope: "col", class: column.numeric ? "number" : "", "aria-sort": now ? (sort.down ? "descending" : "ascending") : "none" },
      make("button", {
        type: "button", title: column.tip, "data-key": column.key,
        onclick: () => {
          sort.down = now ? !sort.down : Boolean(column.down);
          sort.key = column.key;
          drawTable();
          document.querySelector(`#table th button[data-key="${CSS.escape(column.key)}"]`).focus();
        },
      }, `${column.label}${now ? (sort.down ? " ▾" : " ▴") : ""}`));
  }));
  const kept = filtered();
  const body = kept.flatMap((row, place) => {
    const begins = grouped && !sort.key && row.touches !== (kept[place - 1] || {}).touches;
    return [
      begins ? make("tr", { class: "group" }, make("th", {}), make("th", { scope: "rowgroup" }, row.touches), make("td", { colspan: list.length - 2 })) : null,
      make("tr", { "data-row": row.id }, ...list.map((column, index) =>
        make(index === 1 ? "th" : "td", { class: column.numeric ? "number" : "", scope: index === 1 ? "row" : null }, column.cell(row)))),
    ].filter(Boolean);
  });
  document.querySelector("#table thead").replaceChildren(head);
  document.querySelector("#table tbody").replaceChildren(...body);
  $("footnotes").replaceChildren(...content.footnotes.map((note) => make("li", {}, note)));
  $("marks").textContent = content.marks;
  $("deviations").hidden = !content.footnotes.length;
  $("count").textContent = `${kept.length} of ${rows.length} rows.`;
}

function definitions(entries) {
  const kept = entries.filter(([, value]) => value !== null && value !== undefined && value !== "");
  return make("dl", {}, ...kept.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]));
}

function listed(mapping) {
  return Object.entries(mapping).map(([name, value]) => `${name} ${typeof value === "object" ? JSON.stringify(value) : value}`).join(", ");
}

function stepView(step) {
  const inputs = Object.entries(step.inputs || {});
  return make("details", { open: true }, make("summary", {}, `${step.name}: ${step.state}${step.time ? `, ${step.time}` : ""}`),
    step.command ? make("pre", { tabindex: 0 }, step.command) : null,
    definitions([
      ["reason", step.reason], ["output", step.output], ["started", step.started], ["finished", step.finished],
      ["peak memory", step.memory], ["code", step.code], ["numerics", step.numerics], ["method version", step.method], ["machine", step.host],
      ["hardware", listed(step.hardware || {})], ["versions", listed(step.versions || {})], ...inputs, ["facts", listed(step.facts || {})],
    ]));
}

function openProvenance(row, metric = null) {
  $("provenance-title").textContent = metric ? `${metric.title} of ${nameOf(row)}` : nameOf(row);
  const parts = [];
  const value = metric && valueOf(row, metric.key);
  if (value) {
    const each = value.seeds.map((seed) => shownAs(seed, metric)).join(", ");
    const paper = row.reported[`${iouOf(row)}/${metric.key}`];
    parts.push(definitions([
      ["meaning", `${metric.meaning}, overlap of ${content.words[iouOf(row)]}s, ${metric.scale === 100 ? "percent" : ""}`],
      ["each seed", each], ["rank", row.ranks[metric.key] && iouOf(row) === row.iou ? row.ranks[metric.key].text : null],
      ["interval", value.interval ? value.interval.map((end) => shownAs(end, metric)).join(" to ") : null],
      ["published", paper ? `${paper.value} (${row.answers})` : null],
      ["difference", paper && paper.difference !== null ? `${signed(paper.difference)}${paper.tolerance ? `, tolerance ${paper.tolerance}` : ""}` : null],
    ]));
  }
  if (row.footnotes.length) {
    parts.push(make("h3", {}, `Deviations from ${row.answers}`), make("ul", {}, ...row.footnotes.map((number) => make("li", {}, content.footnotes[number - 1]))));
  }
  for (const run of content.runs.filter((item) => item.row === row.id)) {
    parts.push(make("h3", {}, `Seed ${run.seed}: ${run.state}`),
      definitions([["reason", run.reason], ["folder", run.folder], ["numbers", run.older], ["key", run.key], ["cost", [run.time, run.memory].filter(Boolean).join(", ")]]),
      ...run.steps.map(stepView),
      make("details", {}, make("summary", {}, "resolved recipe"), make("pre", { tabindex: 0 }, JSON.stringify(run.recipe, null, 1))));
  }
  $("provenance-body").replaceChildren(...parts);
  $("provenance").showModal();
  $("provenance").scrollTop = 0;
}

function drawRuns() {
  const reasons = content.runs.some((run) => run.reason);
  const names = ["run", "seed", "state", ...(reasons ? ["reason"] : []), "wall time", "memory", "folder"];
  document.querySelector("#runs thead").replaceChildren(make("tr", {}, ...names.map((name) => make("th", { scope: "col" }, name))));
  const order = content.runs.map((run, index) => [run.state === "done", index]).sort((a, b) => a[0] - b[0] || a[1] - b[1]);
  document.querySelector("#runs tbody").replaceChildren(...order.map(([, index]) => {
    const run = content.runs[index];
    return make("tr", {},
      make("th", { scope: "row" }, make("button", { type: "button", class: "number", onclick: () => openProvenance(byId.get(run.row)) }, run.row)),
      make("td", {}, run.seed), make("td", { class: run.state === "done" ? "good" : "bad" }, run.state),
      reasons ? make("td", { class: "wide" }, run.reason || "") : null, make("td", {}, run.time), make("td", {}, run.memory), make("td", {}, make("code", {}, run.folder)));
  }));
  if (content.notes.length) {
    $("notes").replaceChildren(make("h3", {}, "Notes"), make("ul", {}, ...content.notes.map((note) => make("li", {}, note))));
  }
}

function drawCitations() {
  $("papers").replaceChildren(...content.citations.map((paper) => {
    const button = make("button", { type: "button", onclick: () => copyText(paper.bibtex, button) }, "Copy");
    return make("div", {}, make("h3", {}, paper.title), make("p", { class: "small" }, `for ${paper.for.join(", ")} `, button), make("pre", { tabindex: 0 }, paper.bibtex));
  }));
  if (!content.citations.length) $("papers").append(make("p", {}, "No manifest names a paper."));
}

function copyText(text, button) {
  const area = make("textarea", { "aria-hidden": "true" });  // the clipboard interface is closed to files
  area.value = text;
  document.body.append(area);
  area.select();
  button.textContent = document.execCommand("copy") ? "Copied" : "Select it by hand";
  area.remove();
  button.focus();
}

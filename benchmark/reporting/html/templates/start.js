"use strict";
// Fills the controls and connects them with what they change.
function remembered(key, value) {
  try {
    if (value === undefined) return localStorage.getItem(key);
    localStorage.setItem(key, value);
  } catch { /* files may have no storage: then nothing is remembered */ }
  return null;
}

function setTheme(name) {
  document.documentElement.dataset.theme = name;
  $("theme").setAttribute("aria-pressed", String(name === "dark"));
  $("theme").textContent = name === "dark" ? "Light" : "Dark";
  $("theme").setAttribute("aria-label", name === "dark" ? "Change to light colours" : "Change to dark colours");
}

const systemDark = window.matchMedia("(prefers-color-scheme: dark)");
setTheme(remembered("longtail-theme") || (systemDark.matches ? "dark" : "light"));

$("summary").textContent = `${content.done} of ${content.total} runs done. Experiment ${content.name}, budget ${content.budget}. AP in percent.`;

for (const key of ["state", "dataset", "detector"]) {
  const values = [...new Set(rows.map((row) => row[key]))].sort();
  $(key).append(option("", "all"), ...values.map((value) => option(value, value)));
  $(key).closest("label").hidden = values.length < 2;
}
$("iou").append(option("", "masks where there are any"), ...content.ious.map((iou) => option(iou, `${content.words[iou]}s`)));
$("iou").closest("label").hidden = content.ious.length < 2;

const finished = rows.filter((row) => row.counted);
const AT_FIRST = 10;  // more methods in one plot cannot be distinguished
for (const row of finished.slice(0, AT_FIRST)) chosen.shown.add(row.id);
chosen.first = finished.length ? finished[0].id : null;
chosen.second = finished.length > 1 ? finished[1].id : chosen.first;
for (const id of ["first", "second"]) {
  $(id).append(...finished.map((row) => option(row.id, nameOf(row))));
  $(id).value = chosen[id];
  $(id).addEventListener("change", () => { chosen[id] = $(id).value; redraw("pair"); });
}

if (content.differences) {
  $("apart-metric").append(...Object.keys(content.differences.metrics).map((key) => option(key, metricOf.get(key).title)));
}

redraws.push(
  ["apart", drawDifferences],
  ["table", drawTable], ["shown", drawGroups], ["shown", drawSweeps], ["shown", drawCounts], ["shown", drawNorms], ["shown", drawTraining], ["shown", drawTables],
  ["shown", drawCalibration],
  ["counts", drawCounts], ["norms", drawNorms], ["pair", drawPair], ["pair", drawExamples], ["examples", drawExamples],
);
const on = (id, event, ...topics) => $(id).addEventListener(event, () => redraw(...topics));
on("search", "input", "table");
for (const id of ["state", "dataset", "detector", "all-metrics"]) on(id, "change", "table");
$("iou").addEventListener("change", () => { chosen.iou = $("iou").value; redraw("table", "shown", "pair"); });
on("apart-metric", "change", "apart");
on("count-kind", "change", "counts");
on("count-points", "change", "counts");
on("norm-kind", "change", "norms");
on("norm-relative", "change", "norms");
on("best", "input", "examples");
on("draw-masks", "change", "examples");
on("draw-truth", "change", "examples");
$("swap").addEventListener("click", () => {
  [chosen.first, chosen.second] = [chosen.second, chosen.first];
  for (const id of ["first", "second"]) $(id).value = chosen[id];
  redraw("pair");
});
function show(list) {
  chosen.shown = new Set(list.filter((row) => row.counted).map((row) => row.id));
  redraw("table", "shown");
}
$("show-all").addEventListener("click", () => show(rows));
$("show-filtered").addEventListener("click", () => show(filtered()));
$("show-none").addEventListener("click", () => show([]));
$("close").addEventListener("click", () => $("provenance").close());
$("provenance").addEventListener("click", (event) => { if (event.target === $("provenance")) $("provenance").close(); });
$("theme").addEventListener("click", () => {
  const name = theme() === "dark" ? "light" : "dark";
  remembered("longtail-theme", name);
  setTheme(name);
  redraw("shown", "pair");
});
systemDark.addEventListener("change", (event) => {
  if (!remembered("longtail-theme")) { setTheme(event.matches ? "dark" : "light"); redraw("shown", "pair"); }
});

drawRuns();
drawCitations();
drawAgreement();
redraw("table", "apart", "shown", "pair");
document.documentElement.dataset.ready = "yes";

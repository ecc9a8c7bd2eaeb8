"use strict";
// Differences between all rows that can be compared, with their intervals; and the order of published tables.
function drawDifferences() {
  for (const node of [$("apart"), document.querySelector('nav a[href="#apart"]')]) node.hidden = !content.differences;
  if (!content.differences) return;
  const metric = metricOf.get($("apart-metric").value);
  const pairs = content.differences.metrics[metric.key];
  const found = new Map(pairs.map((pair) => [`${pair.second} ${pair.first}`, pair]));
  const kept = rows.filter((row) => pairs.some((pair) => pair.first === row.id || pair.second === row.id));
  document.querySelector("#differences thead").replaceChildren(make("tr", {}, make("th", { scope: "col" }, "minus"),
    ...kept.map((row) => make("th", { scope: "col", class: "number" }, nameOf(row)))));
  document.querySelector("#differences tbody").replaceChildren(...kept.map((row) => make("tr", {},
    make("th", { scope: "row" }, nameOf(row)),
    ...kept.map((other) => differenceCell(found.get(`${row.id} ${other.id}`), 1, metric) || differenceCell(found.get(`${other.id} ${row.id}`), -1, metric)
      || make("td", {})))));
  $("statements").replaceChildren(...content.differences.statements.map((text) => make("li", {}, text)));
  $("explanation").textContent = content.differences.explanation;
}

function differenceCell(pair, sign, metric) {
  if (!pair) return null;
  const ends = pair.interval.map((end) => signed(sign * end * metric.scale, metric.digits));
  if (sign < 0) ends.reverse();
  const value = signed(sign * pair.value * metric.scale, metric.digits);
  return make("td", { class: "number" }, pair.clear ? make("strong", {}, value) : value, make("br"),
    make("span", { class: "small" }, `[${ends.join(", ")}]`),
    ...(pair.clear ? [] : [make("br"), make("span", { class: "small" }, `${pair.needed} seeds`)]));
}

function drawAgreement() {
  for (const node of [$("agreement"), document.querySelector('nav a[href="#agreement"]')]) node.hidden = !content.agreement.length;
  const names = ["metric", "compared with", "Kendall's tau", "95 % interval", "p", "methods", "verdict"];
  document.querySelector("#agreements thead").replaceChildren(make("tr", {}, ...names.map((name) => make("th", { scope: "col" }, name))));
  document.querySelector("#agreements tbody").replaceChildren(...content.agreement.map((item) => make("tr", {},
    make("th", { scope: "row" }, metricOf.get(item.metric).title), make("td", {}, item.source), make("td", { class: "number" }, signed(item.tau, 2)),
    make("td", { class: "number" }, `[${signed(item.low, 2)}, ${signed(item.high, 2)}]`), make("td", { class: "number" }, item.p.toFixed(3)),
    make("td", { class: "wide" }, `${item.methods.length}: ${item.methods.join(", ")}`), make("td", {}, item.text))));
}

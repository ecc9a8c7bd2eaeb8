"use strict";
// The content, what is chosen, and small helpers. Text only ever becomes text nodes, never markup.
const content = JSON.parse(document.getElementById("content").textContent);
const rows = content.rows;
const byId = new Map(rows.map((row) => [row.id, row]));
const letters = { r: "rare", c: "common", f: "frequent" };
const chosen = { iou: "", shown: new Set(), first: null, second: null };

const $ = (id) => document.getElementById(id);

function make(tag, attributes = {}, ...children) {
  const svg = ["svg", "image", "path", "rect", "text", "title", "g"].includes(tag);
  const node = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined).map(asNode));
  return node;
}

function asNode(child) {
  return child instanceof Node ? child : document.createTextNode(String(child));
}

// The method's name, with the row's where methods repeat.
const titleCounts = new Map();
for (const row of rows) titleCounts.set(row.title, (titleCounts.get(row.title) || 0) + 1);
function nameOf(row) {
  return titleCounts.get(row.title) > 1 ? `${row.title} [${row.id}]` : row.title;
}

const iouOf = (row) => chosen.iou || row.iou;
const metricOf = new Map(content.metrics.map((metric) => [metric.key, metric]));

function valueOf(row, key, iou = iouOf(row)) {
  const found = (row.values[iou] || {})[key];
  return found && found.mean !== null ? found : null;
}

function shownAs(value, metric) {
  return value === null || value === undefined ? "" : (value * metric.scale).toFixed(metric.digits);
}

function signed(value, digits = 1) {
  const text = Math.abs(value).toFixed(digits);
  return (value < 0 && Number(text) !== 0 ? "−" : "+") + text;
}

function classesOf(row, name = iouOf(row)) {
  return (content.classes[row.id] || {})[name] || null;
}

// Bound by the page: what redraws when a choice changes.
const redraws = [];
function redraw(...topics) {
  for (const [topic, draw] of redraws) if (topics.includes(topic)) draw();
}

function option(value, label) {
  return make("option", { value }, label);
}

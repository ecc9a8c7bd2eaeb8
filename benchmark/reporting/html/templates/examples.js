"use strict";
// Detections of the two chosen methods in the same images, drawn as vector graphics over them.
function sideOf(image, row, best) {
  const found = (row && image.found[row.id]) || null;
  const shapes = [];
  const size = Math.max(image.width, image.height) / 26;
  const outline = (item, kind) => (item.path && $("draw-masks").checked
    ? make("path", { d: item.path, class: `shape ${kind}` })
    : make("rect", { x: item.box[0], y: item.box[1], width: item.box[2], height: item.box[3], class: `shape ${kind}` }));
  if ($("draw-truth").checked) for (const item of image.truth) shapes.push(make("g", {}, make("title", {}, `annotation: ${item.name}`), outline(item, "truth")));
  const kept = (found || []).slice(0, best);
  kept.forEach((item, index) => {
    const x = Math.min(Math.max(item.box[0] + 1, 1), image.width - size);
    const y = Math.min(Math.max(item.box[1] + size, size), image.height - 2);
    shapes.push(make("g", {}, make("title", {}, `${item.name} ${item.score.toFixed(2)}: ${item.verdict}`), outline(item, item.verdict),
      make("text", { x, y, class: "label", "font-size": size }, index + 1)));
  });
  const description = kept.map((item, index) => `${index + 1} ${item.name} ${item.score.toFixed(2)} ${item.verdict}`).join(", ");
  const picture = make("svg", { viewBox: `0 0 ${image.width} ${image.height}`, role: "img", "aria-label": `${row ? nameOf(row) : ""}: ${description || "no detections"}` },
    make("image", { href: image.src, width: image.width, height: image.height }), ...shapes);
  const list = make("ol", {}, ...kept.map((item) => make("li", { class: item.verdict }, `${item.name} ${item.score.toFixed(2)}`)));
  const caption = make("figcaption", {}, row ? nameOf(row) : "", found ? "" : ": no detections here");
  return make("figure", {}, caption, picture, list);
}

function drawExamples() {
  const [first, second] = [byId.get(chosen.first), byId.get(chosen.second)];
  const best = Number($("best").value);
  $("best-value").textContent = best;
  const images = first && second ? content.examples.filter((image) => image.dataset === first.dataset && image.dataset === second.dataset) : [];
  $("examples").replaceChildren(...images.map((image) => {
    const names = [...new Set(image.truth.map((item) => item.name))].join(", ");
    return make("div", { class: "example" }, make("p", { class: "small" }, `Image ${image.id}, annotated: ${names}`),
      make("div", { class: "sides" }, sideOf(image, first, best), sideOf(image, second, best)));
  }));
  if (!images.length) $("examples").append(make("p", { class: "small" }, "The images of the dataset were not available when this page was made."));
}

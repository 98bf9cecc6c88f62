// An image with what is drawn over it.

const DRAWN = 10; // triplets of an image that are drawn together

function pictureUrl(image, small) {
  if (page.folder) {
    const number = String(image.number).padStart(6, "0");
    const kind = small && image.small ? "-small" : "";
    return `${encodeURIComponent(page.folder)}/${number}${kind}.jpg`;
  }
  const text = byId(`picture-${image.number}`)?.textContent;
  return text === undefined ? null : `data:image/jpeg;base64,${text}`;
}

// The image in a frame; draw(layers) replaces what is over it.
function picture(image, small, unit) {
  if (!image.width) {
    const frame = element("div", { class: "frame" }, element("p", {}, "The image cannot be read."));
    return { frame, draw: () => {} };
  }
  const photo = element("img", { alt: image.name, decoding: "async" });
  const url = pictureUrl(image, small);
  if (url === null) {
    const later = () => (photo.src = pictureUrl(image, small));
    document.addEventListener("DOMContentLoaded", later, { once: true });
  } else photo.src = url;
  const viewBox = `0 0 ${image.width} ${image.height}`;
  const over = svg("svg", { viewBox, "aria-hidden": "true" });
  const frame = element("div", { class: "frame" }, photo, over);
  const size = (unit * Math.max(image.width, image.height)) / 1000;
  return { frame, draw: (layers) => over.replaceChildren(...shapes(layers, size)) };
}

// layers: pairs [{pair, kind}], kind being "right", "wrong", "plain", "truth" or "missed", and the
// ActPoints of one of them, a list for each gaze step in `steps` that is not null.
function shapes({ pairs, steps = [] }, size) {
  const drawn = [];
  const boxes = new Map(); // each once, though several pairs have it
  for (const { pair, kind } of pairs) {
    const annotated = kind === "truth" || kind === "missed";
    boxes.set(pair.object, annotated ? kind : "object");
    boxes.set(pair.human, annotated ? kind : "human");
  }
  for (const [box, kind] of boxes) {
    const [x, y, right, bottom] = box.edges;
    const [width, height] = [Math.max(right - x, 0), Math.max(bottom - y, 0)];
    drawn.push(svg("rect", { class: kind, x, y, width, height }));
  }
  for (const { pair, kind } of pairs) {
    const [from, at, to] = [center(pair.human), pointOf(pair), center(pair.object)];
    const points = [from, at, to].map((p) => p.join(",")).join(" ");
    drawn.push(svg("polyline", { class: kind, points }));
    drawn.push(circle(at, 1.4 * size, `point ${kind}`));
  }
  steps.forEach((points, step) => {
    for (const { x, y, weight } of points ?? []) {
      const node = circle([x, y], (0.5 + 1.1 * weight) * size, `step step${step + 1}`);
      drawn.push(node);
    }
  });
  return drawn;
}

const circle = ([cx, cy], r, name) => svg("circle", { class: name, cx, cy, r });

function center({ edges: [x1, y1, x2, y2] }) {
  return [(x1 + x2) / 2, (y1 + y2) / 2];
}

function pointOf(pair) {
  if (pair.point >= 0) {
    const { points } = pair.image;
    return [points[2 * pair.point], points[2 * pair.point + 1]];
  }
  const [a, b] = [center(pair.human), center(pair.object)];
  return [(a[0] + b[0]) / 2, (a[1] + b[1]) / 2];
}

function kindOf(triplet) {
  if (triplet.cause === undefined) return "plain"; // an annotated pair of a dataset
  return triplet.cause === CORRECT ? "right" : "wrong";
}

// What is drawn of an image when no pair is pointed at.
function together(entry, view) {
  const shown = hasTriplets ? entry.found : entry.truth;
  const pairs = shown.slice(0, DRAWN).map((pair) => ({ pair, kind: kindOf(pair) }));
  if (hasTriplets) {
    const missed = new Set(entry.missed);
    if (view.truth) {
      const rest = entry.image.truth.filter((pair) => !missed.has(pair));
      pairs.unshift(...rest.map((pair) => ({ pair, kind: "truth" })));
    }
    if (view.missed) pairs.unshift(...entry.missed.map((pair) => ({ pair, kind: "missed" })));
  }
  return { pairs };
}

// What is drawn when one pair is.
function alone(pair, kind, view) {
  const steps = actPoints(pair).map((points, step) => (view[`step${step + 1}`] ? points : null));
  return { pairs: [{ pair, kind }], steps };
}

// The page's values (ggnet/report/contents.py), unpacked, and the choice of what is shown.

const page = JSON.parse(byId("data").textContent);
const hasTriplets = page.kinds.length > 0;
const CORRECT = 0; // of page.kinds
const NO_HOI = -1;

const images = page.images.map((packed, number) => unpack(packed, number));

function unpack(packed, number) {
  const { name, width, height, small, points = [] } = packed;
  const image = { number, name, width, height, small, points, truth: [], found: [] };
  const boxes = [];
  for (let i = 0; i < packed.boxes.length; i += 5) {
    boxes.push({ edges: packed.boxes.slice(i, i + 4), label: packed.boxes[i + 4] });
  }
  const truth = packed.truth;
  for (let i = 0; i < truth.length; i += 4) {
    const [human, object] = [boxes[truth[i]], boxes[truth[i + 1]]];
    const row = image.truth.length;
    image.truth.push({ image, row, human, object, verb: truth[i + 2], isHoi: truth[i + 3] === 1 });
  }
  const found = packed.found ?? [];
  for (let i = 0; i < found.length; i += 8) {
    const [human, object] = [boxes[found[i]], boxes[found[i + 1]]];
    const [verb, score, cause] = [found[i + 2], found[i + 3], found[i + 4]];
    const [isCounted, pair, point] = [found[i + 5] === 1, found[i + 6], found[i + 7]];
    image.found.push({ image, human, object, verb, score, cause, isCounted, pair, point });
  }
  return image;
}

function nameOf(pair) {
  return `${page.verbs[pair.verb]} ${page.objects[pair.object.label]}`.replaceAll("_", " ");
}

function scoreText(units) {
  const score = units * page.scoreUnit;
  return score === 0 || score >= 0.01 ? score.toFixed(3) : score.toPrecision(2);
}

// What is shown. kind: "" (all), "errors", "missed", or an index of page.kinds as text;
// counted: only the triplets that the kinds are counted of; min in units of the score.
const everything = { verb: "", object: "", kind: "", counted: false, min: 0, order: "file" };

// The images to show, each with its triplets and missed pairs, and how many these are together.
function choose(state) {
  const named = (pair) =>
    (state.verb === "" || pair.verb === +state.verb) &&
    (state.object === "" || pair.object.label === +state.object);
  const ofKind = {
    "": () => true,
    missed: () => false,
    errors: (t) => t.cause !== CORRECT && t.cause !== NO_HOI,
  };
  const kind = ofKind[state.kind] ?? ((t) => t.cause === +state.kind);
  const misses = state.kind === "" || state.kind === "missed";
  const anyName = state.verb === "" && state.object === "";
  const chosen = { entries: [], triplets: 0, correct: 0, unscored: 0, missed: 0, pairs: 0 };
  for (const image of images) {
    const [pairs, found] = [new Set(), []];
    for (const t of image.found) {
      if (t.score < state.min) break; // best first
      if (state.counted && !t.isCounted) continue;
      pairs.add(t.pair);
      if (kind(t) && named(t)) found.push(t);
    }
    const truth = image.truth.filter(named);
    const missed = hasTriplets
      ? truth.filter((pair) => misses && pair.isHoi && !pairs.has(pair.row))
      : [];
    const shown = hasTriplets ? found.length + missed.length : truth.length;
    if (!shown && !(anyName && state.kind === "")) continue;
    chosen.entries.push({ image, found, missed, truth, matched: pairs });
    const unscored = found.filter((t) => t.cause === NO_HOI).length;
    chosen.triplets += found.length - unscored;
    chosen.unscored += unscored;
    chosen.correct += found.filter((t) => t.cause === CORRECT).length;
    chosen.missed += missed.length;
    chosen.pairs += truth.length;
  }
  const wrong = (entry) => entry.found.filter((t) => t.cause !== CORRECT).length;
  const best = (entry) => entry.found[0]?.score ?? -1;
  const by = {
    score: (a, b) => best(b) - best(a),
    wrong: (a, b) => wrong(b) - wrong(a),
    missed: (a, b) => b.missed.length - a.missed.length,
    pairs: (a, b) => b.truth.length - a.truth.length,
  }[state.order];
  if (by) chosen.entries.sort(by);
  return chosen;
}

// The ActPoints of a triplet, for each gaze step [{x, y, weight}, ...]; none if not kept or not
// yet loaded.
let gazeTexts = null;

function actPoints(triplet) {
  if (!page.gaze || !(triplet.point >= 0)) return [];
  if (gazeTexts === null) {
    if (document.readyState === "loading") return [];
    gazeTexts = JSON.parse(byId("gaze").textContent);
  }
  const { image, point } = triplet;
  const bytes = Uint8Array.from(atob(gazeTexts[image.number]), (c) => c.charCodeAt(0));
  const { steps, points } = page.gaze;
  const total = (image.points.length / 2) * steps * points;
  const xy = new Int16Array(bytes.buffer, 0, 2 * total);
  const weights = new Uint8Array(bytes.buffer, 4 * total);
  const unit = Math.max(image.width, image.height) / 8192;
  return Array.from({ length: steps }, (_, step) =>
    Array.from({ length: points }, (_, k) => {
      const at = (point * steps + step) * points + k;
      return { x: xy[2 * at] * unit, y: xy[2 * at + 1] * unit, weight: weights[at] / 255 };
    }),
  );
}

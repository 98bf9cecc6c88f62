// Puts the page together and keeps what is chosen.

const state = { ...everything, min: page.threshold };
let chosen;

const cards = gallery((index) => large.open(chosen.entries, index, state));
const large = detail(cards.focus);

function update(changes, scroll = false) {
  Object.assign(state, changes);
  for (const [name, control] of Object.entries(controls)) control.show(state[name]);
  chosen = choose(state);
  cards.show(chosen.entries);
  const { triplets, correct, unscored, missed, pairs, entries } = chosen;
  const where = `in ${grouped(entries.length)} of ${counted(images.length, "image")}`;
  const misses = state.kind === "" || state.kind === "missed";
  const parts = [];
  if (!hasTriplets) parts.push(counted(pairs, "pair"));
  else {
    if (state.kind !== "missed") parts.push(`${counted(triplets, "triplet")}`);
    if (state.kind === "") parts.push(`${grouped(correct)} correct`);
    if (unscored) parts.push(`${grouped(unscored)} of no HOI`);
    if (misses) parts.push(`${counted(missed, "missed pair")}`);
  }
  byId("count").textContent = `${parts.join(", ")} ${where}`;
  if (scroll) byId("images").scrollIntoView();
}

// -- controls -------------------------------------------------------------------------------------

const controls = {};

function choice(name, label, options) {
  const change = () => update({ [name]: select.value });
  const select = element("select", { id: `filter-${name}`, change });
  for (const [value, text] of options) select.append(element("option", { value }, text));
  controls[name] = { show: (value) => (select.value = value) };
  byId("filters").append(element("label", {}, label, select));
}

function named(names, used) {
  const options = names.map((name, index) => [String(index), name.replaceAll("_", " "), index]);
  const there = options.filter(([, , index]) => used.has(index));
  return there.sort((a, b) => a[1].localeCompare(b[1]));
}

function addFilters() {
  const [verbs, objects] = [new Set(), new Set()];
  for (const { truth, found } of images) {
    for (const pairs of [truth, found]) {
      for (const pair of pairs) {
        verbs.add(pair.verb);
        objects.add(pair.object.label);
      }
    }
  }
  choice("verb", "Verb", [["", "any"], ...named(page.verbs, verbs)]);
  choice("object", "Object", [["", "any"], ...named(page.objects, objects)]);
  const orders = [["file", "as in the file"]];
  if (hasTriplets) {
    const kinds = page.kinds.map((kind, index) => [String(index), kind.name]);
    kinds.splice(1, 0, ["errors", "all errors"], ["missed", "missed pairs"]);
    choice("kind", "Kind", [["", "any"], ...kinds]);
    orders.push(["score", "best score"], ["wrong", "most errors"], ["missed", "most misses"]);
  } else orders.push(["pairs", "most pairs"]);
  choice("order", "Order", orders);
  if (!hasTriplets) return;

  // The slider's cube is the score: most scores are small.
  const highest = images.reduce((most, { found }) => Math.max(most, found[0]?.score ?? 0), 1);
  const slider = element("input", { type: "range", id: "filter-min", min: 0, max: 1000 });
  const text = element("output", { for: "filter-min" });
  slider.addEventListener("input", () =>
    update({ min: Math.round(highest * (slider.value / 1000) ** 3) }),
  );
  controls.min = {
    show: (min) => {
      text.textContent = scoreText(min);
      if (document.activeElement !== slider) slider.value = 1000 * Math.cbrt(min / highest);
    },
  };
  byId("filters").append(element("label", {}, "Score from", element("span", {}, slider, text)));
  const box = element("input", { type: "checkbox", id: "filter-counted" });
  box.addEventListener("change", () => update({ counted: box.checked }));
  controls.counted = { show: (on) => (box.checked = on) };
  const title = "As many of each HOI as it has annotated pairs: those that are counted by cause";
  byId("filters").append(element("label", { class: "check", title }, box, "Best of each HOI"));
  for (const { name, label, key } of viewFlags().slice(0, 2)) {
    byId("filters").append(viewToggle(name, label, key));
  }
  const reset = () => update({ ...everything, min: page.threshold });
  byId("filters").append(element("button", { type: "button", id: "reset", click: reset }, "Reset"));
}

// -- the parts of the page ------------------------------------------------------------------------

function addSummary() {
  byId("facts").textContent = page.facts.join(" · ");
  for (const { name, value, note } of page.headline) {
    const figure =
      value === null
        ? "–"
        : Number.isInteger(value) && !hasTriplets
          ? grouped(value)
          : value.toFixed(1);
    byId("headline").append(
      element(
        "div",
        {},
        element("strong", {}, figure),
        element("span", {}, name),
        element("small", {}, note),
      ),
    );
  }
  if (page.means) {
    const cells = (tag, row) =>
      row.map((value, i) =>
        element(
          i ? tag : "th",
          { class: i ? "number" : null },
          typeof value === "number" ? value.toFixed(2) : (value ?? "–"),
        ),
      );
    const rows = page.means.rows.map((row) => element("tr", {}, ...cells("td", row)));
    byId("means").append(
      element(
        "table",
        {},
        element("thead", {}, element("tr", {}, ...cells("th", page.means.columns))),
        element("tbody", {}, ...rows),
      ),
    );
  }
  if (hasTriplets) addCauses();
  byId("plots").append(...page.plots.map(plot));
}

function addCauses() {
  const total = page.kinds.reduce((sum, kind) => sum + kind.count, 0);
  const most = Math.max(1, page.missed, ...page.kinds.map((kind) => kind.count));
  const rows = page.kinds.map((kind, index) => ({
    ...kind,
    changes: { kind: String(index), counted: true },
  }));
  const meaning = "annotated pairs that no triplet matches, whatever its score";
  rows.push({ name: "missed pairs", meaning, count: page.missed, changes: { kind: "missed" } });
  const list = element("ul", { class: "causes" });
  for (const { name, meaning, count, changes } of rows) {
    const bar = svg("svg", {
      viewBox: "0 0 100 8",
      preserveAspectRatio: "none",
      "aria-hidden": "true",
    });
    bar.append(svg("rect", { width: (100 * count) / most, height: 8 }));
    const show = () => update({ ...everything, ...changes }, true);
    const parts = [
      element("span", {}, name),
      bar,
      element("span", { class: "number" }, grouped(count)),
    ];
    const button = element("button", { type: "button", title: meaning, click: show }, ...parts);
    button.dataset.kind = name;
    list.append(element("li", { class: name === "correct" ? "right" : "" }, button));
  }
  byId("causes").append(
    element("h2", {}, `The ${grouped(total)} best-scored triplets by cause`),
    list,
  );
}

function addHelp() {
  const keys = [
    ["/", "search the HOIs"],
    ["arrows", "from image to image"],
    ["Enter", "open the image"],
    ["← →", "previous, next image"],
    ["↑ ↓", "its triplets, one by one"],
    ["g", "ground truth on, off"],
    ["m", "misses on, off"],
    ["1 2 3", "ActPoints of a gaze step on, off"],
    ["Esc", "close"],
  ];
  const rows = keys.map(([key, text]) =>
    element("tr", {}, element("td", {}, element("kbd", {}, key)), element("td", {}, text)),
  );
  const close = element("button", { type: "button", click: () => byId("help").close() }, "Close");
  byId("help").append(element("h2", {}, "Keys"), element("table", {}, ...rows), close);
  byId("help-button").addEventListener("click", () => byId("help").showModal());
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.matches("input[type=search], select")) return;
  const dialog = document.querySelector("dialog[open]");
  const flag = (dialog ?? document).querySelector(`input[data-key="${CSS.escape(event.key)}"]`);
  if (flag) flag.click();
  else if (dialog) return;
  else if (event.key === "/") byId("class-search").focus();
  else if (event.key === "?") byId("help").showModal();
  else return;
  event.preventDefault();
});

followView(() => {
  cards.redraw();
  large.redraw();
});
addFilters();
addSummary();
classTable(page.classes, (number) => {
  const [verb, object] = page.classes.names[number];
  const text = (value) => (value === null ? "" : String(value));
  update({ ...everything, min: state.min, verb: text(verb), object: text(object) }, true);
});
addHelp();
update({});

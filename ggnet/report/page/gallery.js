// The images as cards. All have their place; only those near the window are filled.

const LINES = 3; // triplets named on a card

function gallery(open) {
  const place = byId("gallery");
  let [entries, cards] = [[], []];
  const filled = new Map(); // card -> its redraw

  const watcher = new IntersectionObserver(
    (changes) => {
      for (const { target, isIntersecting } of changes) {
        if (isIntersecting && !filled.has(target)) fillCard(target);
        else if (!isIntersecting && filled.has(target)) emptyCard(target);
      }
    },
    { rootMargin: "800px 0px" },
  );

  function show(chosen) {
    watcher.disconnect();
    filled.clear();
    entries = chosen;
    cards = entries.map((entry, index) => {
      const card = element("button", { type: "button", class: "card", tabindex: index ? -1 : 0 });
      card.setAttribute("aria-label", entry.image.name);
      card.dataset.index = index;
      return card;
    });
    place.replaceChildren();
    for (const card of cards) {
      place.append(element("div", { role: "listitem" }, card));
      watcher.observe(card);
    }
  }

  function fillCard(card) {
    const entry = entries[card.dataset.index];
    const { frame, draw } = picture(entry.image, true, 9);
    const redraw = () => draw(together(entry, view));
    const named = hasTriplets
      ? [
          ...entry.found.map((pair) => [pair, kindOf(pair)]),
          ...entry.missed.map((pair) => [pair, "missed"]),
        ]
      : entry.truth.map((pair) => [pair, "plain"]);
    const lines = named.slice(0, LINES).map(([pair, kind]) => {
      const line = pairLine(pair, kind);
      line.addEventListener("mouseenter", () => draw(alone(pair, kind, view)));
      line.addEventListener("mouseleave", redraw);
      return line;
    });
    const more = named.length > LINES ? `${named.length - LINES} more` : "";
    const foot = element("span", { class: "foot" }, element("span", {}, entry.image.name), more);
    card.replaceChildren(frame, ...lines, foot);
    filled.set(card, redraw);
    redraw();
  }

  function emptyCard(card) {
    filled.delete(card);
    card.replaceChildren();
  }

  function focus(index) {
    if (!cards[index]) return;
    cards.forEach((card, i) => (card.tabIndex = i === index ? 0 : -1));
    cards[index].focus();
  }

  place.addEventListener("click", (event) => {
    const card = event.target.closest(".card");
    if (card) open(+card.dataset.index);
  });
  place.addEventListener("keydown", (event) => {
    const card = event.target.closest(".card");
    if (!card) return;
    const index = +card.dataset.index;
    const columns = getComputedStyle(place).gridTemplateColumns.split(" ").length;
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns };
    const to = { Home: 0, End: cards.length - 1 }[event.key] ?? index + steps[event.key];
    if (Number.isNaN(to)) return;
    event.preventDefault();
    focus(Math.min(Math.max(to, 0), cards.length - 1));
  });
  return { show, focus, redraw: () => filled.forEach((draw) => draw()) };
}

// A pair's mark, name and score in a line.
const MARKS = { right: "✓", wrong: "✗", missed: "○", truth: "✓", plain: "–" };

function pairLine(pair, kind, ...rest) {
  const score = pair.score === undefined ? "" : scoreText(pair.score);
  return element(
    "span",
    { class: `pair ${kind}` },
    element("span", { class: "sign", "aria-hidden": "true" }, MARKS[kind]),
    element("span", { class: "name" }, nameOf(pair)),
    ...rest,
    element("span", { class: "score" }, score),
  );
}

// One image, large, with every triplet and annotated pair to point at.

function detail(closed) {
  const dialog = byId("detail");
  let [entries, index, state] = [[], 0, everything];
  let [scene, draw, active] = [null, () => {}, null];

  function open(chosen, at, current) {
    [entries, index, state] = [chosen, at, current];
    if (!dialog.open) dialog.showModal();
    show();
  }

  function show() {
    const entry = entries[index];
    const { image } = entry;
    const large = picture(image, false, 6);
    draw = large.draw;
    active = null;
    const chosen = new Set(entry.found);
    const others = image.found.filter((t) => t.score >= state.min && !chosen.has(t));
    const missed = new Set(image.truth.filter((p) => p.isHoi && !entry.matched.has(p.row)));
    scene = { ...entry, missed: [...missed] };
    const list = element("div", { class: "list" });
    section(
      list,
      "Found",
      entry.found.map((t) => [t, kindOf(t)]),
    );
    section(
      list,
      entry.found.length ? "Other triplets" : "Triplets",
      others.map((t) => [t, kindOf(t)]),
    );
    section(
      list,
      "Annotated",
      image.truth.map((p) => [p, !hasTriplets ? "plain" : missed.has(p) ? "missed" : "truth"]),
    );
    if (!list.children.length) list.append(element("p", {}, "No triplet and no annotated pair."));
    const position = `${grouped(index + 1)} of ${grouped(entries.length)}`;
    const step = (by, text, label) =>
      element("button", { type: "button", "aria-label": label, click: () => move(by) }, text);
    const close = () => dialog.close();
    dialog.replaceChildren(
      element(
        "div",
        { class: "top" },
        step(-1, "‹", "Previous image"),
        element("span", { role: "status" }, position),
        step(1, "›", "Next image"),
        element("strong", {}, image.name),
        element(
          "button",
          { type: "button", class: "close", "aria-label": "Close", click: close },
          "×",
        ),
      ),
      element(
        "div",
        { class: "body" },
        element("div", { class: "stage" }, large.frame, toggles()),
        list,
      ),
    );
    dialog.focus();
    redraw();
  }

  function section(list, title, pairs) {
    if (!pairs.length) return;
    list.append(element("h3", {}, `${title} (${pairs.length})`));
    for (const [pair, kind] of pairs) {
      const cause = page.kinds[pair.cause]?.name ?? "no HOI";
      const note = { wrong: cause, missed: "missed", truth: "found" }[kind] ?? "";
      const line = pairLine(pair, kind, element("span", { class: "note" }, note));
      const point = () => {
        active = [pair, kind];
        redraw();
      };
      const leave = () => {
        if (document.activeElement !== button) active = null;
        redraw();
      };
      const button = element(
        "button",
        { type: "button", mouseenter: point, focus: point, mouseleave: leave },
        line,
      );
      list.append(button);
    }
  }

  function toggles() {
    const bar = element("div", { class: "toggles" });
    for (const { name, label, key } of viewFlags()) bar.append(viewToggle(name, label, key));
    return bar;
  }

  function redraw() {
    dialog.classList.toggle("pointing", active !== null);
    if (dialog.open) draw(active === null ? together(scene, view) : alone(...active, view));
  }

  function move(by) {
    const to = index + by;
    if (to < 0 || to >= entries.length) return;
    index = to;
    show();
  }

  dialog.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const buttons = [...dialog.querySelectorAll(".list button")];
    const at = buttons.indexOf(document.activeElement);
    if (event.key === "ArrowRight") move(1);
    else if (event.key === "ArrowLeft") move(-1);
    else if (event.key === "ArrowDown") buttons[Math.min(at + 1, buttons.length - 1)]?.focus();
    else if (event.key === "ArrowUp") buttons[Math.max(at - 1, 0)]?.focus();
    else return;
    event.preventDefault();
  });
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close(); // beside the picture
  });
  dialog.addEventListener("close", () => closed(index));
  return { open, redraw };
}

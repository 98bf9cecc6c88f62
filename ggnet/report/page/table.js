// The table of HOIs: sorted by any column, searched, and each row's precision over recall.

function classTable({ columns, rows, curves }, choosePair) {
  const body = element("tbody");
  const heads = columns.map((column, index) =>
    element(
      "th",
      { scope: "col", class: column.number ? "number" : null },
      element("button", { type: "button", click: () => sortBy(index) }, column.name),
    ),
  );
  const items = rows.map((row, number) => {
    const cells = row.map((value, index) => {
      const text =
        value === null
          ? "–"
          : columns[index].number
            ? formatted(value, columns[index].digits)
            : value;
      if (index > 0) return element("td", { class: columns[index].number ? "number" : null }, text);
      const button = element("button", { type: "button", click: () => choosePair(number) }, text);
      return element("th", { scope: "row" }, button);
    });
    const line = element("tr", {}, ...cells);
    const show = () => showCurve(number);
    line.addEventListener("mouseenter", show);
    line.addEventListener("focusin", show);
    return { row, number, line };
  });
  let [sorted, falling] = [-1, true];

  function sortBy(index) {
    falling = index === sorted ? !falling : columns[index].number;
    sorted = index;
    const sign = falling ? -1 : 1;
    items.sort(({ row: a }, { row: b }) => {
      if (a[index] === null || b[index] === null) return (a[index] === null) - (b[index] === null);
      if (columns[index].number) return sign * (a[index] - b[index]);
      return sign * a[index].localeCompare(b[index]);
    });
    heads.forEach((head, i) => {
      if (i === index) head.setAttribute("aria-sort", falling ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
    body.replaceChildren(...items.map(({ line }) => line));
  }

  function showCurve(number) {
    const [recall, precision] = curves[number] ?? [];
    if (!recall) return;
    items.forEach((item) => item.line.classList.toggle("current", item.number === number));
    const description = {
      title: `Precision over recall of ${rows[number][0]}`,
      x: { name: "recall", from: 0, to: 1 },
      y: { name: "", from: 0, to: 1 },
      lines: [{ name: "precision", x: recall, y: precision }],
    };
    byId("class-curve").replaceChildren(plot(description));
  }

  function search() {
    const words = byId("class-search").value.toLowerCase().split(/\s+/);
    let shown = 0;
    for (const { row, line } of items) {
      const text = row
        .filter((value) => typeof value === "string")
        .join(" ")
        .toLowerCase();
      line.hidden = !words.every((word) => text.includes(word));
      shown += !line.hidden;
    }
    byId("class-count").textContent = `${grouped(shown)} of ${grouped(items.length)}`;
  }

  body.append(...items.map(({ line }) => line));
  byId("class-table").append(
    element("table", {}, element("thead", {}, element("tr", {}, ...heads)), body),
  );
  byId("class-search").addEventListener("input", search);
  search();
  if (items.length) showCurve(items[0].number);
}

function formatted(value, digits) {
  return digits ? value.toFixed(digits) : grouped(value);
}

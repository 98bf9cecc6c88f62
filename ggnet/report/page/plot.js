// One small plot as SVG: lines or points over linear or logarithmic axes.

const PLOT = { width: 330, height: 215, left: 40, right: 10, top: 8, bottom: 36 };
const PALETTE = 9; // colors in style.css; another one is for the line that matters most

function plot(description) {
  const lines = description.lines;
  const x = axis(
    description.x,
    lines.flatMap((line) => line.x),
    PLOT.left,
    PLOT.width - PLOT.right,
  );
  const y = axis(
    description.y,
    lines.flatMap((line) => line.y),
    PLOT.height - PLOT.bottom,
    PLOT.top,
  );
  const drawing = svg("svg", {
    viewBox: `0 0 ${PLOT.width} ${PLOT.height}`,
    role: "img",
    "aria-label": description.title,
  });
  for (const tick of y.ticks) {
    const at = y.place(tick);
    drawing.append(
      svg("line", { class: "grid", x1: PLOT.left, x2: PLOT.width - PLOT.right, y1: at, y2: at }),
      svg("text", { x: PLOT.left - 6, y: at + 3.5, "text-anchor": "end" }, tickText(tick)),
    );
  }
  for (const tick of x.ticks) {
    const at = PLOT.height - PLOT.bottom + 14;
    drawing.append(
      svg("text", { x: x.place(tick), y: at, "text-anchor": "middle" }, tickText(tick)),
    );
  }
  const middle = (PLOT.left + PLOT.width - PLOT.right) / 2;
  drawing.append(
    svg("text", { x: middle, y: PLOT.height - 5, "text-anchor": "middle" }, description.x.name),
  );
  if (description.mark !== undefined) {
    const at = x.place(description.mark);
    const [y1, y2] = [PLOT.top, PLOT.height - PLOT.bottom];
    drawing.append(svg("line", { class: "mark", x1: at, x2: at, y1, y2 }));
  }
  lines.forEach((line, number) => {
    const places = line.x.map((value, i) =>
      value === null || line.y[i] === null || !x.has(value) || !y.has(line.y[i])
        ? null
        : [x.place(value), y.place(line.y[i])],
    );
    const color = colorOf(line, number);
    if (!line.scatter) drawing.append(svg("path", { class: `line ${color}`, d: path(places) }));
    if (line.scatter || line.dots) {
      places.forEach((at, i) => {
        if (at === null) return;
        const text = `${line.labels?.[i] ?? line.name}: ${line.y[i]}`;
        const dot = { class: `dot ${color}`, cx: at[0], cy: at[1], r: line.scatter ? 3 : 2 };
        drawing.append(svg("circle", dot, svg("title", {}, text)));
      });
    }
  });
  const legend = element("ul", { class: "legend" });
  if (lines.length > 1) {
    lines.forEach((line, number) =>
      legend.append(element("li", { class: colorOf(line, number) }, line.name)),
    );
  }
  const title = description.title + (description.y.name ? ` (${description.y.name})` : "");
  const caption = element("figcaption", { title }, title);
  return element("figure", { class: "plot" }, caption, legend, drawing);
}

const colorOf = (line, number) => (line.main ? "c9" : `c${number % PALETTE}`);

function path(places) {
  let [text, pen] = ["", "M"];
  for (const at of places) {
    if (at === null) continue;
    text += `${pen}${at[0].toFixed(1)} ${at[1].toFixed(1)}`;
    pen = "L";
  }
  return text;
}

function axis({ log = false, from, to }, values, start, end) {
  const known = values.filter((value) => value !== null && (!log || value > 0));
  let low = from ?? Math.min(...known);
  let high = to ?? Math.max(...known);
  if (!known.length) [low, high] = [from ?? 0.1, to ?? 1];
  if (!log && from === undefined && low > 0 && low < high / 3) low = 0;
  if (low === high) [low, high] = log ? [low / 2, high * 2] : [low - 0.5, high + 0.5];
  const scale = log ? Math.log : (value) => value;
  const place = (value) =>
    start + ((scale(value) - scale(low)) / (scale(high) - scale(low))) * (end - start);
  const slack = log ? 1.0001 : (high - low) * 1e-9;
  const has = (value) =>
    log
      ? value > low / slack && value < high * slack
      : value >= low - slack && value <= high + slack;
  return { place, has, ticks: log ? logTicks(low, high) : linearTicks(low, high) };
}

function linearTicks(low, high) {
  const rough = (high - low) / 5;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough);
  const ticks = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high * (1 + 1e-9); i++) {
    ticks.push(+(i * step).toPrecision(12));
  }
  return ticks;
}

function logTicks(low, high) {
  const ticks = [];
  const wide = Math.log10(high / low) > 2;
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++) {
    for (const m of wide ? [1] : [1, 2, 5]) {
      const tick = +(m * 10 ** power).toPrecision(6);
      if (tick >= low * 0.9999 && tick <= high * 1.0001) ticks.push(tick);
    }
  }
  return ticks;
}

function tickText(value) {
  return Math.abs(value) >= 1e5 || (value !== 0 && Math.abs(value) < 1e-3)
    ? value.toExponential(0)
    : String(value);
}

// What is drawn over the images, switched on and off in the filters and beside a large image.

const view = { truth: false, missed: true, step1: true, step2: true, step3: true };

function viewFlags() {
  const flags = [];
  if (hasTriplets) {
    flags.push({ name: "truth", label: "Ground truth", key: "g" });
    flags.push({ name: "missed", label: "Misses", key: "m" });
  }
  for (let step = 1; step <= (page.gaze?.steps ?? 0); step++) {
    flags.push({ name: `step${step}`, label: `Gaze ${step}`, key: String(step) });
  }
  return flags;
}

function viewToggle(name, label, key) {
  const box = element("input", { type: "checkbox", "data-view": name, "data-key": key });
  box.checked = view[name];
  return element("label", { class: `check swatch ${name}` }, box, label, element("kbd", {}, key));
}

// All switches of a thing show the same; `changed` is called when one was used.
function followView(changed) {
  document.addEventListener("change", ({ target }) => {
    const name = target.dataset?.view;
    if (name === undefined) return;
    view[name] = target.checked;
    for (const box of document.querySelectorAll(`input[data-view="${name}"]`)) {
      box.checked = view[name];
    }
    changed();
  });
}

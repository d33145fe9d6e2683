// The head of the page, global keys, and the theme.

function head() {
  const names = LAYERS.map(({ name }) => name);
  const title = names.length > 1 ? `${names.slice(1).join(" + ")} on ${names[0]}` : names[0];
  document.title = `${title} – overcoat`;
  document.getElementById("title").replaceChildren(element("bdi", {}, title));
  const sums = LAYERS.map(() => ({ bytes: 0, files: 0 }));
  for (let row = 0; row < COUNT; row++) {
    if (CHANGE[row] === "D" || isDirectory(row)) continue;
    sums[LAYER[row]].bytes += BYTES[row];
    sums[LAYER[row]].files += KIND[row] === "+" ? +NAME[row] : 1;
  }
  document.getElementById("layers").replaceChildren(...LAYERS.map((layer, at) =>
    element("li", { class: `edge-${layerColour(at)}` },
      element("strong", {}, element("bdi", {}, layer.name)), element("span", { class: "soft" }, at === 0 ? "base" : "overlay"),
      element("span", { class: "file" }, layer.size === null ? "a directory" : `${size(layer.size)} on disk`),
      element("span", { class: "soft" }, `adds ${size(sums[at].bytes)} in ${amount(sums[at].files)} files`),
      layer.sha256 === null ? null : element("code", { class: "digest", tabindex: 0, title: layer.sha256, "aria-label": `SHA-256 ${layer.sha256}` }, layer.sha256))).reverse());
  const total = sums.reduce((sum, { bytes }) => sum + bytes, 0);
  const added = total - sums[0].bytes;
  let hidden = 0;
  const kinds = { A: 0, M: 0, D: 0 };
  for (const row of DATA.changes.node) {
    kinds[CHANGE[row]]++;
    if (CHANGE[row] !== "A") hidden += bytesBefore(row);
  }
  const totals = [["The whole root", size(total), "total-root"]];
  if (LAYERS.length > 1) {
    totals.push(["Added by overlays", size(added), "total-overlays"], ["Hidden by overlays", size(hidden), "total-hidden"],
      ["Added", amount(kinds.A), "total-added"], ["Changed", amount(kinds.M), "total-changed"], ["Deleted", amount(kinds.D), "total-deleted"]);
  }
  if (DATA.check !== null) {
    totals.push(["Errors", amount(Findings.sum("error")), "total-errors"], ["Warnings", amount(Findings.sum("warning")), "total-warnings"]);
  }
  document.getElementById("totals").replaceChildren(...totals.map(([name, value, id]) =>
    element("div", {}, element("dt", {}, name), element("dd", { id }, value))));
  document.getElementById("changes").hidden = LAYERS.length < 2;
}

// The choice is stored if the browser has local storage for such pages.
function theme(value) {
  document.documentElement.dataset.theme = value;
  document.getElementById("theme").value = value;
  try { localStorage.setItem("overcoat-theme", value); } catch { /* not stored */ }
}

function keys() {
  const help = document.getElementById("help");
  const open = () => { if (!help.open) help.showModal(); };
  document.getElementById("help-button").addEventListener("click", open);
  document.getElementById("theme").addEventListener("change", (event) => theme(event.target.value));
  let kept = null;
  try { kept = localStorage.getItem("overcoat-theme"); } catch { /* none */ }
  theme(["light", "dark"].includes(kept) ? kept : "auto");
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey || help.open) return;
    if (event.key === "Escape" && Details.isOpen()) return Details.hide();
    if (event.target.closest("input, select, textarea")) return;
    const dark = () => getComputedStyle(document.documentElement).colorScheme === "dark"
      || document.documentElement.dataset.theme === "auto" && matchMedia("(prefers-color-scheme: dark)").matches;
    const actions = {
      "/": () => Table.search(), "?": open, m: () => Treemap.focus(), c: () => Table.focus(), d: () => Details.focus(),
      f: () => document.getElementById("findings").focus(), t: () => theme(dark() ? "light" : "dark"),
    };
    if (!actions[event.key]) return;
    event.preventDefault();
    actions[event.key]();
  });
}

keys();
head();
Details.start();
Findings.start();
Treemap.start();
Table.start();
// For measurements: milliseconds from the start of the navigation until the page is complete.
requestAnimationFrame(() => setTimeout(() => { document.documentElement.dataset.ready = performance.now().toFixed(0); }));

// The table of changes. Only visible rows are elements, so that 50,000 changes are as fast as 50.

const Table = (() => {
  const HEIGHT = 30;        // Pixels per row, as in the style sheet.
  const BEYOND = 12;        // Extra rows above and below the visible ones.
  const PRINTED = 3000;
  const table = document.getElementById("table"), body = document.getElementById("rows");
  const heads = document.getElementById("heads"), search = document.getElementById("search");
  const layer = document.getElementById("layer"), least = document.getElementById("least");
  const count = document.getElementById("count"), more = document.getElementById("print-more");
  const collator = new Intl.Collator("en");

  const all = DATA.changes.node.slice();
  const after = (row) => bytesAfter(row), before = (row) => bytesBefore(row);
  const COLUMNS = [
    { key: "change", name: "", label: "Change", text: (row) => CHANGE[row], value: (row) => "AMD".indexOf(CHANGE[row]) },
    { key: "path", name: "Path", value: (row) => path(row) },
    { key: "size", name: "Size", number: true, down: true, text: (row) => isDirectory(row) ? "" : CHANGE[row] === "D" ? "–" : size(after(row)), value: after },
    { key: "difference", name: "Difference", number: true, down: true, text: (row) => after(row) === before(row) ? "" : signed(after(row) - before(row)), value: (row) => after(row) - before(row) },
    { key: "what", name: "What", text: what, value: what },
    { key: "package", name: "Package", text: packageName, value: (row) => packageName(row) || "\uffff" },
    { key: "layer", name: "Layer", text: (row) => LAYERS[LAYER[row]].name, value: (row) => LAYER[row] },
  ].filter(({ key }) => key !== "layer" || LAYERS.length > 2);

  let shown = [], sortBy = 1, descending = false, active = 0;
  const kinds = { A: true, M: true, D: true };

  function what(row) {
    if (CHANGE[row] === "M") return aspects(row).join(", ");
    return TYPES[KIND[row]];
  }

  function matches() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const from = +least.value;
    return all.filter((row) => kinds[CHANGE[row]]
      && (layer.value === "" || LAYER[row] === +layer.value)
      && (from === 0 || Math.max(after(row), before(row)) >= from)
      && words.every((word) => lower(row).includes(word)));
  }

  const lowered = new Map();
  function lower(row) {
    let text = lowered.get(row);
    if (text === undefined) lowered.set(row, text = `${path(row)} ${packageName(row)}`.toLowerCase());
    return text;
  }

  function sort(rows) {
    const { value, key } = COLUMNS[sortBy];
    // Without sorting, rows are in path order.
    if (key !== "path") {
      const keyed = rows.map((row) => [value(row), row]);
      const order = typeof (keyed[0] || [0])[0] === "number" ? (a, b) => a - b : collator.compare;
      keyed.sort(([a, one], [b, two]) => (descending ? order(b, a) : order(a, b)) || one - two);
      return keyed.map(([, row]) => row);
    }
    return descending ? rows.reverse() : rows;
  }

  function update(keep) {
    const was = shown[active];
    shown = sort(matches());
    active = keep ? Math.max(0, shown.indexOf(was)) : 0;
    table.setAttribute("aria-rowcount", shown.length + 1);
    body.style.height = `${shown.length * HEIGHT}px`;
    const grown = shown.reduce((sum, row) => sum + after(row) - before(row), 0);
    count.textContent = `${amount(shown.length)} of ${amount(all.length)}, ${signed(grown)}`;
    if (!keep) table.scrollTop = 0;
    head();
    draw();
  }

  function head() {
    heads.replaceChildren(...COLUMNS.map(({ name, label, key, number }, at) => {
      const arrow = at === sortBy ? (descending ? " ↓" : " ↑") : "";
      return element("div", { role: "columnheader", class: `at-${key}${number ? " number" : ""}`, "aria-sort": at === sortBy ? (descending ? "descending" : "ascending") : "none" },
        element("button", { type: "button", class: "quiet", tabindex: -1, "aria-label": `sort by ${label || name}`, onclick: () => sortTo(at) }, name || "±", element("span", { "aria-hidden": true }, arrow)));
    }));
  }

  function sortTo(at, other) {
    if (at === sortBy) descending = !descending;
    else { sortBy = at; descending = Boolean(COLUMNS[at].down) !== Boolean(other); }
    update(true);
    scrollTo(active);
  }

  function line(at) {
    const row = shown[at], change = CHANGE[row];
    const cells = COLUMNS.map(({ key, number, text }) => {
      const cell = element("div", { role: "gridcell", class: `at-${key}${number ? " number" : ""}` });
      if (key === "change") cell.append(mark(change), element("span", { class: "hidden" }, CHANGES[change]));
      else if (key === "path") {
        const whole = path(row), cut = whole.lastIndexOf("/") + 1;
        cell.title = whole;
        cell.append(element("bdi", {}, element("span", { class: "soft" }, whole.slice(0, cut)), whole.slice(cut), isDirectory(row) ? "/" : ""));
      } else if (key === "layer") cell.append(swatch(LAYER[row]), text(row));
      else cell.textContent = text(row);
      return cell;
    });
    const made = element("div", { role: "row", id: `row-${row}`, class: `row${at === active ? " active" : ""}${change === "D" ? " gone-row" : ""}`, "aria-rowindex": at + 2, "aria-selected": at === active }, ...cells);
    made.style.top = `${at * HEIGHT}px`;
    made.dataset.at = at;
    return made;
  }

  function draw() {
    const first = Math.max(0, Math.floor(table.scrollTop / HEIGHT) - BEYOND);
    const last = Math.min(shown.length, Math.ceil((table.scrollTop + table.clientHeight) / HEIGHT) + BEYOND);
    const lines = [];
    for (let at = first; at < last; at++) lines.push(line(at));
    if (shown.length === 0) {
      lines.push(element("p", { class: "empty" }, all.length === 0 ? "No differences from the base." : "No matches."));
      table.removeAttribute("aria-activedescendant");
    } else table.setAttribute("aria-activedescendant", `row-${shown[active]}`);
    body.replaceChildren(...lines);
  }

  function scrollTo(at) {
    const inside = table.clientHeight - heads.offsetHeight;
    if (at * HEIGHT < table.scrollTop) table.scrollTop = at * HEIGHT;
    else if ((at + 1) * HEIGHT > table.scrollTop + inside) table.scrollTop = (at + 1) * HEIGHT - inside;
    draw();
  }

  function moveTo(at) {
    if (shown.length === 0) return;
    active = Math.min(shown.length - 1, Math.max(0, at));
    scrollTo(active);
  }

  table.addEventListener("scroll", () => requestAnimationFrame(draw), { passive: true });
  table.addEventListener("click", (event) => {
    const row = event.target.closest("[data-at]");
    if (!row) return;
    moveTo(+row.dataset.at);
    Details.show(shown[active]);
  });
  table.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey || event.target !== table) return;
    const page = Math.max(1, Math.floor(table.clientHeight / HEIGHT) - 2);
    const keys = {
      ArrowDown: () => moveTo(active + 1), ArrowUp: () => moveTo(active - 1),
      PageDown: () => moveTo(active + page), PageUp: () => moveTo(active - page),
      Home: () => moveTo(0), End: () => moveTo(shown.length - 1),
      Enter: () => shown.length && Details.show(shown[active]), " ": () => shown.length && Details.show(shown[active]),
      s: () => sortTo((sortBy + 1) % COLUMNS.length), S: () => sortTo(sortBy),
    };
    if (!keys[event.key]) return;
    event.preventDefault();
    event.stopPropagation();
    keys[event.key]();
  });
  let waiting = 0;
  search.addEventListener("input", () => {
    cancelAnimationFrame(waiting);
    waiting = requestAnimationFrame(() => update(false));
  });
  search.addEventListener("keydown", (event) => {
    if (event.key === "ArrowDown" || event.key === "Enter") { event.preventDefault(); table.focus(); }
    if (event.key === "Escape") {
      event.stopPropagation();
      if (search.value === "") table.focus();
      else { search.value = ""; update(false); }
    }
  });
  layer.addEventListener("change", () => update(false));
  least.addEventListener("change", () => update(false));

  // A printed page cannot scroll, so it gets all rows.
  window.addEventListener("beforeprint", () => {
    const rows = shown.slice(0, PRINTED).map((_, at) => line(at));
    body.replaceChildren(...rows);
    more.textContent = shown.length > PRINTED ? `…and ${amount(shown.length - PRINTED)} more` : "";
  });
  window.addEventListener("afterprint", draw);

  return {
    start() {
      const sums = { A: 0, M: 0, D: 0 };
      all.forEach((row) => sums[CHANGE[row]]++);
      document.getElementById("kinds").replaceChildren(...Object.keys(kinds).map((kind) =>
        element("button", { type: "button", class: "chip", "aria-pressed": "true", id: `kind-${kind}`, onclick: (event) => {
          kinds[kind] = !kinds[kind];
          event.currentTarget.setAttribute("aria-pressed", kinds[kind]);
          update(false);
        } }, mark(kind), `${CHANGES[kind]} ${amount(sums[kind])}`)));
      choose(layer, [["", "any"], ...LAYERS.map(({ name }, at) => [at, name]).slice(1)]);
      layer.closest("label").hidden = LAYERS.length < 3;
      update(false);
      new ResizeObserver(draw).observe(table);
    },
    focus() { table.focus(); },
    search() { search.focus(); search.select(); },
    has: (row) => DETAIL.has(row),
    // Shows a row, and resets the filters if they exclude it.
    reveal(row) {
      if (!shown.includes(row)) {
        search.value = "";
        layer.value = "";
        least.value = "0";
        for (const kind of Object.keys(kinds)) {
          kinds[kind] = true;
          document.getElementById(`kind-${kind}`).setAttribute("aria-pressed", "true");
        }
        update(false);
      }
      moveTo(shown.indexOf(row));
      table.focus();
    },
  };
})();

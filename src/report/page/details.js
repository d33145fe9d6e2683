// The details of one path.

const Details = (() => {
  const pane = document.getElementById("details"), about = document.getElementById("about");
  const close = document.getElementById("close");
  let back = null;

  function list(entries) {
    return element("dl", {}, ...entries.filter(([, value]) => value !== null && value !== "").flatMap(([key, value]) =>
      [element("dt", {}, key), element("dd", {}, value)]));
  }

  function comparison({ is, was }) {
    const lines = [
      ["Type", ({ kind }) => TYPES[kind]], ["Size", ({ kind, size: bytes }) => kind === "d" ? "" : size(bytes)],
      ["Mode", modeText], ["Owner", ({ uid, gid }) => `${uid}:${gid}`],
    ];
    const of = (name, format) => {
      const [before, after] = [format(was), format(is)];
      return element("tr", { class: before === after ? "" : "differs" }, element("th", { scope: "row" }, name), element("td", {}, before), element("td", {}, after));
    };
    return element("table", { class: "compare" },
      element("thead", {}, element("tr", {}, element("td", {}), element("th", { scope: "col" }, "base"), element("th", { scope: "col" }, "now"))),
      element("tbody", {}, ...lines.map(([name, format]) => of(name, format))));
  }

  function contents(row) {
    const sums = { A: 0, M: 0, D: 0 };
    let bytes = 0, files = 0;
    const inside = new Set([row]);
    for (let at = row + 1; at < COUNT; at++) {
      if (!inside.has(PARENT[at])) continue;
      inside.add(at);
      bytes += bytesAfter(at);
      if (KIND[at] === "+") files += +NAME[at];
      else if (!isDirectory(at) && CHANGE[at] !== "D") files += 1;
      if (CHANGE[at] !== ".") sums[CHANGE[at]]++;
    }
    const changes = Object.entries(sums).filter(([, sum]) => sum).map(([kind, sum]) => `${amount(sum)} ${CHANGES[kind]}`).join(", ");
    return [["Contains", `${size(bytes)} in ${amount(files)} files`], ["Changes", changes || "none"]];
  }

  function difference(lines) {
    const kinds = { "+": "plus", "-": "minus", "@": "place", "\\": "place" };
    return element("pre", { class: "diff", tabindex: 0, "aria-label": "Text difference" },
      ...lines.map((line) => element("span", { class: kinds[line[0]] || "" }, line || " ")));
  }

  function show(row) {
    if (!pane.contains(document.activeElement)) back = document.activeElement;
    const detail = DETAIL.get(row), change = CHANGE[row], owner = PACKAGE[row] < 0 ? null : DATA.packages[PACKAGE[row]];
    const one = detail && !detail.was;
    const parts = [
      element("p", { class: "path" }, element("bdi", {}, path(row))),
      element("p", {}, mark(change), ` ${TYPES[KIND[row]]}, ${CHANGES[change]}${change === "M" ? `: ${aspects(row).join(", ")}` : ""}`),
      list([
        ["Size", isDirectory(row) || detail && detail.was ? null : size(BYTES[row])],
        ["Mode", one ? modeText(detail.is) : null],
        ["Owner", one ? `${detail.is.uid}:${detail.is.gid}` : null],
        ["Points to", detail && detail.target ? element("bdi", {}, detail.target) : null],
        [change === "D" ? "Deleted by" : "From", element("span", {}, swatch(LAYER[row]), LAYERS[LAYER[row]].name)],
        ["Package", owner ? `${owner[0]} ${owner[1]}` : null],
        ...(isDirectory(row) && change !== "D" ? contents(row) : []),
      ]),
    ];
    if (detail && detail.was) parts.push(comparison(detail));
    if (detail && detail.text) parts.push(difference(detail.text));
    parts.push(...Findings.at(path(row)).map((finding) => Findings.card(finding, false)));
    const jump = (text, action) => element("button", { type: "button", onclick: action }, text);
    const buttons = element("p", { class: "buttons" }, jump("In the treemap", () => Treemap.reveal(row)));
    if (detail) buttons.append(jump("In the table", () => Table.reveal(row)));
    parts.push(buttons);
    about.replaceChildren(...parts);
    pane.classList.add("open");
    close.hidden = false;
  }

  function hide() {
    pane.classList.remove("open");
    close.hidden = true;
    nothing();
    if (back && back.isConnected) back.focus();
  }

  function nothing() {
    about.replaceChildren(element("p", { class: "soft" }, "Select a cell of the treemap or a row of the table."));
  }

  close.addEventListener("click", hide);
  return { start: nothing, show, hide, focus() { pane.focus(); }, isOpen: () => pane.classList.contains("open") };
})();

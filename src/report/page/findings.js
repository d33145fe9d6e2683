// The findings of `overcoat check`, errors first.

const Findings = (() => {
  const found = document.getElementById("found");
  const HEADINGS = { error: "Errors", warning: "Warnings", note: "Notes" };
  const SHOWN = 200;
  const all = DATA.check ? DATA.check.findings : [];
  const lints = DATA.check ? DATA.check.lints : [];
  const sum = (severity) => lints.reduce((all, lint) => all + (lint.counts[severity] || 0), 0);
  const byPath = new Map();
  for (const finding of all) {
    if (finding.path === null) continue;
    const key = finding.path;
    if (!byPath.has(key)) byPath.set(key, []);
    byPath.get(key).push(finding);
  }
  let rows = null;

  function capital(text) {
    return text.charAt(0).toUpperCase() + text.slice(1);
  }

// The row of a path, if there is one.
  function rowOf(key) {
    if (rows === null) {
      rows = new Map();
      for (const row of DATA.changes.node) rows.set(path(row), row);
    }
    return rows.get(key);
  }

  function card(finding, linked) {
    const key = finding.path;
    const lint = lints[finding.lint];
    const row = key === null ? undefined : rowOf(key);
    const where = key === null ? null : linked && row !== undefined
      ? element("button", { type: "button", class: "quiet where", onclick: () => Details.show(row) }, element("bdi", {}, key))
      : element("span", { class: "where" }, element("bdi", {}, key));
    return element("article", { class: `finding ${finding.severity}` },
      element("p", {}, element("strong", {}, capital(lint.summary))),
      element("p", {}, where && linked ? where : null, where && linked ? " " : null, finding.text),
      finding.fix ? element("p", {}, element("span", { class: "soft" }, "Fix: "), finding.fix) : null,
      linked ? null : element("p", { class: "soft" }, lint.why),
      element("p", { class: "soft" }, `${finding.severity} · ${lint.name}${finding.layer ? ` · ${finding.layer}` : ""}${finding.saves ? ` · would save ${size(finding.saves)}` : ""}`));
  }

  return {
    start() {
      if (DATA.check === null) {
        document.getElementById("findings").hidden = true;
        return;
      }
      const groups = Object.entries(HEADINGS).map(([severity, heading]) => {
        const some = all.filter((finding) => finding.severity === severity);
        const count = sum(severity);
        if (count === 0) return null;
        const more = count - Math.min(some.length, SHOWN);
        const rest = more > 0 ? element("p", { class: "soft" }, `…and ${amount(more)} more`) : null;
        return element("details", { open: severity !== "note" || all.length < 20 },
          element("summary", {}, element("h3", {}, `${heading} `, element("span", { class: "soft" }, amount(some.length)))),
          ...some.slice(0, SHOWN).map((finding) => card(finding, true)), rest);
      }).filter(Boolean);
      for (const [lints, why] of DATA.check.not_run) groups.push(element("p", { class: "soft" }, `Could not run: ${lints}: ${why}`));
      found.replaceChildren(...(groups.length ? groups : [element("p", { class: "empty" }, "No findings.")]));
    },
    at: (key) => byPath.get(key) || [],
    sum,
    card,
  };
})();

// The data of the page: the rows written by overcoat, and functions over them. Parents precede
// their entries, so sums are computed backwards.

const DATA = JSON.parse(document.getElementById("data").textContent);
const { parent: PARENT, name: NAME, bytes: BYTES, layer: LAYER, package: PACKAGE, kind: KIND, change: CHANGE } =
  DATA.nodes;
const COUNT = PARENT.length;
const LAYERS = DATA.layers;

// Further data of changed rows, by row.
const DETAIL = new Map();
DATA.changes.node.forEach((node, at) => {
  DETAIL.set(node, {
    is: facts(DATA.changes.is[at]),
    was: DATA.changes.was[at] && facts(DATA.changes.was[at]),
    aspects: DATA.changes.aspects[at],
    target: DATA.changes.target[at],
    text: DATA.changes.text[at],
  });
});

function facts([kind, size, mode, uid, gid]) {
  return { kind, size, mode, uid, gid };
}

const TYPES = {
  f: "file", d: "directory", l: "symbolic link", c: "character device", b: "block device",
  p: "named pipe", s: "socket", "+": "small files",
};
const CHANGES = { A: "added", M: "changed", D: "deleted", ".": "as in the base" };

function isDirectory(row) {
  return KIND[row] === "d";
}

// The path of a row, such as "/usr/lib"; the root is "/".
const paths = new Array(COUNT);
function path(row) {
  if (row === 0) return "/";
  if (paths[row] === undefined) {
    const above = PARENT[row] === 0 ? "" : path(PARENT[row]);
    paths[row] = above + "/" + label(row);
  }
  return paths[row];
}

function label(row) {
  if (row === 0) return "/";
  return KIND[row] === "+" ? `(${amount(+NAME[row])} smaller files)` : NAME[row];
}

function packageName(row) {
  return PACKAGE[row] < 0 ? "" : DATA.packages[PACKAGE[row]][0];
}

// Bytes of a row in the merged root, and in the base.
function bytesAfter(row) {
  return CHANGE[row] === "D" ? 0 : BYTES[row];
}

function bytesBefore(row) {
  switch (CHANGE[row]) {
    case "A": return 0;
    case "M": { const was = DETAIL.get(row).was; return was && was.kind === "f" ? was.size : 0; }
    default: return BYTES[row];
  }
}

function aspects(row) {
  const bits = DETAIL.has(row) ? DETAIL.get(row).aspects : 0;
  return DATA.aspects.filter((_, bit) => bits >> bit & 1);
}

function amount(count) {
  return String(count).replace(/\B(?=(\d{3})+$)/g, "\u202f");
}

function size(bytes) {
  const sign = bytes < 0 ? "−" : "";
  bytes = Math.abs(bytes);
  if (bytes < 1e3) return `${sign}${bytes} B`;
  for (const [unit, of] of [["kB", 1e3], ["MB", 1e6], ["GB", 1e9], ["TB", 1e12]]) {
    if (bytes < of * 999.95 || unit === "TB") {
      return `${sign}${(bytes / of).toFixed(bytes < of * 99.95 ? 1 : 0)} ${unit}`;
    }
  }
}

function signed(bytes) {
  return bytes > 0 ? `+${size(bytes)}` : size(bytes);
}

function share(part, whole) {
  if (whole === 0) return "0 %";
  const percent = 100 * part / whole;
  return percent >= 10 || percent === 0 ? `${percent.toFixed(0)} %` : `${percent < 0.1 ? "<0.1" : percent.toFixed(1)} %`;
}

function modeText({ kind, mode }) {
  const letters = "rwxrwxrwx".split("").map((letter, bit) => mode >> (8 - bit) & 1 ? letter : "-");
  [[0o4000, 2, "s"], [0o2000, 5, "s"], [0o1000, 8, "t"]].forEach(([bit, at, letter]) => {
    if (mode & bit) letters[at] = letters[at] === "x" ? letter : letter.toUpperCase();
  });
  return (kind === "f" ? "-" : kind) + letters.join("");
}

// Creates an element with text children: data from an image is never parsed as markup.
function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "class") made.className = value;
    else if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

function mark(change) {
  return element("span", { class: `mark change-${{ A: "added", M: "changed", D: "deleted", ".": "same" }[change]}`, title: CHANGES[change], "aria-hidden": true }, change);
}

function swatch(layer) {
  return element("span", { class: `swatch layer-${layerColour(layer)}`, "aria-hidden": true });
}

// The base has colour 0, overlays have one of seven others.
function layerColour(layer) {
  return layer === 0 ? 0 : (layer - 1) % 7 + 1;
}

function choose(select, options) {
  select.replaceChildren(...options.map(([value, text]) => element("option", { value }, text)));
}

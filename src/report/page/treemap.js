// The treemap: a squarified view of sizes (Bruls, Huizing, van Wijk 2000). It shows one of two
// trees, by path or by package, with the sizes of a scope.

const Treemap = (() => {
  const LEAST = 3;          // Minimum side of a cell, in pixels.
  const HEAD = 18;          // Height of the line with a directory's name, in pixels.
  const MOST_CELLS = 2500;
  const map = document.getElementById("map");
  const crumbs = document.getElementById("crumbs");
  const note = document.getElementById("map-note");
  let tree, place = 0, cells = [], current = 0, size_ = [0, 0];

  // Bytes of each row itself, by scope.
  const SCOPES = {
    root: ["the whole root", (row) => bytesAfter(row)],
    overlays: ["files from overlays", (row) => LAYER[row] > 0 ? bytesAfter(row) : 0],
    hidden: ["files hidden in the base", (row) => CHANGE[row] === "D" || CHANGE[row] === "M" ? bytesBefore(row) : 0],
  };
  LAYERS.forEach((layer, at) => {
    SCOPES[`layer-${at}`] = [`only ${layer.name}`, (row) => LAYER[row] === at ? bytesAfter(row) : 0];
  });

  function byPath(own) {
    const weight = Float64Array.from({ length: COUNT }, (_, row) => own(row));
    for (let row = COUNT - 1; row > 0; row--) weight[PARENT[row]] += weight[row];
    return {
      root: 0, weight, children: PATH_CHILDREN,
      parent: (row) => PARENT[row], label, title: path, row: (row) => row,
      isBranch: (row) => isDirectory(row) || PATH_CHILDREN.has(row),
    };
  }

  // Package nodes are numbered after all rows; the last one is for files of no package.
  function byPackage(own) {
    const none = COUNT + DATA.packages.length, root = none + 1;
    const weight = new Float64Array(root + 1);
    const children = new Map([[root, []]]);
    for (let row = 0; row < COUNT; row++) {
      const bytes = own(row);
      if (bytes === 0) continue;
      const owner = PACKAGE[row] < 0 ? none : COUNT + PACKAGE[row];
      if (!children.has(owner)) {
        children.set(owner, []);
        children.get(root).push(owner);
      }
      children.get(owner).push(row);
      weight[row] = bytes;
      weight[owner] += bytes;
      weight[root] += bytes;
    }
    const name = (node) => {
      if (node === root) return "all packages";
      if (node === none) return "no package";
      return node >= COUNT ? DATA.packages[node - COUNT][0] : label(node);
    };
    return {
      root, weight, children, isBranch: (node) => node >= COUNT, label: name,
      parent: (node) => node >= COUNT ? root : PACKAGE[node] < 0 ? none : COUNT + PACKAGE[node],
      title: (node) => node < COUNT ? path(node)
        : node < none ? `${name(node)} ${DATA.packages[node - COUNT][1]}` : name(node),
      row: (node) => node < COUNT ? node : null,
    };
  }

  const PATH_CHILDREN = new Map();
  for (let row = 1; row < COUNT; row++) {
    const siblings = PATH_CHILDREN.get(PARENT[row]);
    if (siblings) siblings.push(row);
    else PATH_CHILDREN.set(PARENT[row], [row]);
  }

  function sorted(node) {
    const weight = tree.weight;
    return (tree.children.get(node) || []).filter((child) => weight[child] > 0)
      .sort((a, b) => weight[b] - weight[a] || a - b);
  }

  // Arranges nodes in a rectangle in nearly square cells. Nodes that would be too small are left
  // out, and the remaining area is passed on as one cell.
  function squarify(nodes, x, y, width, height, put) {
    let left = nodes.reduce((sum, node) => sum + tree.weight[node], 0);
    let at = 0;
    while (at < nodes.length && width >= LEAST && height >= LEAST) {
      const scale = width * height / left, side = Math.min(width, height);
      let sum = 0, worst = Infinity, end = at;
      while (end < nodes.length) {
        const next = sum + tree.weight[nodes[end]] * scale;
        const largest = tree.weight[nodes[at]] * scale, smallest = tree.weight[nodes[end]] * scale;
        const ratio = Math.max(side * side * largest / (next * next), next * next / (side * side * smallest));
        if (ratio > worst) break;
        [sum, worst, end] = [next, ratio, end + 1];
      }
      const depth = sum / side;
      if (depth < LEAST && at > 0) break;
      let along = 0;
      for (; at < end; at++) {
        const length = tree.weight[nodes[at]] * scale / depth;
        if (width >= height) put(nodes[at], x, y + along, depth, length);
        else put(nodes[at], x + along, y, length, depth);
        along += length;
        left -= tree.weight[nodes[at]];
      }
      if (width >= height) { x += depth; width -= depth; } else { y += depth; height -= depth; }
    }
    if (at < nodes.length && width >= 6 && height >= 6) put(null, x, y, width, height, nodes.length - at);
  }

  function colour(node) {
    const row = tree.row(node);
    if (row === null) return "";
    if (byColour.value === "layer") return `layer-${layerColour(LAYER[row])}`;
    return `change-${{ A: "added", M: "changed", D: "deleted", ".": "same" }[CHANGE[row]]}`;
  }

  function draw() {
    const focused = map.contains(document.activeElement);
    const width = map.clientWidth, height = map.clientHeight;
    size_ = [width, height];
    cells = [];
    const made = document.createDocumentFragment();
    const put = (depth) => (node, x, y, w, h, more) => {
      if (cells.length >= MOST_CELLS || w < LEAST || h < LEAST) return;
      const branch = node !== null && tree.isBranch(node);
      const cell = element("div", { class: "cell " + (node === null ? "more" : branch ? "branch" : colour(node)) });
      cell.style.left = `${x}px`;
      cell.style.top = `${y}px`;
      cell.style.width = `${w}px`;
      cell.style.height = `${h}px`;
      made.append(cell);
      if (node === null) {
        cell.title = `${amount(more)} smaller files`;
        return;
      }
      if (CHANGE[node] === "D") cell.classList.add("gone");
      const bytes = tree.weight[node];
      const about = `${tree.title(node)}, ${size(bytes)}, ${share(bytes, tree.weight[place])}`;
      cell.title = about;
      cell.setAttribute("role", "treeitem");
      cell.setAttribute("aria-level", depth);
      cell.setAttribute("aria-label", branch ? about : `${about}, ${LAYERS[LAYER[node]].name}, ${CHANGES[CHANGE[node]]}`);
      cell.tabIndex = -1;
      cells.push({ node, cell, depth, x, y, w, h });
      const named = w >= 34 && h >= HEAD - 2;
      if (named) {
        const text = element("span", { class: "name" }, element("bdi", {}, tree.label(node)));
        if (w >= 90 && (branch || h >= 34)) text.append(element("small", {}, size(bytes)));
        cell.append(text);
      }
      if (!branch) return;
      const head = named && h >= HEAD + 8 ? HEAD : 2;
      if (w > 12 && h > head + 8) squarify(sorted(node), x + 2, y + head, w - 4, h - head - 2, put(depth + 1));
    };
    squarify(sorted(place), 0, 0, width, height, put(1));
    if (cells.length === 0) made.append(element("p", { class: "empty" }, "No files with content here."));
    map.replaceChildren(made);
    current = Math.max(0, cells.findIndex(({ node }) => node === chosen));
    if (cells.length) cells[current].cell.tabIndex = 0;
    else map.tabIndex = 0;
    if (focused && cells.length) cells[current].cell.focus({ preventScroll: true });
    trail();
  }

  let chosen = null;

  function trail() {
    const way = [];
    for (let node = place; ; node = tree.parent(node)) {
      way.unshift(node);
      if (node === tree.root) break;
    }
    const whole = tree.weight[tree.root];
    const items = way.map((node, at) => {
      const last = at === way.length - 1;
      const name = element("bdi", {}, tree.label(node));
      return last ? element("strong", { "aria-current": "location" }, name)
        : element("button", { type: "button", class: "quiet", onclick: () => go(node) }, name);
    });
    const bytes = tree.weight[place];
    const summary = element("span", { class: "soft" }, place === tree.root ? size(bytes) : `${size(bytes)}, ${share(bytes, whole)} of ${size(whole)}`);
    crumbs.replaceChildren(...items, summary);
  }

  function go(node, from) {
    place = node;
    chosen = from === undefined ? null : from;
    draw();
  }

  function out() {
    if (place === tree.root) return;
    go(tree.parent(place), place);
  }

  function focus(at) {
    if (!cells[at]) return;
    cells[current] && (cells[current].cell.tabIndex = -1);
    current = at;
    chosen = cells[at].node;
    cells[at].cell.tabIndex = 0;
    cells[at].cell.focus({ preventScroll: true });
  }

  // Moves to the nearest cell of the same depth in a direction.
  function move(dx, dy) {
    const from = cells[current];
    if (!from) return;
    const fx = from.x + from.w / 2, fy = from.y + from.h / 2;
    let best = -1, least = Infinity;
    cells.forEach(({ depth, x, y, w, h }, at) => {
      if (depth !== from.depth || at === current) return;
      const ahead = dx ? dx * (x + w / 2 - fx) : dy * (y + h / 2 - fy);
      const clear = dx > 0 ? x >= from.x + from.w - 1 : dx < 0 ? x + w <= from.x + 1 : dy > 0 ? y >= from.y + from.h - 1 : y + h <= from.y + 1;
      if (!clear) return;
      const aside = dx ? Math.max(0, y - fy, fy - y - h) : Math.max(0, x - fx, fx - x - w);
      if (ahead + 3 * aside < least) [best, least] = [at, ahead + 3 * aside];
    });
    if (best >= 0) focus(best);
  }

  function open(node) {
    if (tree.isBranch(node)) {
      go(node);
      if (tree.row(node) !== null) Details.show(tree.row(node));
    } else Details.show(node);
  }

  map.addEventListener("click", (event) => {
    const at = cells.findIndex(({ cell }) => cell === event.target.closest(".cell"));
    if (at < 0) return;
    focus(at);
    open(cells[at].node);
  });

  map.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const cell = cells[current];
    const keys = {
      ArrowLeft: () => move(-1, 0), ArrowRight: () => move(1, 0), ArrowUp: () => move(0, -1), ArrowDown: () => move(0, 1),
      Home: () => focus(0), Enter: () => cell && open(cell.node), Backspace: out, Escape: out, "-": out,
      " ": () => cell && tree.row(cell.node) !== null && Details.show(cell.node),
    };
    if (!keys[event.key]) return;
    event.preventDefault();
    event.stopPropagation();
    keys[event.key]();
  });

  const scope = document.getElementById("map-scope"), by = document.getElementById("map-by");
  const byColour = document.getElementById("map-colour");
  choose(scope, Object.entries(SCOPES).filter(([key]) => LAYERS.length > 1 || key === "root").map(([key, [text]]) => [key, text]));

  function make() {
    const own = SCOPES[scope.value][1];
    const again = tree && tree.root === 0 && by.value === "path" ? place : null;
    tree = by.value === "path" ? byPath(own) : byPackage(own);
    place = again !== null && tree.weight[again] > 0 ? again : tree.root;
    chosen = null;
    draw();
    legend();
  }

  function legend() {
    const items = byColour.value === "layer"
      ? LAYERS.map((layer, at) => [`layer-${layerColour(at)}`, layer.name])
      : [["change-same", "as in the base"], ["change-added", "added"], ["change-changed", "changed"], ["change-deleted gone", "deleted"]];
    document.getElementById("legend").replaceChildren(...items.map(([name, text]) =>
      element("li", {}, element("span", { class: `swatch ${name}`, "aria-hidden": true }), element("bdi", {}, text))));
    const sums = KIND.includes("+") ? " Small files of the base are summed by directory." : "";
    note.textContent = `The area of a cell is its uncompressed size.${sums}`;
  }

  scope.addEventListener("change", make);
  by.addEventListener("change", make);
  byColour.addEventListener("change", () => { draw(); legend(); });

  return {
    start() {
      make();
      new ResizeObserver(() => {
        if (map.clientWidth !== size_[0] || map.clientHeight !== size_[1]) draw();
      }).observe(map);
    },
    focus() { focus(current); },
    // Shows the directory of a row, with the row selected.
    reveal(row) {
      by.value = "path";
      if (CHANGE[row] === "D") scope.value = "hidden";
      else if (scope.value !== "overlays" || LAYER[row] === 0) scope.value = "root";
      make();
      go(isDirectory(row) && tree.weight[row] > 0 ? row : PARENT[row], row);
      map.scrollIntoView({ block: "nearest" });
      focus(current);
    },
  };
})();

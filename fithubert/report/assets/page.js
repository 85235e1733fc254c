"use strict";
(() => {
  const COSTS = {
    params: { label: "Parameters, million", scale: 1e6 },
    macs: { label: "Million multiply-accumulates per second of audio", scale: 1e6 },
    time: { label: "Milliseconds of computing per second of audio", scale: 1 },
    ratio: { label: "Latency, % of the teacher's", scale: 1 },
  };
  const NS = "http://www.w3.org/2000/svg";
  const make = (tag, attributes, parent) => {
    const node = document.createElementNS(NS, tag);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    if (parent) parent.append(node);
    return node;
  };
  const text = (content, attributes, parent) => { make("text", attributes, parent).textContent = content; };
  const ticks = (low, high, count) => {
    const span = (high - low) || 1, power = 10 ** Math.floor(Math.log10(span / count));
    const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((s) => span / s <= count);
    const out = [];
    for (let i = Math.floor(low / step + 1e-9); i <= Math.ceil(high / step - 1e-9); i++) out.push(+(i * step).toPrecision(12));
    return out;
  };
  const number = (v) => v.toLocaleString("en", { maximumFractionDigits: Math.abs(v) < 10 ? 2 : 1 });
  const SHAPES = [
    (x, y, r) => `M${x - r},${y}a${r},${r} 0 1,0 ${2 * r},0a${r},${r} 0 1,0 ${-2 * r},0`,
    (x, y, r) => `M${x - r},${y - r}h${2 * r}v${2 * r}h${-2 * r}z`,
    (x, y, r) => `M${x},${y - r * 1.2}L${x + r * 1.15},${y + r}H${x - r * 1.15}z`,
    (x, y, r) => `M${x},${y - r * 1.3}L${x + r * 1.3},${y}L${x},${y + r * 1.3}L${x - r * 1.3},${y}z`,
    (x, y, r) => `M${x},${y + r * 1.2}L${x + r * 1.15},${y - r}H${x - r * 1.15}z`,
  ];

  // A model is on the front if no other has at least its quality at no more than its cost.
  const paretoFront = (points, lower) => {
    const better = (a, b) => (lower ? a <= b : a >= b);
    return points.filter((p) => !points.some((q) => q !== p && q.x <= p.x && better(q.y, p.y) && (q.x < p.x || q.y !== p.y)))
      .sort((a, b) => a.x - b.x);
  };

  // One chart with its two choices; its points are in a script element as JSON.
  function explore(root) {
    const data = JSON.parse(root.querySelector("script").textContent), box = root.querySelector(".scatter");
    const quality = root.querySelector(".quality-choice"), cost = root.querySelector(".cost-choice");
    const tip = document.createElement("div");
    tip.className = "tip"; tip.hidden = true; tip.setAttribute("role", "status");

    function draw() {
      const wanted = data.qualities.find((q) => q.key === quality.value), unit = COSTS[cost.value];
      const points = data.points.map((p, index) => ({ ...p, shape: SHAPES[p.on_front === null ? index % SHAPES.length : p.on_front ? 3 : 0] }))
        .filter((p) => p.scores[wanted.key])
        .map((p) => ({ ...p, x: p.costs[cost.value] / unit.scale, y: p.scores[wanted.key][0], ci: p.scores[wanted.key].slice(1) }));
      const width = Math.max(300, box.clientWidth), height = Math.min(440, Math.max(320, width * 0.5));
      const edge = { left: 58, right: 18, top: 18, bottom: 48 };
      const xs = ticks(0, Math.max(...points.map((p) => p.x)) * 1.06, width < 500 ? 4 : 8);
      // Percentages: the axis stays within 0 and 100 if all values do.
      const all = points.flatMap((p) => [p.y, ...p.ci]), least = Math.min(...all), most = Math.max(...all);
      const pad = (most - least) * 0.06 || 1;
      const ys = ticks(least < 0 ? least - pad : Math.max(0, least - pad), most > 100 ? most + pad : Math.min(100, most + pad), 6);
      const atX = (x) => edge.left + (x / xs[xs.length - 1]) * (width - edge.left - edge.right);
      const atY = (y) => {
        const share = (y - ys[0]) / (ys[ys.length - 1] - ys[0]), inner = height - edge.top - edge.bottom;
        return wanted.lower ? edge.top + share * inner : height - edge.bottom - share * inner;
      };
      const svg = make("svg", { viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": `${wanted.label} against ${unit.label}` });
      for (const y of ys) {
        make("line", { class: "grid", x1: edge.left, x2: width - edge.right, y1: atY(y), y2: atY(y) }, svg);
        text(number(y), { class: "tick", x: edge.left - 9, y: atY(y) + 4, "text-anchor": "end" }, svg);
      }
      for (const x of xs) text(number(x), { class: "tick", x: atX(x), y: height - edge.bottom + 20, "text-anchor": "middle" }, svg);
      text(unit.label, { class: "axis", x: (edge.left + width - edge.right) / 2, y: height - 6, "text-anchor": "middle" }, svg);
      const side = wanted.label.replace(/^.*: /, "") + (wanted.lower ? " (lower is better, axis reversed)" : "");
      text(side, { class: "axis", transform: `translate(14 ${(height - edge.bottom + edge.top) / 2}) rotate(-90)`, "text-anchor": "middle" }, svg);
      const front = paretoFront(points, wanted.lower);
      make("path", { class: "front", d: front.map((p, i) => (i ? `H${atX(p.x)}V${atY(p.y)}` : `M${atX(p.x)},${atY(p.y)}`)).join("") }, svg);
      const taken = points.map((p) => [atX(p.x) - 9, atY(p.y) - 9, 18, 18]);
      for (const p of points) svg.append(mark(p, atX, atY, wanted, unit, front.includes(p), taken, width));
      box.replaceChildren(svg, tip);
    }

    function mark(p, atX, atY, wanted, unit, onFront, taken, width) {
      const x = atX(p.x), y = atY(p.y), style = `fill:${p.colour};stroke:none`;
      const spoken = `${p.name}: ${wanted.label.replace(/, %$/, "")} ${number(p.y)}${wanted.label.endsWith("%") ? " %" : ""}` +
        (p.ci.length ? `, 95 % interval ${number(p.ci[0])} to ${number(p.ci[1])}` : "") +
        `; ${unit.label.toLowerCase()} ${number(p.x)}` + (onFront ? "; on the Pareto front" : "");
      const group = make("g", { class: "mark", tabindex: 0, role: "img", "aria-label": spoken });
      if (p.ci.length) make("line", { x1: x, x2: x, y1: atY(p.ci[0]), y2: atY(p.ci[1]), style: `stroke:${p.colour};stroke-width:2;opacity:.55` }, group);
      make("circle", { class: "halo", cx: x, cy: y, r: 17, style }, group);
      make("path", { d: p.shape(x, y, 6.5), style }, group);
      const long = p.name.length * 7.4, free = ([a, b, w, h]) => a > 50 && a + w < width - 4 &&
        !taken.some(([c, d, e, f]) => a < c + e && c < a + w && b < d + f && d < b + h);
      const places = [[x + 12, y - 8, "start"], [x - 12 - long, y - 8, "end"], [x - long / 2, y - 30, "middle"], [x - long / 2, y + 14, "middle"],
        [x + 12, y - 24, "start"], [x + 12, y + 8, "start"], [x - 12 - long, y + 8, "end"], [x - 12 - long, y - 24, "end"]];
      const [left, top, anchor] = places.find(([a, b]) => free([a, b, long, 16])) || places[0];
      if (p.on_front !== false) taken.push([left, top, long, 16]);
      const at = { start: left, end: left + long, middle: left + long / 2 }[anchor];
      if (p.on_front !== false) text(p.name, { x: at, y: top + 13, "text-anchor": anchor, style: `fill:${p.colour}` }, group);
      const show = () => {
        const head = document.createElement("b"); head.textContent = p.name;
        const lines = spoken.slice(p.name.length + 2).split("; ").map((s) => {
          const line = document.createElement("div"); line.textContent = s.charAt(0).toUpperCase() + s.slice(1); return line;
        });
        tip.replaceChildren(head, ...lines); tip.hidden = false;
        const scale = box.clientWidth / width;
        tip.style.left = `${Math.max(0, Math.min(x * scale + 16, box.clientWidth - tip.offsetWidth))}px`;
        tip.style.top = `${Math.max(0, y * scale - tip.offsetHeight - 16)}px`;
      };
      const hide = () => { tip.hidden = true; };
      for (const event of ["pointerenter", "focus"]) group.addEventListener(event, show);
      for (const event of ["pointerleave", "blur"]) group.addEventListener(event, hide);
      group.addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
      return group;
    }

    for (const select of [quality, cost]) select.addEventListener("change", draw);
    let drawn = 0;
    const redraw = () => { if (box.clientWidth !== drawn) { drawn = box.clientWidth; draw(); } };
    addEventListener("resize", redraw);
    redraw();
  }

  document.querySelectorAll(".explorer").forEach(explore);
})();

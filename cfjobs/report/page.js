"use strict";
// The map of the movies: drag to move, wheel or pinch to zoom, point at a movie for its title.
(function () {
  const data = JSON.parse(document.getElementById("map-data").textContent);
  const canvas = document.getElementById("map");
  if (!canvas || !data.x.length) return;
  const tip = document.getElementById("tip");
  const search = document.getElementById("map-search");
  const pick = document.getElementById("map-label");
  const paint = canvas.getContext("2d");
  const n = data.x.length;
  const most = Math.max(...data.n);
  const bound = Math.max(0.05, quantile(data.bias.map(Math.abs), 0.95));
  let view, width = 0, height = 0, marked = null, pointed = -1;

  function quantile(values, q) {
    const sorted = values.slice().sort((a, b) => a - b);
    return sorted[Math.floor(q * (sorted.length - 1))] || 0;
  }

  function whole() {
    const edge = (values) => [values.reduce((a, b) => Math.min(a, b)), values.reduce((a, b) => Math.max(a, b))];
    const [x0, x1] = edge(data.x), [y0, y1] = edge(data.y);
    const scale = Math.min((width - 60) / (x1 - x0 || 1), (height - 60) / (y1 - y0 || 1));
    view = { scale, x: width / 2 - scale * (x0 + x1) / 2, y: height / 2 + scale * (y0 + y1) / 2, first: scale };
  }

  const px = (i) => view.x + view.scale * data.x[i];
  const py = (i) => view.y - view.scale * data.y[i];
  const radius = (i) => (width < 600 ? 0.65 : 1) * (1.5 + 6 * Math.sqrt(data.n[i] / most)) * Math.min(2.2, Math.sqrt(view.scale / view.first));

  function colours() {
    const style = getComputedStyle(document.documentElement);
    const of = (name) => style.getPropertyValue(name).trim();
    return { low: of("--second"), high: of("--main"), ink: of("--ink"), soft: of("--soft"), paper: of("--card"), grid: of("--grid") };
  }

  function draw() {
    const c = colours();
    paint.clearRect(0, 0, width, height);
    paint.strokeStyle = c.grid;
    paint.lineWidth = 1;
    paint.beginPath();
    paint.moveTo(0, view.y); paint.lineTo(width, view.y);
    paint.moveTo(view.x, 0); paint.lineTo(view.x, height);
    paint.stroke();
    for (let i = n - 1; i >= 0; i--) {
      const lit = !marked || marked.has(i);
      const strength = Math.min(1, Math.abs(data.bias[i]) / bound);
      paint.globalAlpha = lit ? 0.25 + 0.6 * strength : 0.06;
      paint.fillStyle = data.bias[i] < 0 ? c.low : c.high;
      paint.beginPath();
      paint.arc(px(i), py(i), radius(i), 0, 2 * Math.PI);
      paint.fill();
    }
    paint.globalAlpha = 1;
    paint.font = "12px system-ui, sans-serif";
    paint.textBaseline = "middle";
    names(c, axes(c));
    if (pointed >= 0) {
      paint.strokeStyle = c.ink;
      paint.lineWidth = 2;
      paint.beginPath();
      paint.arc(px(pointed), py(pointed), radius(pointed) + 2, 0, 2 * Math.PI);
      paint.stroke();
    }
  }

  const short = (text, length) => (text.length > length ? text.slice(0, length - 1) + "…" : text);
  const meet = (a, b) => a.x0 < b.x1 && b.x0 < a.x1 && a.y0 < b.y1 && b.y0 < a.y1;
  const textBox = (x, y, wide) => ({ x0: x - 4, x1: x + wide + 4, y0: y - 9, y1: y + 9 });

  function write(text, x, y, colour, c) {
    paint.lineWidth = 4;
    paint.lineJoin = "round";
    paint.strokeStyle = c.paper;
    paint.strokeText(text, x, y);
    paint.fillStyle = colour;
    paint.fillText(text, x, y);
  }

  // Each axis is named by the movies at its ends. Returns the boxes of the names, which the titles keep clear of.
  function axes(c) {
    if (!data.ends.pc1) return [];
    const length = width < 600 ? 18 : 34, boxes = [];
    const put = (text, x, y) => {
      const wide = paint.measureText(text).width, left = Math.max(6, Math.min(width - wide - 6, x - wide / 2));
      write(text, left, y, c.soft, c);
      boxes.push(textBox(left, y, wide));
    };
    put("← " + short(data.ends.pc1[0], length), 0, height - 12);
    put(short(data.ends.pc1[1], length) + " →", width, height - 12);
    put("↑ " + short(data.ends.pc2[1], length), width / 2, 12);
    put("↓ " + short(data.ends.pc2[0], length), width / 2, height - 32);
    return boxes;
  }

  // Titles of the most rated movies in view, as many as fit clear of each other and of the largest dots.
  function names(c, taken) {
    const seen = [], limit = width < 600 ? 14 : 40;
    for (let i = 0; i < n && seen.length < 4 * limit; i++) {
      if (marked && !marked.has(i)) continue;
      if (px(i) > 0 && px(i) < width && py(i) > 10 && py(i) < height - 10) seen.push(i);
    }
    const dots = seen.slice(0, limit).map((i) => ({ i, x0: px(i) - radius(i), x1: px(i) + radius(i), y0: py(i) - radius(i), y1: py(i) + radius(i) }));
    let written = 0;
    for (const i of seen) {
      if (written === limit) break;
      const text = short(data.title[i], width < 600 ? 22 : 34), wide = paint.measureText(text).width, gap = radius(i) + 5, y = py(i);
      const free = (x) => {
        const box = textBox(x, y, wide);
        return box.x0 > 0 && box.x1 < width && !taken.some((t) => meet(t, box)) && !dots.some((dot) => dot.i !== i && meet(dot, box));
      };
      const x = [px(i) + gap, px(i) - gap - wide].find(free);
      if (x === undefined) continue;
      taken.push(textBox(x, y, wide));
      write(text, x, y, c.ink, c);
      written++;
    }
  }

  function size() {
    const box = canvas.getBoundingClientRect(), sharp = window.devicePixelRatio || 1;
    const before = view && { w: width, h: height };
    width = box.width; height = box.height;
    canvas.width = Math.round(width * sharp); canvas.height = Math.round(height * sharp);
    paint.setTransform(sharp, 0, 0, sharp, 0, 0);
    if (!before) whole();
    else { view.x += (width - before.w) / 2; view.y += (height - before.h) / 2; }
    draw();
  }

  function zoom(factor, x, y) {
    const scale = Math.min(view.first * 60, Math.max(view.first * 0.5, view.scale * factor));
    view.x = x - (x - view.x) * (scale / view.scale);
    view.y = y - (y - view.y) * (scale / view.scale);
    view.scale = scale;
    draw();
  }

  function nearest(x, y) {
    let best = -1, distance = 18 * 18;
    for (let i = 0; i < n; i++) {
      if (marked && !marked.has(i)) continue;
      const dx = px(i) - x, dy = py(i) - y, d = dx * dx + dy * dy;
      if (d < distance) { distance = d; best = i; }
    }
    return best;
  }

  function point(x, y) {
    const found = nearest(x, y);
    if (found !== pointed) { pointed = found; draw(); }
    if (found < 0) { tip.style.display = "none"; return; }
    const bias = (data.bias[found] >= 0 ? "+" : "−") + Math.abs(data.bias[found]).toFixed(2);
    const rated = data.title[found] + " · " + data.n[found].toLocaleString("en") + " ratings";
    tip.textContent = data.by_bias ? rated + ", bias " + bias : rated;
    tip.style.display = "block";
    tip.style.left = Math.max(4, Math.min(x + 14, width - tip.offsetWidth - 4)) + "px";
    tip.style.top = Math.max(4, y - tip.offsetHeight - 12 < 4 ? y + 16 : y - tip.offsetHeight - 12) + "px";
  }

  const fingers = new Map();
  const at = (event) => { const box = canvas.getBoundingClientRect(); return [event.clientX - box.left, event.clientY - box.top]; };
  canvas.addEventListener("pointerdown", (event) => {
    fingers.set(event.pointerId, at(event));
    canvas.setPointerCapture(event.pointerId);
    point(...at(event));
  });
  canvas.addEventListener("pointermove", (event) => {
    const [x, y] = at(event), last = fingers.get(event.pointerId);
    if (!last) { point(x, y); return; }
    if (fingers.size === 1) { view.x += x - last[0]; view.y += y - last[1]; draw(); }
    if (fingers.size === 2) {
      const other = [...fingers].find(([id]) => id !== event.pointerId)[1];
      const was = Math.hypot(last[0] - other[0], last[1] - other[1]), is = Math.hypot(x - other[0], y - other[1]);
      if (was > 0) zoom(is / was, (x + other[0]) / 2, (y + other[1]) / 2);
    }
    fingers.set(event.pointerId, [x, y]);
  });
  for (const kind of ["pointerup", "pointercancel"]) canvas.addEventListener(kind, (event) => fingers.delete(event.pointerId));
  canvas.addEventListener("pointerleave", () => { tip.style.display = "none"; pointed = -1; draw(); });
  canvas.addEventListener("wheel", (event) => { event.preventDefault(); zoom(Math.exp(-event.deltaY * 0.0015), ...at(event)); }, { passive: false });
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [40, 0], ArrowRight: [-40, 0], ArrowUp: [0, 40], ArrowDown: [0, -40] }[event.key];
    if (step) { view.x += step[0]; view.y += step[1]; draw(); event.preventDefault(); }
    if (event.key === "+" || event.key === "=") zoom(1.3, width / 2, height / 2);
    if (event.key === "-") zoom(1 / 1.3, width / 2, height / 2);
  });
  document.getElementById("map-whole").addEventListener("click", () => { whole(); draw(); });

  function mark() {
    const text = search.value.trim().toLowerCase(), label = pick ? pick.value : "";
    let found = null;
    if (label) found = new Set(data.labels[label]);
    if (text) {
      const titled = data.title.map((t, i) => (t.toLowerCase().includes(text) ? i : -1)).filter((i) => i >= 0);
      found = new Set(found ? titled.filter((i) => found.has(i)) : titled);
    }
    marked = found;
    pointed = -1;
    draw();
  }
  search.addEventListener("input", mark);
  if (pick) pick.addEventListener("change", mark);
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  new ResizeObserver(size).observe(canvas);
})();

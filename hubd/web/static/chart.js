// Series of one edge: their history from the API, and every new reading as it arrives.
(() => {
  "use strict";
  const place = document.getElementById("chart");
  if (!place || !window.uPlot) return;
  const { edge, tenant } = place.dataset;
  const say = window.hubPulse || (() => {});
  const PAGE = 4000; // points of a page: a raw hour at 1 Hz fits, and so does a 4K screen
  const AGAIN_MS = 10000; // aggregates are asked for again so often
  const ZOOM_PX = 5; // a hand that shakes while it clicks is no drag
  const HEIGHT = 350;

  // The first is the chosen one, the others are drawn beside it. `seconds` and the columns below
  // have a place for each point; `points` is how many readings it had at the newest live event.
  const lines = JSON.parse(place.dataset.lines).map((line) => (
    { ...line, seconds: [], mean: [], max: [], min: [], points: null, grain: "raw" }
  ));
  const [chosen] = lines;
  const units = [...new Set(lines.map((line) => line.unit))];

  let minutes = 15;
  let zoom = null; // [from, to] in seconds instead of the last minutes
  let plot = null;
  let loading = false;
  let stale = false;

  const scaleOf = (unit) => "in " + unit; // "x" is the scale of time
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const lineColour = (index) => colour(index ? "--line-" + (index + 1) : "--chart");
  const number = (v, type) => {
    if (v === null || v === undefined) return "–";
    if (type === "bool") return v ? "on" : "off";
    const size = Math.abs(v);
    if (size >= 1e7 || (size > 0 && size < 1e-3)) return v.toPrecision(4);
    const digits = size >= 10000 ? 0 : size >= 1000 ? 1 : size >= 100 ? 2 : 3;
    return v.toLocaleString("en", { maximumFractionDigits: digits }).replaceAll(",", "\u202f");
  };
  const numeric = (v) => (typeof v === "boolean" ? Number(v) : v);
  const hasBand = () => lines.length === 1 && chosen.grain !== "raw";
  // Points of several series have times of their own: uPlot makes one column of them.
  const table = () => hasBand()
    ? [chosen.seconds, chosen.mean, chosen.max, chosen.min]
    : uPlot.join(lines.map((line) => [line.seconds, line.mean]));

  function axis(unit, index) {
    const own = lines.findIndex((line) => line.unit === unit);
    const type = lines[own].type;
    return {
      scale: scaleOf(unit), side: index ? 1 : 3, size: 64, ticks: { show: false },
      stroke: units.length > 1 ? lineColour(own) : colour("--soft"),
      grid: index ? { show: false } : { stroke: colour("--grid"), width: 1 },
      values: (_, ticks) => ticks.map((one) => number(one, type)),
    };
  }

  function draw() {
    const series = lines.map((line, index) => ({
      label: line.entity + " " + line.key, scale: scaleOf(line.unit), stroke: lineColour(index), width: 2,
      points: { show: false }, ...(line.type === "bool" ? { paths: uPlot.paths.stepped({ align: 1 }) } : {}),
    }));
    const edgeLine = { scale: scaleOf(chosen.unit), stroke: colour("--band"), width: 1, points: { show: false } };
    if (hasBand()) series.push(edgeLine, { ...edgeLine });
    if (plot) plot.destroy();
    plot = new uPlot({
      // Every time on every page is UTC; days begin there too.
      tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), "Etc/UTC"),
      width: place.clientWidth, height: HEIGHT, padding: [12, 8, 0, 0],
      cursor: { y: false, points: { size: 8 }, drag: { x: true, y: false, setScale: false, dist: ZOOM_PX } },
      legend: { show: false },
      hooks: { setCursor: [under], setSelect: [zoomIn] },
      scales: { x: { time: true, range: () => [start(), end()] } },
      axes: [
        { stroke: colour("--soft"), grid: { stroke: colour("--grid"), width: 1 }, ticks: { show: false },
          values: (_, ticks) => ticks.map(clock) },
        ...units.slice(0, 2).map(axis),
      ],
      series: [{}, ...series],
      bands: hasBand() ? [{ series: [2, 3], fill: colour("--band") }] : [],
    }, table(), place);
  }

  const pad = (n) => String(n).padStart(2, "0");
  function clock(seconds) {
    const at = new Date(seconds * 1000);
    const span = end() - start();
    const time = pad(at.getUTCHours()) + ":" + pad(at.getUTCMinutes()) + (span < 600 ? ":" + pad(at.getUTCSeconds()) : "");
    const day = pad(at.getUTCMonth() + 1) + "-" + pad(at.getUTCDate());
    return span <= 86400 ? time : time === "00:00" ? day : day + " " + time;
  }

  function under({ cursor, data }) {
    const at = cursor.idx;
    const has = at !== null && at !== undefined && data[0][at] !== undefined;
    const when = has ? new Date(data[0][at] * 1000).toLocaleString("sv", { timeZone: "UTC" }) + " UTC" : "";
    const own = has && lines.length === 1 && data[1][at] !== undefined;
    document.getElementById("under").textContent =
      own ? when + "  ·  " + number(data[1][at], chosen.type) + " " + chosen.unit : when;
    lines.forEach((line, index) => {
      const shown = has ? data[index + 1][at] : line.mean[line.mean.length - 1];
      tell(line, shown === undefined ? null : shown);
    });
  }

  function tell(line, value) {
    const cell = document.querySelector(`[data-line="${line.series}"]`);
    if (cell) cell.textContent = number(value, line.type);
  }

  function zoomIn(drawn) {
    const { left, width } = drawn.select;
    if (width < ZOOM_PX) return;
    const range = [drawn.posToVal(left, "x"), drawn.posToVal(left + width, "x")];
    drawn.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
    show(range, null);
  }

  // The last minutes for a button, a part of the time for null.
  function show(range, button) {
    zoom = range;
    for (const one of buttons) {
      if (one === button) one.setAttribute("aria-pressed", "true");
      else one.removeAttribute("aria-pressed");
    }
    if (button) minutes = Number(button.dataset.minutes);
    load();
  }

  const newest = () => Math.max(...lines.map((line) => line.seconds[line.seconds.length - 1] || 0));
  const oldest = () => Math.min(...lines.map((line) => line.seconds[0] || Infinity));
  // The edge's clock may be ahead of this one; what it sent must still be in the picture.
  const end = () => (zoom ? zoom[1] : Math.max(Date.now() / 1000, newest()));
  // A series younger than the range begins at the left edge instead of far to the right.
  const start = () => {
    if (zoom) return zoom[0];
    const whole = end() - minutes * 60;
    return oldest() < Infinity ? Math.max(whole, Math.min(oldest(), end() - 60)) : whole;
  };

  function count() {
    const points = lines.reduce((sum, line) => sum + line.seconds.length, 0);
    const band = lines.length === 1 ? ", band from min to max" : "";
    const names = { raw: "every reading", "1m": "by the minute" + band, "1h": "by the hour" + band };
    document.getElementById("resolution").textContent = [...new Set(lines.map((line) => names[line.grain]))].join("; ");
    document.getElementById("extent").textContent = points.toLocaleString("en") + " points";
  }

  const time = (seconds) => new Date(seconds * 1000).toISOString();

  async function loadLine(line) {
    const range = zoom ? { from: time(zoom[0]), to: time(zoom[1]) } : { from: "-" + minutes + "m" };
    const query = new URLSearchParams({ entity: line.entity, key: line.key, ...range, limit: PAGE });
    if (tenant) query.set("tenant", tenant);
    const response = await fetch("/api/v1/edges/" + encodeURIComponent(edge) + "/history?" + query);
    if (!response.ok) throw new Error((await response.json()).error);
    const page = await response.json();
    const columns = page.raw || page.buckets;
    line.grain = page.resolution;
    line.seconds = columns.time_ns.map((t) => t / 1e9);
    line.mean = page.raw ? columns.value.map(numeric) : columns.mean;
    line.max = page.raw ? [] : columns.max;
    line.min = page.raw ? [] : columns.min;
  }

  async function load() {
    if (loading) { stale = true; return; }
    loading = true;
    stale = false;
    try {
      await Promise.all(lines.map(loadLine));
      draw();
      count();
    } catch (error) {
      document.getElementById("resolution").textContent = "no history: " + error.message;
    } finally {
      loading = false;
      if (stale) setTimeout(load, 200);
    }
  }

  function take(reading) {
    const line = lines.find((one) => one.series === reading.series);
    if (!line) return;
    if (line === chosen) {
      document.getElementById("value").textContent =
        line.type === "text" ? reading.value : number(reading.value, line.type);
    }
    const isNext = line.points !== null && reading.points === line.points + 1;
    const isFirst = line.points === null;
    line.points = reading.points;
    if (zoom || line.grain !== "raw" || line.type === "text") return;
    const at = reading.time_ns / 1e9;
    const last = line.seconds.length ? line.seconds[line.seconds.length - 1] : 0;
    if (!isNext || at <= last) {
      if (!isFirst || at > last) load(); // some were missed, or came late: the hub knows
      return;
    }
    line.seconds.push(at);
    line.mean.push(numeric(reading.value));
    while (line.seconds[0] < end() - minutes * 60) { line.seconds.shift(); line.mean.shift(); }
    if (!plot || plot.cursor.idx === null || plot.cursor.idx === undefined) tell(line, numeric(reading.value));
    count();
  }

  // A cell that begins like a formula is one to a spreadsheet.
  const cell = (text) => '"' + (/^[=+\-@\t\r\n]/.test(text) ? "'" : "") + text.replaceAll('"', '""') + '"';

  function csv() {
    const names = lines.map((line) => line.entity + " " + line.key + (line.unit ? " [" + line.unit + "]" : ""));
    if (hasBand()) names.push("max", "min");
    const [seconds, ...columns] = table();
    const rows = seconds.map((at, row) => [time(at), ...columns.map((column) => column[row] ?? "")].join(","));
    return [["time UTC", ...names].map(cell).join(","), ...rows, ""].join("\r\n");
  }

  function save() {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([csv()], { type: "text/csv" }));
    link.download = edge + " " + chosen.entity + " " + chosen.key + ".csv";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  }

  const current = document.querySelector(".picker a[aria-current]");
  if (current) current.closest(".picker").scrollTop = current.offsetTop - 120;
  const buttons = document.querySelectorAll(".ranges [data-minutes]");
  for (const button of buttons) button.addEventListener("click", () => show(null, button));
  if (chosen.type === "text") {
    place.remove();
    document.querySelector(".ranges").remove();
  } else {
    document.getElementById("csv").addEventListener("click", save);
    place.addEventListener("dblclick", () => {
      if (zoom) show(null, [...buttons].find((one) => Number(one.dataset.minutes) === minutes));
    });
    load();
    setInterval(() => { if (plot && !zoom && !loading) plot.setData(table()); }, 500);
    setInterval(() => { if (!zoom && lines.some((line) => line.grain !== "raw")) load(); }, AGAIN_MS);
    addEventListener("resize", () => { if (plot) plot.setSize({ width: place.clientWidth, height: HEIGHT }); });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  }

  const asked = new URLSearchParams([["edge", edge], ...lines.map((line) => ["series", line.series])]);
  if (tenant) asked.set("tenant", tenant);
  const source = new EventSource("/api/v1/live?" + asked);
  source.addEventListener("open", () => say("live", "on"));
  source.addEventListener("error", async () => {
    say("hub out of reach", "off");
    if (source.readyState !== EventSource.CLOSED) return;
    // It has answered: does it ask who is there?
    const page = await fetch(location.href, { headers: { Accept: "text/html" } }).catch(() => null);
    if (page && page.redirected) location.reload();
  });
  source.addEventListener("reading", (message) => take(JSON.parse(message.data)));
})();

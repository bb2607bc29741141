// One series: its history from the API, and every new reading as it arrives.
(() => {
  "use strict";
  const place = document.getElementById("chart");
  if (!place || !window.uPlot) return;
  const { edge, entity, key, series, unit, type } = place.dataset;
  const say = window.hubPulse || (() => {});
  const PAGE = 4000; // points of a page: a raw hour at 1 Hz fits, and so does a 4K screen
  const AGAIN_MS = 10000; // aggregates are asked for again so often

  let minutes = 15;
  let grain = "raw";
  let data = [[], [], [], []]; // seconds, value or mean, max, min
  let points = null; // readings the series had at the newest live event
  let plot = null;
  let loading = false;
  let stale = false;

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const number = (v) => {
    if (v === null || v === undefined) return "–";
    if (type === "bool") return v ? "on" : "off";
    const size = Math.abs(v);
    if (size >= 1e7 || (size > 0 && size < 1e-3)) return v.toPrecision(4);
    const digits = size >= 10000 ? 0 : size >= 1000 ? 1 : size >= 100 ? 2 : 3;
    return v.toLocaleString("en", { maximumFractionDigits: digits }).replaceAll(",", "\u202f");
  };
  const numeric = (v) => (typeof v === "boolean" ? Number(v) : v);

  function draw() {
    const isBucket = grain !== "raw";
    const axis = { stroke: colour("--soft"), grid: { stroke: colour("--grid"), width: 1 }, ticks: { show: false } };
    const line = {
      label: isBucket ? "mean" : key, stroke: colour("--chart"), width: 2, points: { show: false },
    };
    if (type === "bool") line.paths = uPlot.paths.stepped({ align: 1 });
    const edgeLine = (label) => ({ ...line, label, paths: undefined, width: 1, stroke: colour("--band") });
    if (plot) plot.destroy();
    plot = new uPlot({
      // Every time on every page is UTC; days begin there too.
      tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), "Etc/UTC"),
      width: place.clientWidth, height: 350, padding: [12, 8, 0, 0],
      cursor: { y: false, points: { size: 8 } },
      legend: { show: false },
      hooks: { setCursor: [under] },
      scales: { x: { time: true, range: () => [start(), now()] } },
      axes: [{ ...axis, values: (_, ticks) => ticks.map(clock) }, { ...axis, size: 64, values: (_, ticks) => ticks.map(number) }],
      series: isBucket ? [{}, line, edgeLine("max"), edgeLine("min")] : [{}, line],
      bands: isBucket ? [{ series: [2, 3], fill: colour("--band") }] : [],
    }, shown(), place);
  }

  const pad = (n) => String(n).padStart(2, "0");
  function clock(seconds) {
    const at = new Date(seconds * 1000);
    const isShort = now() - start() < 600;
    const time = pad(at.getUTCHours()) + ":" + pad(at.getUTCMinutes()) + (isShort ? ":" + pad(at.getUTCSeconds()) : "");
    const day = pad(at.getUTCMonth() + 1) + "-" + pad(at.getUTCDate());
    return minutes <= 1440 ? time : time === "00:00" ? day : day + " " + time;
  }

  function under({ cursor }) {
    const at = cursor.idx;
    const has = at !== null && at !== undefined && data[1][at] !== undefined && data[1][at] !== null;
    const when = has && new Date(data[0][at] * 1000).toLocaleString("sv", { timeZone: "UTC" }) + " UTC";
    document.getElementById("under").textContent = has ? when + "  ·  " + number(data[1][at]) + " " + unit : "";
  }

  // The edge's clock may be ahead of this one; what it sent must still be in the picture.
  const now = () => Math.max(Date.now() / 1000, data[0].length ? data[0][data[0].length - 1] : 0);
  // A series younger than the range begins at the left edge instead of far to the right.
  const start = () => {
    const whole = now() - minutes * 60;
    return data[0].length ? Math.max(whole, Math.min(data[0][0], now() - 60)) : whole;
  };
  const shown = () => (grain === "raw" ? data.slice(0, 2) : data);

  function tell() {
    const count = data[0].length;
    const names = { raw: "every reading", "1m": "by the minute, band from min to max", "1h": "by the hour, band from min to max" };
    document.getElementById("resolution").textContent = names[grain];
    document.getElementById("extent").textContent = count.toLocaleString("en") + " points";
  }

  async function load() {
    if (loading) { stale = true; return; }
    loading = true;
    stale = false;
    try {
      const query = new URLSearchParams({ entity, key, from: "-" + minutes + "m", limit: PAGE });
      const url = "/api/v1/edges/" + encodeURIComponent(edge) + "/history?" + query;
      const response = await fetch(url);
      if (!response.ok) throw new Error((await response.json()).error);
      const page = await response.json();
      grain = page.resolution;
      const columns = page.raw || page.buckets;
      const seconds = columns.time_ns.map((t) => t / 1e9);
      data = page.raw
        ? [seconds, columns.value.map(numeric), [], []]
        : [seconds, columns.mean, columns.max, columns.min];
      draw();
      tell();
    } catch (error) {
      document.getElementById("resolution").textContent = "no history: " + error.message;
    } finally {
      loading = false;
      if (stale) setTimeout(load, 1000);
    }
  }

  function take(reading) {
    document.getElementById("value").textContent = type === "text" ? reading.value : number(reading.value);
    const isNext = points !== null && reading.points === points + 1;
    const isFirst = points === null;
    points = reading.points;
    if (grain !== "raw") return;
    const time = reading.time_ns / 1e9;
    const last = data[0].length ? data[0][data[0].length - 1] : 0;
    if (!isNext || time <= last) {
      if (!isFirst || time > last) load(); // some were missed, or came late: the hub knows
      return;
    }
    data[0].push(time);
    data[1].push(numeric(reading.value));
    while (data[0].length && data[0][0] < now() - minutes * 60) { data[0].shift(); data[1].shift(); }
    tell();
  }

  const chosen = document.querySelector(".picker [aria-current]");
  if (chosen) chosen.closest(".picker").scrollTop = chosen.offsetTop - 120;
  for (const button of document.querySelectorAll(".ranges button")) {
    button.addEventListener("click", () => {
      for (const other of document.querySelectorAll(".ranges button")) other.removeAttribute("aria-pressed");
      button.setAttribute("aria-pressed", "true");
      minutes = Number(button.dataset.minutes);
      load();
    });
  }
  if (type === "text") {
    place.remove();
    document.querySelector(".ranges").remove();
  } else {
    load();
    setInterval(() => { if (plot) plot.setData(shown()); }, 500);
    setInterval(() => { if (grain !== "raw") load(); }, AGAIN_MS);
    addEventListener("resize", () => { if (plot) plot.setSize({ width: place.clientWidth, height: 350 }); });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  }

  const source = new EventSource("/api/v1/live?" + new URLSearchParams({ edge, series }));
  source.addEventListener("open", () => say("live", "on"));
  source.addEventListener("error", () => say("hub out of reach", "off"));
  source.addEventListener("reading", (message) => take(JSON.parse(message.data)));
})();

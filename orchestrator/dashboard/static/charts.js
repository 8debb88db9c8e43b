// The charts of the timeline, the prices and the month, drawn by uPlot. Figures come from this server as they are.
"use strict";

(() => {
  const AGAIN_MS = 500;
  const HEIGHT = 250;
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const faint = (colour) => (colour.startsWith("#") ? colour + "40" : colour);
  const words = (element) => JSON.parse(element.dataset.words || "{}");
  const part = (element, name) => element.querySelector(`[data-part="${name}"]`);

  // an answer of 202 is on its way: ask again
  const figures = async (address) => {
    for (;;) {
      const answer = await fetch(address, { headers: { Accept: "application/json" } });
      if (answer.status !== 202) {
        if (!answer.ok) throw new Error(`${address}: ${answer.status}`);
        return answer.json();
      }
      await new Promise((go) => setTimeout(go, AGAIN_MS));
    }
  };

  const axes = (more = {}) => [
    { stroke: css("--dim"), grid: { stroke: css("--line"), width: 1 }, ticks: { show: false }, font: "12px system-ui, sans-serif", space: 70 },
    { stroke: css("--dim"), grid: { stroke: css("--line"), width: 1 }, ticks: { show: false }, font: "12px system-ui, sans-serif", size: 56, ...more },
  ];

  const chart = (at, options, data) => {
    at.replaceChildren();
    const drawn = new uPlot({ width: at.clientWidth, height: HEIGHT, ...options }, data, at);
    new ResizeObserver(() => {
      if (at.clientWidth && at.clientWidth !== drawn.width) drawn.setSize({ width: at.clientWidth, height: HEIGHT });
    }).observe(at);
    return drawn;
  };

  const clock = (zone) => (seconds) => uPlot.tzDate(new Date(seconds * 1000), zone);
  const stepped = uPlot.paths.stepped({ align: 1 });
  const hours24 = [
    [86400 * 365, "{YYYY}", null, null, null, null, null, null, 1],
    [86400 * 28, "{MMM}", "\n{YYYY}", null, null, null, null, null, 1],
    [86400, "{MM}-{DD}", "\n{YYYY}", null, null, null, null, null, 1],
    [3600, "{HH}:{mm}", "\n{MM}-{DD}", null, "\n{MM}-{DD}", null, null, null, 1],
    [60, "{HH}:{mm}", "\n{MM}-{DD}", null, "\n{MM}-{DD}", null, null, null, 1],
    [1, ":{ss}", "\n{MM}-{DD} {HH}:{mm}", null, "\n{MM}-{DD} {HH}:{mm}", null, "\n{HH}:{mm}", null, 1],
  ];
  const time = (say) => ({ label: say.time, value: "{YYYY}-{MM}-{DD} {HH}:{mm}" });
  const withTime = (all) => { all[0].values = hours24; return all; };

  // replicas lie on each other: the lines are sums, the legend says each one
  const stacked = (lines) => {
    const sums = [];
    lines.forEach((line, place) => sums.push(line.map((value, at) => value + (place ? sums[place - 1][at] : 0))));
    return sums;
  };

  const timeline = async (element) => {
    const say = words(element), zone = element.dataset.zone;
    const whole = [Number(element.dataset.from), Number(element.dataset.to)];
    let now = null, upper = null, lower = null, asking = 0;

    const marks = (u) => {
      const { ctx } = u, { top, height } = u.bbox;
      ctx.save();
      ctx.fillStyle = css("--open");
      for (const [from, to] of now.opened) {
        const left = u.valToPos(from, "x", true), right = u.valToPos(to, "x", true);
        ctx.fillRect(left, top, right - left, height);
      }
      ctx.restore();
    };
    const lost = (u) => {
      const { ctx } = u, { top, height, left, width } = u.bbox;
      ctx.save();
      ctx.fillStyle = css("--bad");
      for (const [at] of now.losses) {
        const x = u.valToPos(at, "x", true);
        if (x >= left && x <= left + width) ctx.fillRect(x - 1, top, 2 * devicePixelRatio, height * 0.12);
      }
      ctx.restore();
    };
    const zoom = (u) => {
      if (u.select.width < 4) return;
      const from = u.posToVal(u.select.left, "x"), to = u.posToVal(u.select.left + u.select.width, "x");
      u.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
      show(from, to);
    };
    const common = {
      tzDate: clock(zone),
      cursor: { sync: { key: "timeline" }, drag: { x: true, y: false, setScale: false }, bind: { dblclick: () => () => { show(...whole); return null; } } },
      scales: { x: { time: true } },
    };

    const draw = () => {
      const terms = Object.keys(now.replicas), sums = stacked(terms.map((name) => now.replicas[name]));
      const colour = { spot: css("--spot"), on_demand: css("--on-demand"), owned: css("--owned") };
      const series = terms.map((name, place) => ({
        label: say[name], stroke: colour[name], fill: faint(colour[name]), width: 1.5, paths: stepped, points: { show: false },
        value: (u, sum, index, at) => (at == null ? "–" : now.replicas[name][at]),
      })).reverse();
      upper = chart(part(element, "replicas"), {
        ...common, bands: terms.slice(1).map((_, place) => ({ series: [place + 1, place + 2] })), series: [time(say), ...series], axes: withTime(axes({ incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000] })),
        scales: { ...common.scales, y: { range: (u, low, high) => [0, Math.max(1, high || 0) * 1.1] } },
        hooks: { drawClear: [marks], draw: [lost], setSelect: [zoom] },
      }, [now.at, ...sums.reverse()]);
      const line = (name, ink, fill) => ({
        label: say[name], stroke: ink, fill, width: 1.25, points: { show: false }, value: (u, value) => (value == null ? "–" : value.toFixed(2)),
      });
      lower = chart(part(element, "load"), {
        ...common, axes: withTime(axes()), series: [time(say), line("images", css("--saved"), faint(css("--saved"))), line("refused", css("--dearer")), line("failed", css("--bad"))],
        scales: { ...common.scales, y: { range: (u, low, high) => [0, (high || 1) * 1.1] } },
        hooks: { drawClear: [marks], setSelect: [zoom] },
      }, [now.at, now.images, now.refused, now.failed]);
      window.charts = { upper, lower }; // for whoever looks at them from the console
    };

    const show = async (from, to) => {
      const mine = ++asking, start = Math.floor(from / 60) * 60, end = Math.max(start + 600, Math.ceil(to / 60) * 60);
      element.querySelector(".waiting").hidden = false;
      const found = await figures(`${element.dataset.src}&from=${start}&to=${end}`);
      if (mine !== asking) return; // somebody has zoomed on
      now = found;
      element.querySelector(".waiting").hidden = true;
      element.dataset.shown = `${start} ${end}`;
      draw();
    };
    await show(...whole);
  };

  const COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a5195", "#8c8c00"];

  const prices = async (element) => {
    const say = words(element), found = await figures(element.dataset.src);
    element.querySelector(".waiting").hidden = true;
    if (!found.lines.length) return;
    element.parentElement.querySelector('[data-part="unit"]').textContent = found.lines[0].currency;
    const series = found.lines.map((line, place) => ({
      label: line.name, stroke: COLOURS[place % COLOURS.length], width: 1.75, paths: stepped, points: { show: false }, spanGaps: false,
      value: (u, value) => (value == null ? "–" : `${value.toFixed(4)} ${line.currency}`),
    }));
    chart(part(element, "prices"), {
      tzDate: clock(element.dataset.zone), series: [time(say), ...series], axes: withTime(axes()),
      scales: { x: { time: true }, y: { range: (u, low, high) => [0, (high || 1) * 1.1] } },
      cursor: { drag: { x: true, y: false } },
    }, [found.at, ...found.lines.map((line) => line.values)]);
    element.dataset.shown = "yes";
  };

  const days = (element) => {
    const say = words(element), given = JSON.parse(element.dataset.days), places = Math.max(...given.values, 0) < 10 ? 4 : 2;
    const names = (u, splits) => splits.map((at) => (Number.isInteger(at) ? given.labels[at] ?? "" : ""));
    chart(part(element, "days"), {
      axes: (() => { const all = axes(); all[0].values = names; all[0].incrs = [1, 2, 5, 7, 10]; all[0].grid = { show: false }; return all; })(),
      scales: { x: { time: false, range: (u, low, high) => [low - 0.6, high + 0.6] }, y: { range: (u, low, high) => [Math.min(0, low || 0), (high || 1) * 1.1] } },
      series: [
        { label: say.time, value: (u, at) => (at == null ? "–" : given.labels[at]) },
        { label: `${say.cost} ${given.currency}`, stroke: css("--paid"), fill: css("--paid"), width: 0, points: { show: false },
          paths: uPlot.paths.bars({ size: [0.72, 48] }), value: (u, value) => (value == null ? "–" : value.toFixed(places)) },
      ],
      cursor: { drag: { x: true, y: false } },
    }, [given.values.map((_, at) => at), given.values]);
    element.dataset.shown = "yes";
  };

  const kinds = { timeline, prices, days };
  const drawAll = (within) => within.querySelectorAll("[data-chart]").forEach((element) => {
    if (element.dataset.begun) return;
    element.dataset.begun = "yes";
    Promise.resolve(kinds[element.dataset.chart](element)).catch((error) => {
      const waiting = element.querySelector(".waiting");
      if (waiting) waiting.textContent = String(error.message || error);
    });
  });
  drawAll(document);
  // a month that was being added up comes in later
  new MutationObserver(() => drawAll(document)).observe(document.getElementById("main"), { childList: true, subtree: true });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => location.reload());
})();

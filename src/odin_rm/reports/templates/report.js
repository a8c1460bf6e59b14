// The figures of the page: drawn by plotly in the colours of the page, zoomed and read by mouse or by keyboard.
(() => {
  "use strict";
  const charts = JSON.parse(document.getElementById("charts").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const SVG = "http://www.w3.org/2000/svg";

  const variable = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const colourOf = (trace) => trace.meta[dark.matches ? "dark" : "light"];
  const faint = (colour, alpha) => {
    const part = (at) => parseInt(colour.slice(at, at + 2), 16);
    return `rgba(${part(1)},${part(3)},${part(5)},${alpha})`;
  };

  function themed(spec, hidden) {
    const ink = variable("--ink"), soft = variable("--soft"), line = variable("--line"), card = variable("--card");
    const data = spec.data.map((trace) => {
      const colour = colourOf(trace);
      const own = { ...trace, visible: !hidden.has(trace.meta.entry) };
      if (trace.meta.band) return { ...own, fillcolor: faint(colour, dark.matches ? 0.25 : 0.18) };
      own.marker = { ...trace.marker, color: colour };
      if (trace.line) own.line = { ...trace.line, color: colour };
      if (trace.error_y) own.error_y = { ...trace.error_y, color: trace.type === "bar" ? ink : colour };
      own.hoverlabel = { bgcolor: card, bordercolor: colour, font: { color: ink, size: 13 }, align: "left" };
      return own;
    });
    const axis = { gridcolor: line, zerolinecolor: soft, linecolor: line, tickcolor: line };
    const layout = {
      ...spec.layout,
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: soft, family: getComputedStyle(document.body).fontFamily, size: 13 },
      xaxis: { ...axis, ...spec.layout.xaxis },
      yaxis: { ...axis, ...spec.layout.yaxis },
      annotations: spec.layout.annotations.map((note) => ({ ...note, bgcolor: card, font: { ...note.font, color: soft } })),
      shapes: spec.layout.shapes.map((shape) => ({ ...shape, fillcolor: soft, line: { ...shape.line, color: soft } })),
    };
    return [data, layout];
  }

  // Around the middle of a swatch of 18 by 10.
  const SHAPES = {
    circle: "M5.5 5a3.5 3.5 0 1 0 7 0a3.5 3.5 0 1 0 -7 0Z",
    square: "M6 2h6v6h-6Z",
    diamond: "M9 .8L13.2 5L9 9.2L4.8 5Z",
    "triangle-up": "M9 1L13.2 8.5H4.8Z",
    "triangle-down": "M9 9L4.8 1.5H13.2Z",
    cross: "M7.6 1h2.8v2.6h2.6v2.8h-2.6v2.6h-2.8v-2.6h-2.6v-2.8h2.6Z",
    x: "M5.6 2.6L6.6 1.6L9 4L11.4 1.6L12.4 2.6L10 5L12.4 7.4L11.4 8.4L9 6L6.6 8.4L5.6 7.4L8 5Z",
    star: "M9 .4L10.2 3.6L13.6 3.7L10.9 5.8L11.8 9.1L9 7.2L6.2 9.1L7.1 5.8L4.4 3.7L7.8 3.6Z",
    bar: "M3 0H15V10H3Z",
  };

  function swatch(trace) {
    const svg = document.createElementNS(SVG, "svg");
    const add = (path, attributes) => {
      const shape = document.createElementNS(SVG, "path");
      shape.setAttribute("d", path);
      for (const [name, value] of Object.entries(attributes)) shape.setAttribute(name, value);
      svg.append(shape);
    };
    svg.setAttribute("width", "18");
    svg.setAttribute("height", "10");
    svg.setAttribute("aria-hidden", "true");
    if (trace.type === "bar") {
      add(SHAPES.bar, { opacity: trace.opacity });
      return svg;
    }
    if (trace.mode.includes("lines")) {
      add("M0 5H18", { "stroke-width": 2.2, ...(trace.line.dash === "dash" && { "stroke-dasharray": "5 3" }) });
    }
    if (trace.mode.includes("markers")) {
      const open = trace.marker.symbol.endsWith("-open");
      add(SHAPES[trace.marker.symbol.replace("-open", "")], { "stroke-width": 1, "fill-opacity": open ? 0 : 1 });
    }
    return svg;
  }

  class Figure {
    constructor(root, spec) {
      this.root = root;
      this.spec = spec;
      this.hidden = new Set();
      this.series = spec.data.filter((trace) => !trace.meta.band);
      this.at = { series: 0, point: -1 };
      this.live = root.querySelector("div.live");
      this.canvas = root.querySelector(".canvas");
      this.reading = root.querySelector(".reading");
      for (const part of root.querySelectorAll("[hidden]")) part.hidden = false;
      this.addLegend(root.querySelector(".legend"));
      for (const button of root.querySelectorAll("[data-do]")) {
        button.addEventListener("click", () => this.zoom(button.dataset.do));
      }
      this.live.addEventListener("keydown", (event) => this.key(event));
      if (spec.layout.height) this.canvas.style.height = `${spec.layout.height}px`;
      const config = { displayModeBar: false, responsive: true, scrollZoom: false, doubleClick: "reset" };
      this.ready = Plotly.newPlot(this.canvas, ...themed(spec, this.hidden), config).then(() => {
        this.canvas.on("plotly_hover", (event) => this.say(event.points[0].customdata));
      });
    }

    addLegend(place) {
      this.leaders = this.spec.names.map((_, entry) => this.series.find((trace) => trace.meta.entry === entry));
      this.swatches = this.leaders.map((trace) => swatch(trace));
      this.spec.names.forEach((text, entry) => {
        const button = document.createElement("button");
        const name = document.createElement("span");
        button.type = "button";
        button.setAttribute("aria-pressed", "true");
        name.textContent = text;
        button.append(this.swatches[entry], name);
        button.addEventListener("click", () => {
          const shown = this.hidden.has(entry);
          if (shown) this.hidden.delete(entry);
          else this.hidden.add(entry);
          button.setAttribute("aria-pressed", String(shown));
          this.draw();
        });
        place.append(button);
      });
      this.paintLegend();
    }

    paintLegend() {
      this.swatches.forEach((svg, entry) => {
        for (const shape of svg.children) {
          shape.setAttribute("stroke", colourOf(this.leaders[entry]));
          shape.setAttribute("fill", colourOf(this.leaders[entry]));
        }
      });
    }

    draw() {
      this.paintLegend();
      Plotly.react(this.canvas, ...themed(this.spec, this.hidden));
    }

    say(text) {
      this.reading.textContent = text || "";
    }

    zoom(how) {
      if (how === "reset") {
        const whole = {};
        for (const name of ["xaxis", "yaxis"]) {
          const { range, autorange } = this.spec.layout[name];
          if (range) whole[`${name}.range`] = [...range];
          else whole[`${name}.autorange`] = autorange || true;
        }
        Plotly.relayout(this.canvas, whole);
        this.say("The whole figure is shown.");
        return;
      }
      const factor = how === "in" ? 0.7 : 1 / 0.7;
      const change = {};
      for (const name of ["xaxis", "yaxis"]) {
        const [low, high] = this.canvas._fullLayout[name].range;
        const middle = (low + high) / 2, half = ((high - low) / 2) * factor;
        change[`${name}.range`] = [middle - half, middle + half];
      }
      Plotly.relayout(this.canvas, change);
      this.say(how === "in" ? "Zoomed in." : "Zoomed out.");
    }

    key(event) {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const steps = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] };
      const zooms = { "+": "in", "=": "in", "-": "out", "0": "reset" };
      if (steps[event.key]) this.step(...steps[event.key]);
      else if (zooms[event.key]) this.zoom(zooms[event.key]);
      else return;
      event.preventDefault();
    }

    step(seriesStep, pointStep) {
      const shown = this.series.map((_, number) => number).filter((number) => !this.hidden.has(this.series[number].meta.entry));
      if (!shown.length) return;
      let place = Math.max(0, shown.indexOf(this.at.series));
      place = (place + seriesStep + shown.length) % shown.length;
      const trace = this.series[shown[place]];
      if (!trace.customdata.length) return;
      const point = Math.min(trace.customdata.length - 1, Math.max(0, this.at.point + pointStep));
      this.at = { series: shown[place], point };
      this.say(trace.customdata[point]);
      const curve = this.spec.data.indexOf(trace);
      Plotly.Fx.hover(this.canvas, [{ curveNumber: curve, pointNumber: point }]);
    }
  }

  document.documentElement.classList.add("live");
  const figures = [];
  for (const root of document.querySelectorAll("figure.chart")) {
    figures.push(new Figure(root, charts[root.id.slice("chart-".length)]));
  }
  // Paper cannot unfold anything. The numbers stay folded: the pictures show them.
  const folded = () => document.querySelectorAll("details:not(.numbers):not([open])");
  let unfolded = [];
  addEventListener("beforeprint", () => {
    unfolded = [...folded()];
    for (const part of unfolded) part.open = true;
  });
  addEventListener("afterprint", () => {
    for (const part of unfolded) part.open = false;
  });
  dark.addEventListener("change", () => figures.forEach((figure) => figure.draw()));
  Promise.all(figures.map((figure) => figure.ready)).then(() => document.documentElement.classList.add("drawn"));
})();

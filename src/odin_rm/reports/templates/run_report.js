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
      shapes: spec.layout.shapes.map((shape) => ({ ...shape, line: { ...shape.line, color: soft } })),
    };
    return [data, layout];
  }

  function swatch(trace) {
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("width", "18");
    svg.setAttribute("height", "10");
    svg.setAttribute("aria-hidden", "true");
    const open = (trace.marker || {}).symbol && trace.marker.symbol.endsWith("-open");
    if (trace.type !== "bar" && trace.mode !== "markers") {
      const line = document.createElementNS(SVG, "path");
      line.setAttribute("d", "M0 5H18");
      line.setAttribute("stroke-width", "2.5");
      if (trace.line.dash === "dash") line.setAttribute("stroke-dasharray", "5 3");
      svg.append(line);
    } else {
      const dot = document.createElementNS(SVG, trace.type === "bar" ? "rect" : "circle");
      const place = trace.type === "bar" ? { x: 3, y: 0, width: 12, height: 10 } : { cx: 9, cy: 5, r: 4 };
      for (const [name, value] of Object.entries(place)) dot.setAttribute(name, value);
      if (open) dot.setAttribute("fill-opacity", "0");
      dot.setAttribute("stroke-width", "1.5");
      svg.append(dot);
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
        svg.firstChild.setAttribute("stroke", colourOf(this.leaders[entry]));
        svg.firstChild.setAttribute("fill", colourOf(this.leaders[entry]));
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
        Plotly.relayout(this.canvas, { "xaxis.autorange": true, "yaxis.autorange": true });
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

// Line charts with a mark at the chosen step, which moves without drawing the chart again.

import uPlot from "./uplot.js";
import { element } from "./format.js";

export const LINES = ["--line-1", "--line-2", "--line-3", "--line-4", "--line-5", "--line-6"];
const DASHES = [[], [6, 3], [2, 3], [8, 3, 2, 3], [12, 4], [4, 4]];

export function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

export class Chart {
  constructor(label, { height = 180 } = {}) {
    this.label = label;
    this.height = height;
    this.holder = element("div", { class: "chart", role: "img", "aria-label": label });
    this.mark = element("div", { class: "mark" });
    this.legend = element("ul", { class: "legend" });
    this.root = element("div", {}, this.holder, this.legend);
    this.step = 0;
    new ResizeObserver(() => this.#fit()).observe(this.holder);
  }

  // Series of one length over steps: {name, values, axis: "y" or "z", log}.
  draw(steps, series, { logarithmic = false } = {}) {
    this.last = [steps, series, { logarithmic }];
    this.plot?.destroy();
    const ink = colour("--muted");
    // Lines where there are numbers: logarithmic scales would have nine a decade.
    const filter = (plot, splits, index, ...others) => plot.axes[index].filter(plot, splits, index, ...others);
    const axis = { stroke: ink, grid: { stroke: colour("--rule"), width: 1, filter }, ticks: { stroke: colour("--rule"), filter } };
    const positive = series.every(({ values }) => values.some((value) => value > 0));
    const distribution = logarithmic && positive ? 3 : 1;
    const shown = series.map(({ name, values }, index) => ({
      label: name,
      stroke: colour(LINES[index % LINES.length]),
      width: index ? 1.25 : 2,
      dash: DASHES[index % DASHES.length],
      points: { show: steps.length < 2 },
      spanGaps: true,
      values,
    }));
    const clean = (value) => (!Number.isFinite(value) || (distribution === 3 && value <= 0) ? null : value);
    this.plot = new uPlot(
      {
        width: this.#width(),
        height: this.height,
        legend: { show: false },
        cursor: { show: false },
        scales: { x: { time: false }, y: { distr: distribution } },
        axes: [axis, { ...axis, size: 64, space: 22, values: (_, ticks) => ticks.map((tick) => (tick === null ? "" : Number(tick.toPrecision(3)))) }],
        series: [{}, ...shown.map(({ values, ...own }) => own)],
      },
      [steps, ...shown.map(({ values }) => Array.from(values, clean))],
      this.holder,
    );
    this.plot.over.append(this.mark);
    this.legend.replaceChildren(
      ...series.map(({ name }, index) => {
        const line = element("span", { class: `line line-${index % LINES.length}`, "aria-hidden": "true" });
        return element("li", {}, line, name);
      }),
    );
    this.moveTo(this.step);
  }

  redraw() {
    if (this.last) this.draw(...this.last);
  }

  moveTo(step) {
    this.step = step;
    if (this.plot) this.mark.style.transform = `translateX(${Math.round(this.plot.valToPos(step, "x"))}px)`;
  }

  #width() {
    return Math.max(200, this.holder.clientWidth);
  }

  #fit() {
    if (this.plot && this.plot.width !== this.#width()) {
      this.plot.setSize({ width: this.#width(), height: this.height });
      this.moveTo(this.step);
    }
  }
}

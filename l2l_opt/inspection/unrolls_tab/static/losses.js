// The loss of each optimizer, and what it is at the step.

import { Chart } from "./chart.js";
import { element, number, setText } from "./format.js";
import uPlot from "./uplot.js";

export class Losses {
  constructor() {
    this.chart = new Chart("Loss of each optimizer over the run", { height: 220 });
    this.body = element("tbody");
    const headings = ["optimizer", "loss at the step", "final loss"].map((text) => element("th", { scope: "col" }, text));
    const caption = element("caption", {}, "Losses");
    const table = element("table", {}, caption, element("thead", {}, element("tr", {}, ...headings)), this.body);
    const wide = element("div", { class: "wide", tabindex: "0", role: "group", "aria-label": "Table of losses" }, table);
    this.root = element(
      "section",
      { "aria-label": "Losses" },
      element("h2", {}, "Loss"),
      element("div", { class: "losses" }, this.chart.root, wide),
    );
    this.unrolls = [];
  }

  setUnrolls(unrolls) {
    this.unrolls = unrolls;
    const joined = uPlot.join(unrolls.map((own) => [own.steps, Array.from(own.losses)]));
    const series = unrolls.map((own, index) => ({ name: own.title, values: joined[index + 1].map((value) => value ?? NaN) }));
    this.chart.draw(joined[0], series, { logarithmic: true });
    this.cells = unrolls.map((own) => [element("td", {}, ""), element("td", {}, number(finalLoss(own.losses)))]);
    const rows = unrolls.map((own, index) => element("tr", {}, element("th", { scope: "row" }, own.title), ...this.cells[index]));
    this.body.replaceChildren(...rows);
  }

  moveTo(step) {
    this.chart.moveTo(step);
    this.unrolls.forEach((own, index) => {
      const point = own.pointOf(step);
      setText(this.cells[index][0], number(own.losses[point]));
    });
  }

  redraw() {
    this.chart.redraw();
  }
}

// The mean of the last tenth of the recorded steps, at least ten of them.
function finalLoss(losses) {
  const tail = losses.slice(-Math.max(10, Math.ceil(losses.length / 10)));
  return tail.reduce((sum, value) => sum + value, 0) / tail.length;
}

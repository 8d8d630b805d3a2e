// One weight over the run: its value, gradient, update and hidden units.

import { Chart } from "./chart.js";
import { element, number, Numbers, setText, spread } from "./format.js";
import { HeatMap } from "./heat.js";
import { columnOf, weightName } from "./tensor.js";

const WHAT = ["value", "gradient", "update"];
const ROWS = 12;

export class WeightView {
  constructor(choose, identifier) {
    this.select = element("select", { id: `${identifier}-weight`, onchange: () => choose(Number(this.select.value)) });
    this.words = element("p");
    this.charts = WHAT.map((name) => new Chart(`${name} of the weight over the run`, { height: 130 }));
    this.numbers = new Numbers("the weight over the run", ["step", ...WHAT]);
    this.heat = new HeatMap("Hidden units of the weight over the run");
    this.hiddenNumbers = new Numbers("hidden units at the step", ["unit", "value"]);
    this.hiddenWords = element("p", { class: "note" });
    this.hidden = element("div", {}, this.heat.root, this.hiddenNumbers.root);
    this.root = element(
      "div",
      { role: "group", "aria-label": "Weight" },
      element("h3", {}, "Weight"),
      element("p", {}, element("label", { for: `${identifier}-weight` }, "weight "), this.select),
      this.words,
      ...this.charts.flatMap((chart) => [chart.root]),
      this.numbers.root,
      element("h4", {}, "Hidden units"),
      this.hiddenWords,
      this.hidden,
    );
  }

  async setWeight(unroll, index, place) {
    const asked = (this.asked = [unroll, index, place]);
    const tensor = unroll.tensors[index];
    this.select.replaceChildren(
      ...tensor.sampled.map((flat, own) => {
        const notes = tensor.followed.includes(own) ? ", with hidden units" : "";
        return element("option", { value: own, selected: own === place }, weightName(tensor, flat) + notes);
      }),
    );
    const { values, hidden, columns } = await unroll.of("weight", { tensor: index, weight: place });
    if (this.asked !== asked) return;
    const points = unroll.steps.length;
    const rows = WHAT.map((_, row) => values.values.subarray(row * points, (row + 1) * points));
    Object.assign(this, { unroll, tensor, place, rows, units: hidden, columns });
    this.charts.forEach((chart, row) => chart.draw(unroll.steps, [{ name: WHAT[row], values: rows[row] }]));
    const some = hidden.shape[0] > 0;
    this.hidden.hidden = !some;
    const none = unroll.units
      ? "Hidden units of this weight are not recorded; those of weights marked so in the list are."
      : "This optimizer keeps no hidden units.";
    setText(this.hiddenWords, some ? "A row a unit, a column a step. Red: above zero, blue: below, strongest at ±1." : none);
    if (some) this.heat.draw(hidden.values, hidden.shape[0], hidden.shape[1], 1);
    this.moveTo(this.point ?? 0);
  }

  moveTo(point) {
    this.point = point;
    if (!this.rows || this.rows[0].length <= point) return;
    const step = this.unroll.steps[point];
    const name = weightName(this.tensor, this.tensor.sampled[this.place]);
    const [value, gradient, update] = this.rows.map((row) => number(row[point]));
    setText(this.words, `${name} at step ${step}: value ${value}, gradient ${gradient}, update ${update}.`);
    for (const chart of this.charts) chart.moveTo(step);
    this.numbers.show(() =>
      spread(this.rows[0].length, ROWS, point).map((own) => [String(this.unroll.steps[own]), ...this.rows.map((row) => number(row[own]))]),
    );
    const [units, columns] = this.units.shape;
    if (!units) return;
    const column = columnOf(this.columns, point);
    this.heat.moveTo((column + 0.5) / columns);
    this.heat.describe(`${units} hidden units of ${name} over ${this.rows[0].length} recorded steps, marked at step ${step}`);
    this.hiddenNumbers.show(() =>
      Array.from({ length: units }, (_, unit) => [String(unit), number(this.units.values[unit * columns + column])]),
    );
  }

  redraw() {
    for (const chart of this.charts) chart.redraw();
    this.heat.redraw();
  }
}

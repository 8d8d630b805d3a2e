// One tensor over the run: norms, and a heat map of the updates of its sampled weights.

import { Chart } from "./chart.js";
import { element, number, Numbers, setText, spread } from "./format.js";
import { HeatMap, limitOf } from "./heat.js";

const SETTLED = 0.01; // Of its largest steps, below which a tensor has as good as stopped.
const ROWS = 12;

export class TensorView {
  constructor() {
    this.title = element("h3");
    this.words = element("p");
    this.norms = new Chart("Norms of the tensor over the run");
    this.normNumbers = new Numbers("norms over the run", ["step", "update", "gradient", "update over tensor"]);
    this.heat = new HeatMap("Updates of the tensor's weights over the run");
    this.heatWords = element("p", { class: "note" });
    this.heatNumbers = new Numbers("updates at the step", ["weight", "update"]);
    this.root = element(
      "div",
      { role: "group", "aria-label": "Tensor" },
      this.title,
      this.words,
      this.norms.root,
      this.normNumbers.root,
      element("h4", {}, "Update of each weight against step"),
      this.heat.root,
      this.heatWords,
      this.heatNumbers.root,
    );
  }

  // The view whose updates this one's are compared with.
  setBeside(view) {
    this.beside = view;
  }

  // How many times as large as those of the run beside it the updates are at a step; nothing where there is none.
  #comparison(point) {
    const other = this.beside;
    if (!other?.unroll || other.root.closest("[hidden]") || other.tensor.name !== this.tensor.name) return "";
    const theirs = other.sizes[other.unroll.pointOf(this.unroll.steps[point])];
    if (!Number.isFinite(this.sizes[point] / theirs)) return "";
    return ` That is ${number(this.sizes[point] / theirs)} times the update under ${other.unroll.title}.`;
  }

  async setTensor(unroll, index) {
    const asked = (this.asked = [unroll, index]);
    const { quantities, updates, columns } = await unroll.of("tensor", { tensor: index });
    if (this.asked !== asked) return;
    Object.assign(this, { unroll, tensor: unroll.tensors[index], updates, columns });
    const points = unroll.steps.length;
    const row = (name) => {
      const at = unroll.quantities.indexOf(name);
      return quantities.values.subarray(at * points, (at + 1) * points);
    };
    [this.sizes, this.gradients, this.relative] = ["update_rms", "gradient_rms", "update_over_parameter"].map(row);
    setText(this.title, `Tensor ${this.tensor.name}`);
    this.stops = stopOf(unroll.steps, this.sizes);
    const series = [
      { name: "update, root mean square", values: this.sizes },
      { name: "gradient, root mean square", values: this.gradients },
      { name: "update over tensor", values: this.relative },
    ];
    this.norms.draw(unroll.steps, series, { logarithmic: true });
    this.limit = limitOf(updates.values);
    this.heat.draw(updates.values, updates.shape[0], updates.shape[1], this.limit);
    setText(this.heatWords, `A row a weight, ${updates.shape[0]} of ${size(this.tensor)}; a column a step. Red: up, blue: down, at most ±${number(this.limit)}.`);
    this.moveTo(this.point ?? 0, this.place ?? 0);
  }

  moveTo(point, place) {
    this.point = point;
    this.place = place;
    if (!this.tensor || this.sizes.length <= point) return;
    const step = this.unroll.steps[point];
    const now = Number.isNaN(this.gradients[point])
      ? `At step ${step} it has no gradient.`
      : `At step ${step} its update is ${number(this.sizes[point])}, its gradient ${number(this.gradients[point])}.`;
    const end =
      this.stops === null
        ? "It moves to the end."
        : `It stops moving at step ${this.stops}: from there on its updates are below a hundredth of its largest.`;
    setText(this.words, `${now}${this.#comparison(point)} ${end}`);
    this.norms.moveTo(step);
    this.normNumbers.show(() =>
      spread(this.sizes.length, ROWS, point).map((own) =>
        [this.unroll.steps[own], ...[this.sizes, this.gradients, this.relative].map((values) => number(values[own]))].map(String),
      ),
    );
    const column = columnOf(this.columns, point);
    const [rows, columns] = this.updates.shape;
    this.heat.moveTo((column + 0.5) / columns, place, rows);
    this.heat.describe(`Updates of ${rows} weights of ${this.tensor.name} over ${this.sizes.length} recorded steps, marked at step ${step}`);
    this.heatNumbers.show(() =>
      this.tensor.sampled.map((flat, own) => [weightName(this.tensor, flat), number(this.updates.values[own * columns + column])]),
    );
  }

  redraw() {
    this.norms.redraw();
    this.heat.redraw();
  }
}

// The step from which on updates stay below a hundredth of the largest; null where they do not.
export function stopOf(steps, sizes) {
  const largest = sizes.reduce((most, value) => (value > most ? value : most), 0);
  let last = sizes.length - 1;
  while (last >= 0 && !(sizes[last] >= SETTLED * largest)) last--;
  return largest > 0 && last + 1 < sizes.length ? steps[last + 1] : null;
}

export function columnOf(columns, point) {
  let column = 0;
  while (column + 1 < columns.length && columns[column + 1] <= point) column++;
  return column;
}

export function weightName({ name, shape }, flat) {
  const places = [];
  for (const length of shape.toReversed()) {
    places.unshift(flat % length);
    flat = Math.floor(flat / length);
  }
  return places.length ? `${name}[${places.join(", ")}]` : name;
}

function size({ shape }) {
  return shape.reduce((product, length) => product * length, 1);
}

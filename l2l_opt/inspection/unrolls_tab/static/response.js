// The rule's response at the state of a step, beside Adam's and the rule's own at step 0.

import { element, number, Numbers, setText } from "./format.js";
import { HeatMap } from "./heat.js";
import { weightName } from "./tensor.js";

const FLAT = 0.1;

export class ResponseView {
  constructor() {
    this.words = element("p");
    this.surfaces = ["the rule here", "Adam here", "the rule at step 0"].map((title) => new Surface(title));
    this.panels = element("div", { class: "surfaces" }, ...this.surfaces.map((surface) => surface.root));
    this.root = element("div", { role: "group", "aria-label": "Response" }, element("h3", {}, "Response"), this.words, this.panels);
  }

  async setTensor(unroll, index) {
    const asked = (this.asked = [unroll, index]);
    const { responses } = await unroll.of("response", { tensor: index });
    if (this.asked !== asked) return;
    Object.assign(this, { unroll, responses, tensor: unroll.tensors[index], shown: null });
    this.moveTo(this.point ?? 0);
  }

  moveTo(point) {
    this.point = point;
    if (!this.responses) return;
    this.panels.hidden = !this.responses.length;
    if (!this.responses.length) {
      setText(this.words, "No response of this tensor is recorded: it has one under a learned optimizer, where there was time for it.");
      return;
    }
    const step = this.unroll.steps[point];
    const before = this.responses.filter((response) => response.step <= step);
    const here = before.at(-1) ?? this.responses[0];
    if (here === this.shown) return;
    this.shown = here;
    const first = this.responses[0];
    const name = weightName(this.tensor, this.tensor.sampled[this.tensor.probe]);
    setText(this.words, `Update of ${name} for a gradient (across) and a momentum (up, the mean of five gradients before), from the state at step ${here.step}, the last recorded up to here.`);
    this.surfaces[0].draw(here, 0, `the rule at step ${here.step}`, name);
    this.surfaces[1].draw(here, 1, `Adam at step ${here.step}, learning rate 1`, name);
    this.surfaces[2].draw(first, 0, `the rule at step ${first.step}`, name);
  }

  redraw() {
    for (const surface of this.surfaces) surface.map.redraw();
  }
}

class Surface {
  constructor(title) {
    this.title = element("h4", {}, title);
    this.map = new HeatMap(title, { square: true });
    this.words = element("p", { class: "note" });
    this.numbers = new Numbers(title, ["momentum", "gradient", "update"]);
    this.root = element("figure", {}, this.title, this.map.root, this.words, this.numbers.root);
  }

  draw(response, index, title, name) {
    const count = response.surfaces.shape[2];
    const values = response.surfaces.values.subarray(index * count * count, (index + 1) * count * count);
    const largest = values.reduce((most, value) => Math.max(most, Math.abs(value) || 0), 0) || 1;
    const { reach, gradient } = response;
    setText(this.title, title);
    this.map.draw(values, count, count, largest, { upwards: true });
    const share = Math.max(0, Math.min(1, (gradient / reach + 1) / 2));
    const row = Math.round(Math.max(0, Math.min(1, (1 - response.momentum / reach) / 2)) * (count - 1));
    this.map.moveTo((share * (count - 1) + 0.5) / count, row, count);
    this.map.describe(`Update of ${name}: ${title}. ${saturation(values, count)}`);
    setText(this.words, `Gradient and momentum to ±${number(reach)}, update to ±${number(largest)}; the line is at the gradient, ${number(gradient)}, the frame at the momentum, ${number(response.momentum)}. ${saturation(values, count)}`);
    const axis = Array.from({ length: count }, (_, place) => reach * ((2 * place) / (count - 1) - 1));
    const some = [0, (count - 1) / 2, count - 1].map(Math.floor);
    this.numbers.show(() =>
      some.flatMap((row) => some.map((column) => [axis[row], axis[column], values[row * count + column]].map(number))),
    );
  }
}

// Whether the update still grows at the ends of the gradients, without momentum.
export function saturation(values, count) {
  const middle = (count - 1) / 2;
  const row = Array.from(values.subarray(middle * count, (middle + 1) * count));
  const updateAt = (column) => {
    const from = Math.floor(column);
    return row[from] + (column - from) * (row[Math.ceil(column)] - row[from]);
  };
  const spanOf = (from, to) => Math.abs(updateAt(to) - updateAt(from));
  const whole = spanOf(0, count - 1);
  if (!(whole > 0)) return "It does not depend on the gradient.";
  const quarter = (count - 1) / 4;
  const share = 1 - spanOf(quarter, count - 1 - quarter) / whole;
  const percent = `${Math.round(100 * share)} %`;
  return share < FLAT
    ? `Saturated: without momentum, the outer half of the gradients adds ${percent} of the update.`
    : `Not saturated: without momentum, the outer half of the gradients adds ${percent} of the update.`;
}

// One run: which unroll of it, its table of tensors, and the chosen tensor and weight.

import { element, setText } from "./format.js";
import { ResponseView } from "./response.js";
import { TensorTable } from "./tensors.js";
import { TensorView } from "./tensor.js";
import { WeightView } from "./weight.js";

export class Panel {
  // `actions` are {run, unroll, tensor, weight, order}: what is called when the reader chooses.
  constructor(title, identifier, actions, { optional = false } = {}) {
    this.optional = optional;
    this.select = element("select", { id: `${identifier}-run`, onchange: () => actions.run(this.select.value) });
    this.outer = element("input", { type: "range", min: 0, max: 0, value: 0, id: `${identifier}-outer`, oninput: () => actions.unroll(this.unrolls[Number(this.outer.value)]) });
    this.outerOutput = element("output", { for: `${identifier}-outer` });
    this.outerRow = element("div", { class: "player" }, element("label", { for: `${identifier}-outer` }, "Outer step"), this.outer, this.outerOutput);
    this.problem = element("p", { class: "problem", role: "status", "aria-label": `Problems of ${title}` });
    this.table = new TensorTable(actions.tensor, actions.order);
    this.tensor = new TensorView();
    this.weight = new WeightView(actions.weight, identifier);
    this.response = new ResponseView();
    const tensors = element("div", { role: "group", "aria-label": "Tensors" }, element("h3", {}, "Tensors"), this.table.root, this.table.words);
    const sides = [[tensors, this.tensor.root], [this.weight.root, this.response.root]];
    this.content = element("div", { class: "content" }, ...sides.map((side) => element("div", { class: "side" }, ...side)));
    this.choice = element("p", {}, element("label", { for: `${identifier}-run` }, `${title} `), this.select);
    this.heading = element("h2");
    this.root = element("section", { class: "panel", "aria-label": title }, this.heading, this.outerRow, this.problem, this.content);
    this.root.hidden = true;
  }

  setRuns(runs, chosen) {
    const none = this.optional ? [element("option", { value: "" }, "none: choose a run to compare with")] : [];
    const names = runs.map(({ run }) => element("option", { value: run, selected: run === chosen }, run));
    this.select.replaceChildren(...none, ...names);
    this.select.value = chosen ?? "";
  }

  setUnrolls(unrolls, chosen) {
    this.unrolls = unrolls;
    this.outerRow.hidden = unrolls.length < 2;
    this.outer.max = unrolls.length - 1;
    const place = Math.max(0, unrolls.indexOf(chosen));
    this.outer.value = place;
    const words = `outer step ${unrolls[place]} of ${unrolls.at(-1)}`;
    this.outer.setAttribute("aria-valuetext", words);
    setText(this.outerOutput, words);
  }

  say(text) {
    setText(this.problem, text);
  }

  // What is chosen: {tensor: name, weight: place, order}.
  async setUnroll(unroll, chosen) {
    const fresh = this.unroll !== unroll;
    this.unroll = unroll;
    this.root.hidden = !unroll;
    if (!unroll) return;
    setText(this.heading, unroll.title);
    const index = unroll.names.get(chosen.tensor) ?? 0;
    const tensor = unroll.tensors[index];
    if (fresh) this.table.setUnroll(unroll);
    this.table.setOrder(chosen.order.key, chosen.order.up);
    this.table.setChosen(tensor.name);
    this.place = Math.min(chosen.weight, tensor.sampled.length - 1);
    await Promise.all([
      this.tensor.setTensor(unroll, index),
      this.weight.setWeight(unroll, index, this.place),
      this.response.setTensor(unroll, index),
    ]);
  }

  moveTo(step) {
    if (!this.unroll) return;
    const point = this.unroll.pointOf(step);
    this.tensor.moveTo(point, this.place);
    this.weight.moveTo(point);
    this.response.moveTo(point);
    this.wanted = point;
    const found = this.unroll.table(point);
    if (!(found instanceof Promise)) return this.#show(found, point);
    this.table.root.setAttribute("aria-busy", "true");
    const unroll = this.unroll;
    return found.then(
      (table) => unroll === this.unroll && point === this.wanted && this.#show(table, point),
      (error) => this.say(error.message),
    );
  }

  #show({ values, offset }, point) {
    this.table.show(values, offset, this.unroll.steps[point]);
    this.table.root.removeAttribute("aria-busy");
  }

  redraw() {
    for (const view of [this.tensor, this.weight, this.response]) view.redraw();
  }
}

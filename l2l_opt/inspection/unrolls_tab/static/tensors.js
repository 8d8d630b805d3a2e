// The table of tensors at a step, sorted by any column. While one scrubs, rows in sight alone are filled; the others are
// as soon as one rests, so that readers of the whole table find it whole.

import { element, number, setText } from "./format.js";

const REST = 150; // Milliseconds.
const BEYOND = 3; // Rows above and below those in sight.
const KINDS = ["scalar", "vector", "matrix"];

export function kindOf({ shape }) {
  return KINDS[shape.length] ?? "filter";
}

function sizeOf({ shape }) {
  return shape.reduce((product, length) => product * length, 1);
}

const COLUMNS = [
  { key: "name", title: "tensor", of: (tensor) => tensor.name },
  { key: "kind", title: "kind", of: kindOf },
  { key: "size", title: "size", of: sizeOf },
  { key: "update_over_parameter", title: "step / tensor", help: "size of the update over that of the tensor" },
  { key: "cosine_with_descent", title: "cos descent", help: "1 where the update goes straight down the gradient, 0 across it, below 0 uphill" },
  { key: "cosine_with_adam", title: "cos Adam", help: "1 where the update goes where Adam's would, below 0 against it" },
  { key: "skipped", title: "skipped", help: "share of steps so far in which the tensor was left out" },
];

export class TensorTable {
  // `choose(name)` is called when a tensor is picked, `sorted(key, up)` when the order changes.
  constructor(choose, sorted) {
    this.choose = choose;
    this.sorted = sorted;
    this.caption = element("caption");
    this.heads = COLUMNS.map((column) => {
      const button = element("button", { type: "button", onclick: () => this.#toggle(column.key) }, column.title);
      const mark = element("span", { "aria-hidden": "true", class: "arrow" });
      button.append(mark);
      return element("th", { scope: "col", title: column.help }, button);
    });
    this.body = element("tbody");
    const head = element("thead", {}, element("tr", {}, ...this.heads));
    const table = element("table", { class: "tensors" }, this.caption, head, this.body);
    this.root = element("div", { class: "wide tall", tabindex: "0", role: "group", "aria-label": "Table of tensors" }, table);
    const meanings = COLUMNS.filter(({ help }) => help).map(({ title, help }) => `${title}: ${help}.`);
    this.words = element("p", { class: "note" }, `Titles sort, a second time the other way round. ${meanings.join(" ")}`);
    this.order = { key: "", up: true };
    this.rows = [];
    this.root.addEventListener("scroll", () => this.#look());
    new ResizeObserver(() => this.#look()).observe(this.root);
  }

  setUnroll(unroll) {
    this.unroll = unroll;
    this.at = COLUMNS.map(({ key, of }) => (of ? -1 : unroll.quantities.indexOf(key)));
    this.fixed = unroll.tensors.map((tensor) => COLUMNS.map(({ of }) => (of ? of(tensor) : null)));
    this.rows = unroll.tensors.map((_, index) => {
      const button = element("button", { type: "button", "aria-pressed": "false" });
      const cells = COLUMNS.slice(1).map(() => element("td", {}, ""));
      const row = { button, cells, index, root: element("tr", {}, element("th", { scope: "row" }, button), ...cells) };
      button.addEventListener("click", () => this.choose(this.unroll.tensors[row.index].name));
      return row;
    });
    this.body.replaceChildren(...this.rows.map((row) => row.root));
    this.values = null;
    clearTimeout(this.resting);
    this.#look();
  }

  setOrder(key, up) {
    this.order = { key, up };
    this.heads.forEach((head, column) => {
      const own = COLUMNS[column].key === key;
      if (own) head.setAttribute("aria-sort", up ? "ascending" : "descending");
      else head.removeAttribute("aria-sort");
      setText(head.querySelector(".arrow"), own ? (up ? "▲" : "▼") : "");
    });
    if (this.values) this.show(this.values, this.offset, this.step);
  }

  setChosen(name) {
    this.chosen = name;
    for (const row of this.rows) this.#press(row);
  }

  // One step: 50 ms are all there is for everything, so a cell is touched where its text changes alone.
  show(values, offset, step) {
    Object.assign(this, { values, offset, step });
    setText(this.caption, `${this.unroll.tensors.length} tensors at step ${step} of ${this.unroll.title}`);
    this.places = this.#places();
    this.#fill(...this.sight);
    clearTimeout(this.resting);
    this.resting = setTimeout(() => this.#fill(0, this.rows.length), REST);
  }

  // Which rows are in sight: measured where that changes, not at every step.
  #look() {
    const height = this.rows[0]?.root.offsetHeight || 1;
    const first = Math.floor(this.root.scrollTop / height) - BEYOND;
    const last = first + Math.ceil(this.root.clientHeight / height) + 2 * BEYOND;
    this.sight = [Math.max(0, first), Math.min(this.rows.length, Math.max(last, 2 * BEYOND))];
    if (this.values) this.#fill(...this.sight);
  }

  #fill(first, last) {
    for (let place = first; place < last; place++) {
      const [row, index] = [this.rows[place], this.places[place]];
      row.index = index;
      setText(row.button, this.fixed[index][0]);
      this.#press(row);
      for (let column = 1; column < COLUMNS.length; column++) {
        const fixed = this.fixed[index][column];
        setText(row.cells[column - 1], fixed === null ? number(this.#value(index, column)) : String(fixed));
      }
    }
  }

  #value(index, column) {
    return this.values[this.offset + index * this.unroll.quantities.length + this.at[column]];
  }

  #places() {
    const places = this.unroll.tensors.map((_, index) => index);
    const column = COLUMNS.findIndex(({ key }) => key === this.order.key);
    if (column < 0) return places;
    const of = (index) => this.fixed[index][column] ?? this.#value(index, column);
    const sign = this.order.up ? 1 : -1;
    return places.sort((a, b) => {
      const [x, y] = [of(a), of(b)];
      // What has no number is last, in either direction.
      if (x !== x || y !== y) return (x !== x) - (y !== y);
      return sign * (typeof x === "string" ? x.localeCompare(y, undefined, { numeric: true }) : x - y) || a - b;
    });
  }

  #press(row) {
    const pressed = String(this.unroll.tensors[row.index].name === this.chosen);
    if (row.button.getAttribute("aria-pressed") !== pressed) {
      row.button.setAttribute("aria-pressed", pressed);
      row.root.classList.toggle("chosen", pressed === "true");
    }
  }

  #toggle(key) {
    const up = this.order.key === key ? !this.order.up : true;
    this.sorted(key, up);
  }
}

// Heat maps of signed numbers: blue below zero, red above, the colour of the page at zero.

import { colour } from "./chart.js";
import { element } from "./format.js";

// What is beyond 99 % of magnitudes has the strongest colour, so that one number alone does not pale all others.
export function limitOf(values) {
  const sizes = Array.from(values, Math.abs).filter(Number.isFinite).sort((a, b) => a - b);
  return sizes[Math.floor(0.99 * (sizes.length - 1))] || sizes.at(-1) || 1;
}

export class HeatMap {
  constructor(label, { square = false } = {}) {
    this.canvas = element("canvas", { role: "img", "aria-label": label });
    this.mark = element("div", { class: "mark" });
    this.row = element("div", { class: "row-mark", hidden: true });
    this.frame = element("div", { class: square ? "heat square" : "heat" }, this.canvas, this.mark, this.row);
    this.root = this.frame;
  }

  describe(label) {
    this.canvas.setAttribute("aria-label", label);
  }

  // values[row * columns + column]; rows from the top, or from the bottom with `upwards`.
  draw(values, rows, columns, limit, { upwards = false } = {}) {
    this.last = [values, rows, columns, limit, { upwards }];
    this.canvas.width = Math.max(1, columns);
    this.canvas.height = Math.max(1, rows);
    const context = this.canvas.getContext("2d");
    const image = context.createImageData(this.canvas.width, this.canvas.height);
    const [paper, up, down] = ["--paper", "--up", "--down"].map((name) => channels(colour(name)));
    for (let row = 0; row < rows; row++) {
      const target = upwards ? rows - 1 - row : row;
      for (let column = 0; column < columns; column++) {
        const share = Math.max(-1, Math.min(1, values[row * columns + column] / limit));
        const end = share > 0 ? up : down;
        const size = Number.isNaN(share) ? 0 : Math.sqrt(Math.abs(share));
        const at = 4 * (target * columns + column);
        for (let i = 0; i < 3; i++) image.data[at + i] = paper[i] + (end[i] - paper[i]) * size;
        image.data[at + 3] = 255;
      }
    }
    context.putImageData(image, 0, 0);
  }

  redraw() {
    if (this.last) this.draw(...this.last);
  }

  // A line at a share of the width, and a frame around a row.
  moveTo(share, row = null, rows = 1) {
    this.mark.style.left = `${100 * share}%`;
    this.row.hidden = row === null;
    if (row !== null) {
      this.row.style.top = `${(100 * row) / rows}%`;
      this.row.style.height = `${100 / rows}%`;
    }
  }
}

function channels(hex) {
  return [1, 3, 5].map((start) => parseInt(hex.slice(start, start + 2), 16));
}

// The slider over inner steps: play, and arrows.

import { element, setText } from "./format.js";

const SECONDS = 20; // A whole run, however long.
const LEAST_FRAME = 1000 / 30;
const OWN_KEYS = "input, select, textarea, button, a, summary";

export class Player {
  // `move(point)` is called with every new point.
  constructor(move) {
    this.move = move;
    this.slider = element("input", { type: "range", min: 0, max: 0, value: 0, id: "inner-step", oninput: () => this.go(Number(this.slider.value)) });
    this.button = element("button", { type: "button", class: "play", onclick: () => this.toggle() }, "Play");
    this.output = element("output", { for: "inner-step" });
    const label = element("label", { for: "inner-step" }, "Inner step");
    this.root = element("div", { class: "player", role: "group", "aria-label": "Inner steps" }, this.button, label, this.slider, this.output);
    this.point = 0;
    this.steps = [0];
    document.addEventListener("keydown", (event) => this.#key(event));
  }

  setSteps(steps, point) {
    this.steps = steps;
    this.slider.max = steps.length - 1;
    this.go(point);
  }

  go(point) {
    this.point = Math.max(0, Math.min(this.steps.length - 1, point));
    this.slider.value = this.point;
    const words = `step ${this.steps[this.point]} of ${this.steps.at(-1)}`;
    this.slider.setAttribute("aria-valuetext", words);
    setText(this.output, words);
    this.move(this.point);
  }

  toggle() {
    if (this.playing) this.#stop();
    else this.#start();
  }

  #start() {
    if (this.point === this.steps.length - 1) this.go(0);
    this.button.textContent = "Pause";
    let [before, shown] = [performance.now(), this.point];
    const speed = Math.max(4, this.steps.length / SECONDS) / 1000;
    const frame = (now) => {
      if (now - before >= LEAST_FRAME) {
        shown += (now - before) * speed;
        before = now;
        if (Math.floor(shown) !== this.point) this.go(Math.floor(shown));
        if (this.point === this.steps.length - 1) return this.#stop();
      }
      this.playing = requestAnimationFrame(frame);
    };
    this.playing = requestAnimationFrame(frame);
  }

  #stop() {
    cancelAnimationFrame(this.playing);
    this.playing = null;
    this.button.textContent = "Play";
  }

  #key(event) {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const inside = event.target.closest?.(OWN_KEYS);
    const onSlider = event.target === this.slider;
    if (event.key === " " && (!inside || onSlider)) this.toggle();
    else if (inside && !onSlider) return;
    else if (event.key in MOVES) this.go(MOVES[event.key](this.point, event.shiftKey ? 10 : 1, this.steps.length));
    else return;
    event.preventDefault();
  }
}

const MOVES = {
  ArrowLeft: (point, by) => point - by,
  ArrowRight: (point, by) => point + by,
  Home: () => 0,
  End: (_, __, count) => count - 1,
};

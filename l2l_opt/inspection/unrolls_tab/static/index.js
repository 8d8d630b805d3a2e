// The tab: what is chosen, and what follows from it.

import { ask, Unrolls } from "./data.js";
import { element, setText } from "./format.js";
import { Losses } from "./losses.js";
import { Panel } from "./panel.js";
import { Player } from "./player.js";
import { followTheme, linkTo, readView } from "./view.js";

const MOST_LOSSES = 8;

export async function render() {
  document.documentElement.lang = "en";
  document.title = "Unrolls";
  document.head.append(element("meta", { name: "viewport", content: "width=device-width" }));
  const sheets = ["uplot.css", "style.css"].map((name) => {
    const link = element("link", { rel: "stylesheet", href: `static/${name}` });
    document.head.append(link);
    return new Promise((done) => (link.onload = link.onerror = done));
  });
  await Promise.all(sheets);
  await new Page().load();
}

class Page {
  constructor() {
    this.view = readView();
    this.unrolls = new Unrolls();
    this.player = new Player((point) => this.#move(point));
    this.losses = new Losses();
    this.panels = [
      new Panel("run", "first", this.#actions("run", "unroll")),
      new Panel("beside it", "second", this.#actions("beside", "besideUnroll"), { optional: true }),
    ];
    this.status = element("p", { class: "problem", role: "status", "aria-label": "Problems" });
    this.link = element("a", { href: "#", target: "_blank" }, "Link to this view");
    const reload = element("button", { type: "button", onclick: () => this.#reload() }, "Reload");
    this.controls = element("div", { class: "controls" }, this.player.root, element("div", { class: "links" }, this.link, reload));
    this.panels.forEach((panel, index) => panel.tensor.setBeside(this.panels[1 - index].tensor));
    const choices = element("div", { class: "choices" }, ...this.panels.map((panel) => panel.choice));
    const columns = element("div", { class: "panels" }, ...this.panels.map((panel) => panel.root));
    this.content = element("div", {}, this.controls, choices, this.losses.root, columns);
    this.content.hidden = true;
    document.body.replaceChildren(element("main", {}, element("h1", {}, "Unrolls"), this.status, this.content));
    followTheme(() => this.#redraw());
  }

  async load() {
    try {
      const { runs, problems } = await ask("runs");
      setText(this.status, problems.join(" "));
      this.runs = runs;
      this.content.hidden = !runs.length;
      if (runs.length) await this.#show();
    } catch (error) {
      setText(this.status, error.message);
    }
    document.body.dataset.ready = "true";
  }

  async #reload() {
    this.unrolls = new Unrolls();
    await this.load();
  }

  #actions(run, unroll) {
    const change = (changes) => {
      Object.assign(this.view, changes);
      return this.#show();
    };
    return {
      run: (name) => change({ [run]: name, [unroll]: null }),
      unroll: (number) => change({ [unroll]: number }),
      tensor: (name) => change({ tensor: name, weight: null }),
      weight: (place) => change({ weight: place }),
      order: (key, up) => change({ sort: key, down: up ? null : 1 }),
    };
  }

  // Show what is chosen, and what is chosen for the reader where nothing is.
  async #show() {
    const asked = (this.asked = {});
    const { view, runs } = this;
    const found = runs.find(({ run }) => run === view.run) ?? runs.find(({ run }) => /(^|\/)learned$/.test(run)) ?? runs[0];
    const beside = runs.find(({ run }) => run === view.beside);
    const chosen = [numberOf(found, view.unroll), beside && numberOf(beside, view.besideUnroll)];
    try {
      const losses = await Promise.all(this.#compared(found, chosen[0]).map(([run, unroll]) => this.unrolls.load(run, unroll)));
      const second = beside ? await this.unrolls.load(beside.run, chosen[1]) : null;
      if (this.asked !== asked) return;
      Object.assign(view, { run: found.run, unroll: chosen[0], beside: beside?.run ?? null, besideUnroll: chosen[1] ?? null });
      await this.#fill(found, beside, losses, second);
      this.panels[0].say("");
    } catch (error) {
      this.panels[0].say(error.message);
    }
  }

  async #fill(found, beside, losses, second) {
    const { view } = this;
    const [first] = losses;
    view.tensor = first.names.has(view.tensor) ? view.tensor : first.tensors[0]?.name;
    // One weight in both runs, although an optimizer without hidden units would have another to begin with.
    const weight = Number(view.weight ?? first.tensors[first.names.get(view.tensor)]?.probe ?? 0);
    const choice = { tensor: view.tensor, weight, order: { key: view.sort ?? "", up: !view.down } };
    this.losses.setUnrolls([...losses, ...(second && !losses.includes(second) ? [second] : [])]);
    this.first = first;
    for (const [panel, entry, unroll] of [[this.panels[0], found, first], [this.panels[1], beside, second]]) {
      panel.setRuns(this.runs, entry?.run);
      panel.setUnrolls(entry?.unrolls ?? [], unroll?.unroll);
    }
    const filled = [this.panels[0].setUnroll(first, choice), this.panels[1].setUnroll(second, choice)];
    const step = view.step === undefined ? first.steps[0] : Number(view.step);
    this.player.setSteps(first.steps, first.pointOf(step));
    await Promise.all(filled);
    this.#move(this.player.point);
  }

  // The unroll itself; what lies beside it, as baselines do; and of a meta-training run how the rule began.
  #compared({ run, unrolls }, number) {
    const folder = (name) => name.slice(0, name.lastIndexOf("/") + 1);
    const siblings = this.runs.filter((other) => other.run !== run && folder(other.run) === folder(run));
    const others = unrolls.length > 1 ? [[run, unrolls[0]]] : siblings.map((other) => [other.run, other.unrolls[0]]);
    const all = [[run, number], ...others.filter(([name, own]) => name !== run || own !== number)];
    return all.slice(0, MOST_LOSSES);
  }

  #move(point) {
    if (!this.first) return;
    const step = this.first.steps[point];
    this.view.step = step;
    this.losses.moveTo(step);
    for (const panel of this.panels) panel.moveTo(step);
    this.link.href = linkTo(this.view);
  }

  #redraw() {
    this.losses.redraw();
    for (const panel of this.panels) panel.redraw();
  }
}

// The unroll that is asked for, otherwise the last, which shows the rule as it has become.
function numberOf({ unrolls }, asked) {
  return unrolls.includes(Number(asked)) && asked !== null ? Number(asked) : unrolls.at(-1);
}

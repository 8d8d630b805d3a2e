// Elements and numbers.

export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

export function number(value) {
  if (Number.isNaN(value) || value === null || value === undefined) return "–";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
  if (value === 0) return "0";
  const size = Math.abs(value);
  const text = size >= 1e5 || size < 1e-3 ? value.toExponential(2) : String(Number(value.toPrecision(3)));
  return text.replaceAll("-", "−");
}

export function setText(node, text) {
  if (node.firstChild === null) node.append(text);
  else if (node.firstChild.data !== text) node.firstChild.data = text;
}

// A table under a chart, for those who do not see it; its rows are made when it is opened.
export class Numbers {
  constructor(caption, headings) {
    this.body = element("tbody");
    this.rows = () => [];
    const head = element("tr", {}, ...headings.map((text) => element("th", { scope: "col" }, text)));
    const table = element("table", {}, element("caption", {}, caption), element("thead", {}, head), this.body);
    const wide = element("div", { class: "wide", tabindex: "0", role: "group", "aria-label": caption }, table);
    this.root = element("details", { ontoggle: () => this.show() }, element("summary", {}, `Numbers: ${caption}`), wide);
  }

  show(rows = this.rows) {
    this.rows = rows;
    if (!this.root.open) return;
    const made = this.rows().map(([first, ...others]) =>
      element("tr", {}, element("th", { scope: "row" }, first), ...others.map((text) => element("td", {}, text))),
    );
    this.body.replaceChildren(...made);
  }
}

// Places of at most `most` of `count` things, evenly spread, and one in particular.
export function spread(count, most, particular) {
  const places = new Set([particular]);
  for (let i = 0; i < Math.min(count, most); i++) {
    places.add(Math.round((i * (count - 1)) / Math.max(1, Math.min(count, most) - 1)));
  }
  return [...places].filter((place) => place >= 0 && place < count).sort((a, b) => a - b);
}

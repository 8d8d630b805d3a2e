// What is shown, as a link: TensorBoard's address with keys of this tab, or this page's own where it stands alone.

const PREFIX = "p.l2l_unrolls.";

// Where TensorBoard shows the tab in a frame, the page around it; it is of the same origin.
export function outside() {
  return window.parent === window ? null : window.parent;
}

export function readView() {
  const hash = (outside() ?? window).location.hash.slice(1);
  const found = {};
  for (const [key, value] of new URLSearchParams(hash)) {
    if (key.startsWith(PREFIX)) found[key.slice(PREFIX.length)] = value;
  }
  return found;
}

export function linkTo(view) {
  const place = new URL((outside() ?? window).location.href);
  const keys = new URLSearchParams();
  for (const [key, value] of Object.entries(view)) {
    if (value !== null && value !== undefined && value !== "") keys.set(PREFIX + key, value);
  }
  place.hash = `${outside() ? "l2l_unrolls&" : ""}${keys}`;
  return place.href;
}

// TensorBoard's own choice of light or dark where there is one, otherwise the reader's; `changed` is called when it changes.
export function followTheme(changed) {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const body = outside()?.document.body;
  const apply = () => {
    const isDark = body ? body.classList.contains("dark-mode") : dark.matches;
    document.documentElement.dataset.theme = isDark ? "dark" : "light";
    changed();
  };
  if (body) new MutationObserver(apply).observe(body, { attributes: true, attributeFilter: ["class"] });
  else dark.addEventListener("change", apply);
  apply();
}

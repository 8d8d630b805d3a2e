// The theme's buttons that copy a block are landmarks without names: a screen reader could not tell them apart.
const name = () =>
  document.querySelectorAll("nav.md-code__nav").forEach((nav, index) => {
    if (!nav.ariaLabel) nav.ariaLabel = `Code block ${index + 1}`;
  });
new MutationObserver(name).observe(document.body, { childList: true, subtree: true });
name();

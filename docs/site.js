// The theme's buttons that copy a block are landmarks without names: a screen reader could not tell them apart. And its
// wide tables and pictures scroll, which a keyboard can do only where it can get to.
const mend = () => {
  document.querySelectorAll("nav.md-code__nav").forEach((nav, index) => {
    if (!nav.ariaLabel) nav.ariaLabel = `Code block ${index + 1}`;
  });
  document.querySelectorAll(".md-typeset__scrollwrap, .md-typeset p:has(> img)").forEach((wide) => {
    if (wide.scrollWidth > wide.clientWidth && wide.tabIndex < 0) wide.tabIndex = 0;
  });
};
new MutationObserver(mend).observe(document.body, { childList: true, subtree: true });
addEventListener("resize", mend);
mend();

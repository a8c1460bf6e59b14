"use strict";
// Code and tables that scroll sideways can be reached and scrolled with the keyboard. The theme does so for code where
// a mouse hovers, and takes the stop away again on phones.
const boxes = "pre > code, .md-typeset__scrollwrap, .md-typeset p:has(> img)";
const reach = (box) => {
  if (box.scrollWidth > box.clientWidth && box.tabIndex !== 0) box.tabIndex = 0;
};
const sizes = new ResizeObserver((seen) => seen.forEach((one) => reach(one.target)));
const stops = new MutationObserver((seen) => seen.forEach((one) => reach(one.target)));
const watched = new Set();
const watch = () => {
  for (const box of document.querySelectorAll(boxes)) {
    if (watched.has(box)) continue;
    watched.add(box);
    sizes.observe(box);
    stops.observe(box, { attributes: true, attributeFilter: ["tabindex"] });
  }
  // The theme calls the copy button of every block of code a navigation of the page.
  for (const nav of document.querySelectorAll(".md-code__nav:not([role])")) nav.setAttribute("role", "none");
};
// Boxes and buttons are made by the theme's own script, some of them late.
new MutationObserver(watch).observe(document.body, { childList: true, subtree: true });
watch();

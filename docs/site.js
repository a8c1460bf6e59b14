// Code and tables that scroll sideways can be reached and scrolled with the keyboard. The theme does so for code where
// a mouse hovers, and takes the stop away again on phones.
const boxes = "pre > code, .md-typeset__scrollwrap";
const reach = (box) => {
  const scrolls = box.scrollWidth > box.clientWidth;
  if (scrolls && box.tabIndex !== 0) box.tabIndex = 0;
};
const sizes = new ResizeObserver((seen) => seen.forEach((one) => reach(one.target)));
const stops = new MutationObserver((seen) => seen.forEach((one) => reach(one.target)));
const watch = () => document.querySelectorAll(boxes).forEach((box) => {
  sizes.observe(box);
  stops.observe(box, { attributes: true, attributeFilter: ["tabindex"] });
});
// Tables get their box from the theme's own script, which runs after this one.
addEventListener("load", () => setTimeout(watch));

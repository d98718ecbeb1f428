"use strict";

// Arrows: one SVG over a whole container, in its CSS pixels, from the query to its strongest keys.
NonlocalViewer.Arrows = (() => {
  const { svgElement } = NonlocalViewer.parts;

  /** A bent line with a head, as data of a path; arched ones rise, so that those on one line stay apart. */
  function arrow([x0, y0], [x1, y1], arched) {
    const [dx, dy] = [x1 - x0, y1 - y0];
    const rise = arched ? -Math.min(0.6 * Math.abs(dx), 200) : 0.12 * dx;
    const [bendX, bendY] = [(x0 + x1) / 2 - 0.12 * dy, (y0 + y1) / 2 + rise];
    const angle = Math.atan2(y1 - bendY, x1 - bendX);
    const head = Math.min(9, Math.hypot(dx, dy) / 2);
    const [left, right] = [angle - 0.5, angle + 0.5].map(
      (side) => `${(x1 - head * Math.cos(side)).toFixed(1)} ${(y1 - head * Math.sin(side)).toFixed(1)}`);
    const tip = `${x1.toFixed(1)} ${y1.toFixed(1)}`;
    const line = `M${x0.toFixed(1)} ${y0.toFixed(1)}Q${bendX.toFixed(1)} ${bendY.toFixed(1)} ${tip}`;
    return `${line}M${left}L${tip}L${right}`;
  }

  return class Arrows {
    constructor(container) {
      this.paths = svgElement("g", {});
      this.box = [svgElement("rect", { class: "nl-halo" }), svgElement("rect", { class: "nl-query" })];
      this.point = svgElement("circle", { class: "nl-point", r: 4 });
      this.drawing = svgElement("svg", { class: "nl-arrows", "aria-hidden": "true" },
        ...this.box, this.paths, this.point);
      container.append(this.drawing);
    }

    clear() {
      this.drawing.style.display = "none";
    }

    /** Draw the mark, a box with its centre, and an arrow to each end, thicker for larger shares. */
    draw(mark, ends, { signed = false, pinned, arched = false }) {
      this.drawing.style.display = "";
      for (const rect of this.box) {
        rect.setAttribute("x", mark.left);
        rect.setAttribute("y", mark.top);
        rect.setAttribute("width", mark.right - mark.left);
        rect.setAttribute("height", mark.bottom - mark.top);
      }
      this.point.setAttribute("cx", mark.centre[0]);
      this.point.setAttribute("cy", mark.centre[1]);
      this.drawing.classList.toggle("nl-pinned", pinned);
      // The strongest comes last, above the others.
      this.paths.replaceChildren(...[...ends].reverse().flatMap(({ tip, share }) => {
        const d = arrow(mark.centre, tip, arched);
        const width = 1 + 2 * Math.abs(share);
        const kind = signed ? (share < 0 ? "nl-against" : "nl-for") : "nl-plain";
        return [
          svgElement("path", { d, class: "nl-halo", "stroke-width": width + 2.5 }),
          svgElement("path", { d, class: `nl-arrow ${kind}`, "stroke-width": width }),
        ];
      }));
    }
  };
})();

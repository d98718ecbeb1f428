"use strict";

// A volume: three planes through the query, each with the heat of the keys that it cuts. Points are [slice, row,
// column], as those of a video are [frame, row, column].
NonlocalViewer.Planes = (() => {
  const { element } = NonlocalViewer.parts;
  const NAMES = ["axial", "coronal", "sagittal"];
  const PLAIN = ["across the slices", "across the rows", "across the columns"];
  // Left, right, top and bottom of each, where the file tells how the body lies.
  const EDGES = [["R", "L", "A", "P"], ["R", "L", "S", "I"], ["A", "P", "S", "I"]];

  async function inflated(base64) {
    const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }

  /** One plane: across an axis, along the two others. */
  class Plane {
    constructor(viewer, across) {
      const { sides, data: { input: { planes } } } = viewer;
      this.viewer = viewer;
      this.across = across;
      this.along = [0, 1, 2].filter((axis) => axis !== across);
      // The head is on top, where slices count upwards.
      this.upwards = across > 0 && planes.is_oriented;
      const [down, right] = this.along;
      this.grey = element("canvas", { class: "nl-plane", "aria-hidden": "true" });
      [this.grey.height, this.grey.width] = [sides[down], sides[right]];
      this.canvas = element("canvas", { class: "nl-heat", "aria-hidden": "true" });
      const letters = planes.is_oriented ? EDGES[across].map((letter, place) =>
        element("span", { class: `nl-edge nl-edge-${place}`, "aria-hidden": "true" }, letter)) : [];
      this.screen = element("div", { class: "nl-screen" }, this.grey, this.canvas, ...letters);
      const [high, wide] = this.along.map((axis) => sides[axis] * planes.spacing[axis]);
      this.screen.style.aspectRatio = `${wide} / ${high}`;
      this.caption = element("figcaption", {}, "");
      this.figure = element("figure", { class: "nl-frame" }, this.screen, this.caption);
      this.area = { left: 0, top: 0, width: 0, height: 0 };
      this.painted = "";
    }

    layout(origin) {
      const { left, top, width, height } = this.screen.getBoundingClientRect();
      this.area = { left: left - origin.left, top: top - origin.top, width, height };
      this.canvas.width = Math.round(width * window.devicePixelRatio);
      this.canvas.height = Math.round(height * window.devicePixelRatio);
    }

    clear() {
      this.canvas.getContext("2d").clearRect(0, 0, this.canvas.width, this.canvas.height);
    }

    /** From a coordinate along the plane's height to a share of it, from the top. */
    #fromTop(value) {
      const share = value / this.viewer.sides[this.along[0]];
      return this.upwards ? 1 - share : share;
    }

    /** A box along the plane's two axes as left, top, right and bottom, in shares. */
    #shares([high, wide]) {
      const ends = high.map((value) => this.#fromTop(value)).sort((one, other) => one - other);
      const width = this.viewer.sides[this.along[1]];
      return [wide[0] / width, ends[0], wide[1] / width, ends[1]];
    }

    /** Where a box of the input lies in the strip, in CSS pixels. */
    boxOf(box) {
      const [left, top, right, bottom] = this.#shares(this.along.map((axis) => box[axis]));
      const { area } = this;
      return {
        left: area.left + left * area.width, right: area.left + right * area.width,
        top: area.top + top * area.height, bottom: area.top + bottom * area.height,
      };
    }

    /** The grey values of the plane through a point, and its labels over them. */
    paint(voxels, labels, colours, point) {
      const place = point[this.across];
      const wanted = `${place} ${labels !== null}`;
      if (!voxels || this.painted === wanted) return;
      this.painted = wanted;
      const { sides } = this.viewer;
      const [down, right] = this.along;
      const [rows, columns] = [sides[down], sides[right]];
      const image = new ImageData(columns, rows);
      const at = [0, 0, 0];
      at[this.across] = place;
      for (let row = 0; row < rows; row++) {
        at[down] = this.upwards ? rows - 1 - row : row;
        for (let column = 0; column < columns; column++) {
          at[right] = column;
          const voxel = (at[0] * sides[1] + at[1]) * sides[2] + at[2];
          const colour = labels ? colours[labels[voxel]] : null;
          const pixel = 4 * (row * columns + column);
          for (let part = 0; part < 3; part++) {
            image.data[pixel + part] = colour?.some(Boolean)
              ? 0.45 * voxels[voxel] + 0.55 * colour[part] : voxels[voxel];
          }
          image.data[pixel + 3] = 255;
        }
      }
      this.grey.getContext("2d").putImageData(image, 0, 0);
      this.caption.textContent = this.#name(point);
    }

    #name(point) {
      const { planes } = this.viewer.data.input;
      const name = (planes.is_oriented ? NAMES : PLAIN)[this.across];
      const place = `${name}, ${["slice", "row", "column"][this.across]} ${point[this.across]}`;
      if (!planes.has_spacing) return place;
      // Along the axis of the body that the plane is across: z, y and x.
      const [a, b, c, first] = planes.affine[2 - this.across];
      const value = a * point[0] + b * point[1] + c * point[2] + first;
      const { number } = NonlocalViewer.words;
      return `${place} (${"zyx"[this.across]} ${number(Math.round(10 * value) / 10)} mm)`;
    }

    /** The keys that the plane cuts, cell by cell, where they lie in the input. */
    draw(block, colourOf, point) {
      this.clear();
      const { boxOf } = NonlocalViewer.geometry;
      const context = this.canvas.getContext("2d");
      const [down, right] = this.along;
      const position = [0, 0, 0];
      const index = NonlocalViewer.Planes.keyAlong(block, this.across, point[this.across]);
      if (index === null) return;
      position[this.across] = index;
      for (let row = 0; row < block.keySides[down]; row++) {
        position[down] = row;
        for (let column = 0; column < block.keySides[right]; column++) {
          position[right] = column;
          const box = boxOf(block.keyGrid, position);
          const [left, top, end, bottom] = this.#shares([box[down], box[right]]);
          // Whole pixels of the screen: between two cells that share one a line would be seen.
          const [x, y] = [Math.round(left * this.canvas.width), Math.round(top * this.canvas.height)];
          context.fillStyle = colourOf(position);
          context.fillRect(x, y, Math.round(end * this.canvas.width) - x,
            Math.round(bottom * this.canvas.height) - y);
        }
      }
    }

    /** The point under the pointer: the plane stays where it is. */
    pointOf(event) {
      const { left, top, width, height } = this.screen.getBoundingClientRect();
      const share = (event.clientY - top) / height;
      const { sides, query } = this.viewer;
      const point = [...query];
      point[this.along[0]] = (this.upwards ? 1 - share : share) * sides[this.along[0]];
      point[this.along[1]] = ((event.clientX - left) / width) * sides[this.along[1]];
      return NonlocalViewer.geometry.clipped(point, sides);
    }
  }

  return class Planes {
    constructor(viewer, strip) {
      this.viewer = viewer;
      this.strip = strip;
      this.surfaces = [0, 1, 2].map((across) => new Plane(viewer, across));
      strip.append(...this.surfaces.map((plane) => plane.figure));
      // A millimetre is as long in each of the three, so that a thin slab looks thin.
      const { sides, data: { input: { planes } } } = viewer;
      const widths = this.surfaces.map(({ along: [, right] }) => sides[right] * planes.spacing[right]);
      strip.style.gridTemplateColumns = widths.map((width) => `minmax(4rem, ${width}fr)`).join(" ");
      this.marks = this.surfaces.map(() => new NonlocalViewer.Arrows(strip));
      this.showsLabels = false;
      [this.voxels, this.labels] = [null, null];
      const { voxels, voxel_labels: labels } = viewer.data.input;
      Promise.all([inflated(voxels), labels ? inflated(labels) : null]).then(([grey, ids]) => {
        [this.voxels, this.labels] = [grey, ids];
        viewer.refresh();
      });
    }

    /** The number of the keys along an axis whose box holds a voxel's middle; null where none does. */
    static keyAlong({ keyGrid }, axis, voxel) {
      const [low, high] = keyGrid.reach[axis];
      if (voxel + 0.5 < low || voxel + 0.5 >= high) return null;
      const index = Math.floor((voxel + 0.5 - keyGrid.centres[axis]) / keyGrid.steps[axis] + 0.5);
      return Math.min(Math.max(index, 0), keyGrid.counts[axis] - 1);
    }

    /** All places to point at. */
    get screens() {
      return this.surfaces;
    }

    showLabels(shown) {
      this.showsLabels = shown;
      this.viewer.refresh();
    }

    layout() {
      const origin = this.strip.getBoundingClientRect();
      for (const plane of this.surfaces) plane.layout(origin);
    }

    clear() {
      for (const plane of this.surfaces) plane.clear();
      for (const mark of this.marks) mark.clear();
    }

    draw({ levels, scale, even, top, signed }) {
      const { block, query, place, pinned, arrows, data } = this.viewer;
      const { boxOf, strongest, keyPosition } = NonlocalViewer.geometry;
      const table = NonlocalViewer.colours.table(signed);
      const [share, first] = [scale / (top || 1), signed ? 128 : 0];
      const [, rows, columns] = block.keySides;
      const colourOf = ([slice, row, column]) => {
        const level = levels[(slice * rows + row) * columns + column];
        const [red, green, blue, alpha] = table.subarray(4 * (Math.round(level * share) + first));
        return `rgb(${red} ${green} ${blue} / ${alpha / 255})`;
      };
      const least = (block.stands_out * even * (signed ? 127 : 255)) / scale;
      const keys = strongest(levels, arrows).filter((key) => Math.abs(levels[key]) >= least);
      const ids = this.showsLabels ? this.labels : null;
      const colours = this.#coloursById(data.prediction);
      for (const [number, plane] of this.surfaces.entries()) {
        plane.paint(this.voxels, ids, colours, query);
        plane.draw(block, colourOf, query);
        const cut = NonlocalViewer.Planes.keyAlong(block, plane.across, query[plane.across]);
        // Arrows stay in a plane: what another one shows is marked there.
        const ends = keys.filter((key) => keyPosition(block, key)[plane.across] === cut).map((key) => {
          const box = plane.boxOf(boxOf(block.keyGrid, keyPosition(block, key)));
          return {
            tip: [(box.left + box.right) / 2, (box.top + box.bottom) / 2],
            share: levels[key] / Math.abs(levels[keys[0]]),
          };
        });
        const box = plane.boxOf(boxOf(block.grid, place.position));
        const centre = [(box.left + box.right) / 2, (box.top + box.bottom) / 2];
        this.marks[number].draw({ ...box, centre }, ends, { signed, pinned });
      }
    }

    #coloursById(prediction) {
      return Object.fromEntries(prediction.filter(({ colour }) => colour).map(({ id, colour }) => [id, colour]));
    }
  };
})();

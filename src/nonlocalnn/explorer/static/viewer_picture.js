"use strict";

// Drawing: the frames (or the curves of a sequence), the heat on them, and the arrows over all of them.
NonlocalViewer.Picture = (() => {
  const { element, svgElement } = NonlocalViewer.parts;
  // CSS pixels: between frames, below each, below all; frames that are still large enough to point at, and
  // widths of the page at which it is scrolled anyway.
  const [GAP, CAPTION, MARGIN, SMALLEST, NARROW] = [8, 42, 12, 88, 560];

  // More points than the screen has pixels take a browser minutes.
  const PARTS = 2000;

  /** A frame, its heat, and the place in the strip that both take. */
  class Surface {
    constructor(content, sides, caption, shape) {
      this.frame = 0;
      this.canvas = element("canvas", { class: "nl-heat", "aria-hidden": "true" });
      this.screen = element("div", { class: "nl-screen" }, content, this.canvas);
      // A sequence has no height of its own: the style sheet gives it one.
      if (shape) this.screen.style.aspectRatio = `${shape[1]} / ${shape[0]}`;
      this.content = content;
      this.caption = element("figcaption", {}, caption);
      this.figure = element("figure", { class: "nl-frame" }, this.screen, this.caption);
      this.sides = sides;
      this.area = { left: 0, top: 0, width: 0, height: 0 };
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

    /** Draw the keys of this frame, cell by cell, where they lie in the input. */
    draw(block, sheet) {
      this.clear();
      const time = NonlocalViewer.geometry.keyTime(block, this.frame);
      if (time === null) return;
      const context = this.canvas.getContext("2d");
      const rows = block.keySides[1];
      const scaleX = this.canvas.width / this.sides[2];
      const scaleY = this.canvas.height / this.sides[1];
      context.imageSmoothingEnabled = false;
      const { spansOf } = NonlocalViewer.geometry;
      for (const [row, high, top, bottom] of spansOf(block.keyGrid, 1)) {
        for (const [column, wide, left, right] of spansOf(block.keyGrid, 2)) {
          // Whole pixels of the screen: between two parts that share one a line would be seen.
          const [x, y] = [Math.round(left * scaleX), Math.round(top * scaleY)];
          context.drawImage(
            sheet, column, time * rows + row, wide, high,
            x, y, Math.round(right * scaleX) - x, Math.round(bottom * scaleY) - y,
          );
        }
      }
    }

    /** Where a point of the input lies in the container, in CSS pixels. */
    at(y, x) {
      const { left, top, width, height } = this.area;
      return [left + (x / this.sides[2]) * width, top + (y / this.sides[1]) * height];
    }

    /** The point under the pointer, on three axes. */
    pointOf(event) {
      const { left, top, width, height } = this.screen.getBoundingClientRect();
      const y = ((event.clientY - top) / height) * this.sides[1];
      const x = ((event.clientX - left) / width) * this.sides[2];
      return NonlocalViewer.geometry.clipped([this.frame, y, x], this.sides);
    }
  }

  /** Places of the values that a line goes through: all, or of a long one the lowest and highest of each part. */
  function placesOf(values) {
    const part = Math.ceil(values.length / PARTS);
    const places = [];
    for (let start = 0; start < values.length; start += part) {
      let [low, high] = [start, start];
      for (let place = start; place < Math.min(start + part, values.length); place += 1) {
        if (values[place] < values[low]) low = place;
        if (values[place] > values[high]) high = place;
      }
      places.push(...new Set([Math.min(low, high), Math.max(low, high)]));
    }
    return places;
  }

  /** The channels as lines; with classes of the steps, a band below them in the colours of these. */
  function curves(channels, length, runs) {
    const extreme = (of) => channels.flat().reduce((found, value) => of(found, value), channels[0]?.[0] ?? 0);
    const low = extreme(Math.min);
    const height = extreme(Math.max) - low || 1;
    const label = NonlocalViewer.words.length({ channels, sides: [length] })
      + (runs.length ? ", with the class of each step below" : "");
    const drawing = svgElement("svg", {
      class: "nl-curves", viewBox: `0 -0.05 ${length} ${runs.length ? 1.2 : 1.1}`, preserveAspectRatio: "none",
      role: "img", "aria-label": label,
    });
    for (const { first, last, colour } of runs) {
      drawing.append(svgElement("rect", {
        x: first, y: 1.06, width: last + 1 - first, height: 0.09, fill: `rgb(${colour.join(" ")})`,
      }));
    }
    const lines = channels.map((values) =>
      placesOf(values).map((place) => `${place + 0.5},${1 - (values[place] - low) / height}`).join(" "));
    for (const points of lines) drawing.append(svgElement("polyline", { points, class: "nl-halo" }));
    lines.forEach((points, channel) =>
      drawing.append(svgElement("polyline", { points, class: `nl-curve nl-curve-${channel % 4}` })));
    return drawing;
  }

  /** How long a sequence is, and where its channels have names which line is which. */
  function legend(input) {
    // With spaces, for those who copy or hear them.
    const names = (input.channel_names ?? []).flatMap((name, channel) => [" ",
      element("span", { class: "nl-channel" },
        element("span", { class: `nl-swatch nl-swatch-${channel % 4}`, "aria-hidden": "true" }), name)]);
    return element("span", {}, NonlocalViewer.words.length(input), ...names);
  }

  /** An empty picture; few pixels are shown as the squares they are. */
  function pictureOf(shape, attributes) {
    const kind = Math.max(...shape) < 100 ? { class: "nl-coarse" } : {};
    return element("img", { draggable: "false", ...kind, ...attributes });
  }

  function surfacesOf(viewer) {
    const { input, kind } = viewer.data;
    if (kind === "sequence") {
      const [channels, length] = [input.channels ?? [], viewer.sides[2]];
      const drawn = curves(channels, length, input.step_labels ?? []);
      return [new Surface(drawn, viewer.sides, legend(input))];
    }
    return input.frames.map((source, frame) => {
      const name = NonlocalViewer.words.frame(viewer, frame);
      const alt = kind === "video" ? `${name}, of ${input.frames.length}` : viewer.data.title;
      const image = pictureOf(input.picture_sides, { src: source, alt });
      const surface = new Surface(image, viewer.sides, kind === "video" ? name : "", input.picture_sides);
      surface.frame = frame;
      return surface;
    });
  }

  return class Picture {
    constructor(viewer, strip, stage) {
      this.viewer = viewer;
      this.strip = strip;
      this.surfaces = surfacesOf(viewer);
      strip.append(...this.surfaces.map((surface) => surface.figure));
      this.arrows = new NonlocalViewer.Arrows(strip);
      this.sheet = document.createElement("canvas");
      if (viewer.data.kind === "video") {
        const shape = viewer.data.input.picture_sides;
        this.large = new Surface(pictureOf(shape, { alt: "" }), viewer.sides, "", shape);
        this.stage = stage;
        stage.append(this.large.figure);
        this.largeArrows = new NonlocalViewer.Arrows(stage);
      }
    }

    /** All places to point at. */
    get screens() {
      return this.large ? [...this.surfaces, this.large] : this.surfaces;
    }

    layout() {
      this.#fit();
      const origin = this.strip.getBoundingClientRect();
      for (const surface of this.surfaces) surface.layout(origin);
      if (this.viewer.large) this.large.layout(this.stage.getBoundingClientRect());
    }

    /** Make the frames as large as they can be where all of them are in view with what is said of them. */
    #fit() {
      const [count, shape] = [this.surfaces.length, this.viewer.data.input.picture_sides];
      if (!shape) return;
      const whole = this.strip.parentElement.clientWidth;
      // From the top of what the viewer lies in: a page, or a result to which the page is scrolled.
      const around = this.viewer.root.parentElement ?? this.viewer.root;
      const above = this.strip.getBoundingClientRect().top - around.getBoundingClientRect().top;
      const high = window.innerHeight - above - MARGIN;
      const caption = count > 1 ? CAPTION : 0;
      let best = { columns: 1, width: 0 };
      for (let columns = 1; columns <= count; columns++) {
        const height = (high + GAP) / Math.ceil(count / columns) - GAP - caption;
        const width = Math.min((whole + GAP) / columns - GAP, (height * shape[1]) / shape[0]);
        // A little more is no reason to leave the last row shorter than the others.
        if (width > best.width + 1) best = { columns, width };
      }
      if (best.width < SMALLEST || whole < NARROW) {
        const most = Math.max(Math.floor(whole / 140), 1);
        // As many in the last row as in the others, where that can be.
        const columns = Math.ceil(count / Math.ceil(count / most));
        best = { columns, width: (whole + GAP) / columns - GAP };
      }
      this.strip.style.setProperty("--nl-columns", best.columns);
      this.strip.style.maxWidth = `${Math.floor(best.columns * (best.width + GAP) - GAP)}px`;
    }

    clear() {
      for (const surface of this.screens) surface.clear();
      this.arrows.clear();
      this.largeArrows?.clear();
    }

    draw(row) {
      const { block, large, frame } = this.viewer;
      this.#paintSheet(block, row);
      for (const surface of this.surfaces) {
        surface.draw(block, this.sheet);
        surface.figure.classList.toggle("nl-staged", large && surface.frame === frame);
      }
      const start = this.#queryBox();
      this.#drawArrows(start, row);
      if (large) this.#drawLarge(block, start);
    }

    /** One pixel a key, the times below each other: the frames are cut out of it. */
    #paintSheet(block, { levels, scale, top, signed }) {
      const [times, rows, columns] = block.keySides;
      this.sheet.width = columns;
      this.sheet.height = times * rows;
      const colours = new Uint32Array(NonlocalViewer.colours.table(signed).buffer);
      const first = signed ? 128 : 0;
      const image = new ImageData(columns, times * rows);
      const pixels = new Uint32Array(image.data.buffer);
      const share = scale / (top || 1);
      for (let key = 0; key < levels.length; key++) {
        pixels[key] = colours[Math.round(levels[key] * share) + first];
      }
      this.sheet.getContext("2d").putImageData(image, 0, 0);
    }

    /** The box of the query's position, on the frame that the user chose if it covers that. */
    #queryBox() {
      const { block, query, sides, place } = this.viewer;
      const { boxOf, centreOf, framesOf, nearestFrame } = NonlocalViewer.geometry;
      const [time, rows, columns] = boxOf(block.grid, place.position);
      const centre = centreOf(block.grid, place.position);
      const [first, last] = framesOf(time);
      const covered = query[0] >= first && query[0] <= last;
      return { frame: covered ? query[0] : nearestFrame(centre[0], sides[0]), rows, columns, centre };
    }

    /** Arrows lead to keys that stand out: of weights that are nearly alike some are always the largest. */
    #drawArrows(start, { levels, scale, even, signed }) {
      const { block, sides, arrows, pinned, data } = this.viewer;
      const { strongest, keyPosition, centreOf, nearestFrame } = NonlocalViewer.geometry;
      const least = (block.stands_out * even * (signed ? 127 : 255)) / scale;
      const keys = strongest(levels, arrows).filter((key) => Math.abs(levels[key]) >= least);
      const ends = keys.map((key) => {
        const [time, y, x] = centreOf(block.keyGrid, keyPosition(block, key));
        const tip = this.surfaces[nearestFrame(time, sides[0])].at(y, x);
        return { tip, share: levels[key] / Math.abs(levels[keys[0]]) };
      });
      this.arrows.draw(this.#mark(this.surfaces[start.frame], start), ends, {
        signed, pinned, arched: data.kind === "sequence",
      });
    }

    #mark(surface, { rows, columns, centre }) {
      const [left, top] = surface.at(rows[0], columns[0]);
      const [right, bottom] = surface.at(rows[1], columns[1]);
      return { left, top, right, bottom, centre: surface.at(centre[1], centre[2]) };
    }

    #drawLarge(block, start) {
      const { frame, pinned, state: { playing } } = this.viewer;
      const surface = this.large;
      surface.frame = frame;
      const { src, alt } = this.surfaces[frame].content;
      if (surface.content.src !== src) Object.assign(surface.content, { src, alt });
      // Frames that play are too many to be read out.
      surface.caption.setAttribute("aria-live", playing ? "off" : "polite");
      const caption = NonlocalViewer.words.frame(this.viewer, frame);
      if (surface.caption.textContent !== caption) surface.caption.textContent = caption;
      surface.draw(block, this.sheet);
      if (start.frame === frame) this.largeArrows.draw(this.#mark(surface, start), [], { pinned });
      else this.largeArrows.clear();
    }
  };
})();

"use strict";

// Panel: everything around the pictures; it shows the viewer's state and passes on what the user sets.
NonlocalViewer.Panel = (() => {
  const {
    element, row, table, details, predictionList, verdict, summaryTable, keyList,
  } = NonlocalViewer.parts;
  const TARGETS = {
    video: ["Frames", "any frame", "place"],
    volume: ["Planes", "a plane", "voxel"],
    image: ["Image", "the image", "place"],
    sequence: ["Curves", "the curves", "step"],
  };

  return class Panel {
    constructor(viewer) {
      this.viewer = viewer;
      const { data, root, id } = viewer;
      const [name, target, place] = TARGETS[data.kind];
      // Apart, so that a screen reader says only what is new.
      this.sentences = [0, 1, 2].map(() => element("span", {}));
      this.status = element("p", { class: `nl-status nl-${data.kind}-status`, "aria-live": "polite" },
        ...this.sentences.flatMap((sentence) => [sentence, " "]));
      this.note = element("p", { class: "nl-note", role: "alert" });
      this.stage = element("div", { class: "nl-stage" });
      this.strip = element("div", {
        class: `nl-strip nl-${data.kind}`, tabindex: "0", role: "application",
        "aria-label": `${name}: choose what to ask about`, "aria-describedby": `${id}-hint`,
      });
      const hint = element("p", { class: "nl-hint", id: `${id}-hint` },
        `Point at ${target} to ask what that ${place} attends to; click or tap to pin it. ` +
        "The arrow keys move it; ? lists all keys below.");
      const side = element("div", { class: "nl-side" }, this.#looks());
      if (data.prediction.length) {
        // An object is asked about where its middle is.
        const ask = ([left, top, right, bottom]) => viewer.ask([0, (top + bottom) / 2, (left + right) / 2], true);
        const list = predictionList(data.prediction, ask);
        const { labels, marked, voxel_labels: voxels, step_labels: steps } = data.input;
        const heading = marked ? "Objects" : labels ? "Classes of the pixels"
          : voxels ? "Classes of the voxels" : steps ? "Classes of the steps" : "Prediction";
        side.prepend(element("section", {}, this.#heading(heading), list));
      }
      const player = data.kind === "video" ? [this.#player()] : [];
      const main = element("div", { class: "nl-main" },
        this.#choices(), hint, this.status, this.note, this.#scale(), ...player, this.stage, this.strip);
      root.classList.add("nl-viewer");
      root.replaceChildren(
        this.#header(), element("div", { class: "nl-columns" }, main, side), this.#tables());
    }

    /** Show what is chosen; the note is a sentence on what went wrong, or nothing. */
    update(state, note) {
      const { viewer } = this;
      this.blockSelect.value = state.block;
      if (this.shownBlock !== viewer.block) this.#showBlock();
      for (const input of this.measures.querySelectorAll("input")) {
        input.checked = input.value === state.measure;
      }
      if (this.playButton) this.playButton.textContent = state.playing ? "Pause" : "Play";
      if (this.largeBox) this.largeBox.checked = viewer.large;
      this.stage.hidden = !viewer.large;
      viewer.root.style.setProperty("--nl-heat", viewer.heat);
      if (this.note.textContent !== note) this.note.textContent = note;
      this.note.hidden = !note;
    }

    /** The colour bar of the row that is drawn, in multiples of the even level. */
    showScale({ even, top, signed }) {
      const { number, times } = NonlocalViewer.words;
      const unit = even ? `1\u00d7 = ${number(even)}: all keys alike.` : "Nothing weighs anything.";
      this.scaleLabel.textContent = `${this.viewer.measure.label}. ${unit}`;
      this.scaleBar.style.background = NonlocalViewer.colours.gradient(signed);
      const low = signed ? -top : 0;
      const places = even ? [[low, 0], [0, -low / (top - low)], [even, (even - low) / (top - low)], [top, 1]] : [];
      // Names that would cover one another: the even level says more than 0, and 0 is an end already.
      const named = places.filter(([value, at], place) =>
        value !== 0 || (signed ? even > 0.2 * top : place === 0 && even > 0.1 * top));
      this.scaleMark.hidden = !even;
      this.scaleMark.style.left = `${100 * (places[2]?.[1] ?? 0)}%`;
      this.scaleEnds.replaceChildren(...named.map(([value, at]) => {
        const name = element("span", {}, value === 0 ? "0" : times(value, even));
        name.style.left = `${100 * at}%`;
        name.style.translate = `${-100 * at}%`;
        return name;
      }));
    }

    /** Say what is shown, and write the largest weights down. */
    tell(weights, even) {
      const { words, geometry } = NonlocalViewer;
      const keys = geometry.strongest(weights, 10);
      this.#say(words.status(this.viewer, weights, keys[0], even));
      this.weights.body.replaceChildren(...keys.map((key, rank) => row("td", [
        String(rank + 1), ...words.keyCells(this.viewer, key), words.number(weights[key]),
        words.times(weights[key], even),
      ])));
    }

    /** Take back what was said of another block. */
    hush() {
      this.#say(["", "", ""]);
      this.weights.body.replaceChildren();
    }

    toggleHelp() {
      this.help.open = !this.help.open;
      if (this.help.open) this.help.scrollIntoView({ block: "nearest" });
    }

    #say(sentences) {
      for (const [number, sentence] of sentences.entries()) {
        const place = this.sentences[number];
        if (place.textContent !== sentence) place.textContent = sentence;
      }
    }

    #heading(words) {
      return element(`h${this.viewer.level + 1}`, { class: "nl-heading" }, words);
    }

    #header() {
      const { data, level } = this.viewer;
      const facts = `${data.model} \u00b7 ${NonlocalViewer.words.sizes(data)}`;
      const head = element("header", { class: "nl-head" },
        element(`h${level}`, { class: "nl-title" }, data.title), element("p", { class: "nl-facts" }, facts));
      const words = verdict(data);
      if (words) head.append(element("p", { class: "nl-verdict" }, words));
      return head;
    }

    #choices() {
      const { viewer } = this;
      this.blockSelect = element("select", {}, ...viewer.data.blocks.map((block) => {
        const [queries, keys] = [block.sides, block.key_sides].map((sides) => sides.join("\u00d7"));
        const even = block.evenly ? ", nearly even" : "";
        return element("option", { value: block.name }, `${block.name} (${queries} \u2192 ${keys}${even})`);
      }));
      viewer.listen(this.blockSelect, "change", () => viewer.selectBlock(this.blockSelect.value));
      this.measures = element("fieldset", { class: "nl-measures" });
      viewer.listen(this.measures, "change", (event) => viewer.selectMeasure(event.target.value));
      return element("div", { class: "nl-choices" },
        element("label", {}, "Block ", this.blockSelect), this.measures);
    }

    #player() {
      const { viewer } = this;
      const button = (words, act) => {
        const made = element("button", { type: "button" }, words);
        viewer.listen(made, "click", act);
        return made;
      };
      this.playButton = button("Play", () => viewer.togglePlay());
      const previous = button("Previous", () => viewer.stepFrame(-1));
      const next = button("Next", () => viewer.stepFrame(1));
      this.largeBox = element("input", { type: "checkbox" });
      viewer.listen(this.largeBox, "change", () => viewer.setLarge(this.largeBox.checked));
      return element("div", { class: "nl-player", role: "group", "aria-label": "Frames" },
        previous, this.playButton, next, this.#box(this.largeBox, "Large frame"));
    }

    #box(input, name) {
      return element("label", { class: "nl-check" }, input, name);
    }

    #slider(name, most, step, value, act) {
      // A screen reader reads it off the slider.
      const shown = element("output", { "aria-hidden": "true" }, value);
      const input = element("input", { type: "range", min: 0, max: most, step, value });
      this.viewer.listen(input, "input", () => {
        shown.textContent = input.value;
        act(Number(input.value));
      });
      return element("label", { class: "nl-slider" }, element("span", {}, name), input, shown);
    }

    #looks() {
      const { viewer } = this;
      this.arrowsHint = element("p", { class: "nl-hint" });
      const keysBox = element("input", { type: "checkbox", checked: "" });
      viewer.listen(keysBox, "change", () => { viewer.keysAnywhere = keysBox.checked; });
      const { labels: ofImage, voxel_labels: ofVolume } = viewer.data.input;
      const labels = ofImage || ofVolume ? [this.#labels()] : [];
      return element("section", { class: "nl-looks" }, this.#heading("Drawing"), ...labels,
        this.#slider("Arrows", 20, 1, viewer.arrows, (count) => viewer.setArrows(count)),
        this.#slider("Heat", 1, 0.05, viewer.heat, (opacity) => viewer.setHeat(opacity)),
        this.arrowsHint,
        this.#box(keysBox, "Keys work anywhere on the page"));
    }

    /** A box that shows the labels over the image, in place of the image. */
    #labels() {
      const { viewer } = this;
      const { frames: [plain], labels, marked } = viewer.data.input;
      const input = element("input", { type: "checkbox", ...(marked ? { checked: "" } : {}) });
      viewer.listen(input, "change", () => {
        if (viewer.data.kind === "volume") {
          viewer.picture.showLabels(input.checked);
          return;
        }
        viewer.picture.surfaces[0].content.src = input.checked ? labels : plain;
      });
      return this.#box(input, `${marked ? "Objects" : "Labels"} over the ${viewer.data.kind}`);
    }

    #scale() {
      this.scaleLabel = element("span", { class: "nl-scale-label" });
      this.scaleMark = element("span", { class: "nl-scale-mark" });
      this.scaleBar = element("div", { class: "nl-scale-bar" }, this.scaleMark);
      this.scaleEnds = element("div", { class: "nl-scale-ends" });
      return element("div", { class: "nl-scale" }, this.scaleLabel, this.scaleBar, this.scaleEnds);
    }

    #tables() {
      const { data } = this.viewer;
      const places = {
        video: ["frames", "row", "column"], volume: ["slice", "row", "column"], image: ["row", "column"],
        sequence: ["step"],
      };
      this.weights = table(
        "Largest weights",
        "Places are those of a key's centre. Values are stored in steps of the largest over 255, signed " +
        "ones over 127; beside them, how many times the even level that is.",
        ["rank", ...places[data.kind], "value", "of even"]);
      this.summary = summaryTable(data);
      this.help = details("Keys", false, keyList(data.kind));
      return element("div", { class: "nl-tables" },
        details("Largest weights as text", false, this.weights.whole),
        details("Summary of the blocks", true, this.summary.whole), this.help);
    }

    #showBlock() {
      const { block, id } = this.viewer;
      this.shownBlock = block;
      this.arrowsHint.textContent =
        `Arrows lead to keys of ${block.stands_out}\u00d7 the even level and more, so many at most.`;
      const choices = block.measures.length < 2 ? [] : block.measures.map(({ name }) => {
        const input = element("input", { type: "radio", name: `${id}-measure`, value: name });
        return element("label", {}, input, element("span", {}, name));
      });
      this.measures.replaceChildren(...choices);
      if (choices.length) this.measures.prepend(element("legend", {}, "Measure"));
      // What was left out on its own is said where the choice would be.
      const { no_effects: reason } = block;
      if (reason) this.measures.append(element("p", { class: "nl-hint" }, `This block has no effects: ${reason}.`));
      this.measures.hidden = choices.length === 0 && !reason;
      [...this.summary.body.rows].forEach((line) => {
        const current = line.cells[0].textContent === block.name;
        if (current) line.setAttribute("aria-current", "true");
        else line.removeAttribute("aria-current");
      });
    }
  };
})();

"use strict";

/**
 * Shows, inside one element, what the non-local blocks of a network attend to in one input.
 *
 * Points are whole numbers in the coordinates of the input: [frame, row, column] of a video, [slice, row,
 * column] of a volume, [row, column] of an image, [position] of a sequence. The other scripts hang their parts on this class, the only global name.
 */
class NonlocalViewer {
  static #made = 0;
  // In the order in which they were made: keys that nobody else takes go to the first.
  static #mounted = new Map();
  #cache = new Map();
  #stopped = new AbortController();
  #observer = null;
  #drawing = 0;
  #talking = 0;
  #player = 0;
  #layoutDue = true;
  #linkDue = false;
  #linkNote = "";

  /**
   * @param {Element} root Emptied and filled; it gets the class nl-viewer.
   * @param {object} data The document, of format 2.
   * @param {object} options deepLinks: read and write the address's fragment. onQuery: called with
   *   (point, pinned) when the user changes either, but not for setQuery(), so that two can follow each other.
   *   level: of the title among the page's headings. named: what is said names the model.
   */
  constructor(root, data, { deepLinks = true, onQuery = null, level = 2, named = false } = {}) {
    const problem = NonlocalViewer.#problemOf(data);
    if (problem) {
      root.textContent = problem;
      throw new Error(problem);
    }
    const { geometry, Panel, Picture } = NonlocalViewer;
    Object.assign(this, { root, data, deepLinks, onQuery, level, named });
    Object.assign(this, { arrows: 5, heat: 0.7, pinned: false, large: false, keysAnywhere: true });
    this.id = `nl-viewer-${NonlocalViewer.#made++}`;
    NonlocalViewer.#mounted.set(root, this);
    this.sides = geometry.padded(data.input.sides, 1);
    this.blocks = data.blocks.map((block) => geometry.prepared(block, this.sides));
    this.block = this.blocks.find(({ name }) => name === data.opens_on) ?? this.blocks[0];
    this.measure = this.block.measures[0];
    this.query = this.sides.map((side) => Math.floor(side / 2));
    // Of a clip the last frame, to which all others have led.
    if (data.kind !== "volume") this.query[0] = this.sides[0] - 1;
    this.frame = this.query[0];
    this.panel = new Panel(this);
    this.picture = data.kind === "volume"
      ? new NonlocalViewer.Planes(this, this.panel.strip)
      : new Picture(this, this.panel.strip, this.panel.stage);
    if (data.input.marked) this.picture.surfaces[0].content.src = data.input.labels;
    NonlocalViewer.listenToPointer(this);
    NonlocalViewer.listenToKeys(this);
    this.#observer = new ResizeObserver(() => this.refresh({ layout: true }));
    this.#observer.observe(this.panel.strip);
    // The pictures are made to fit into the window's height, too.
    this.listen(window, "resize", () => this.refresh({ layout: true }));
    if (deepLinks) {
      this.listen(window, "hashchange", () => this.#followLink());
      // Whoever listens to this viewer does not have it yet.
      this.onQuery = null;
      this.#followLink();
      this.onQuery = onQuery;
    }
    this.refresh();
  }

  /** The viewer in an element, or undefined. */
  static of(root) {
    return NonlocalViewer.#mounted.get(root);
  }

  /** The first viewer that is on the page, or undefined. */
  static first() {
    return [...NonlocalViewer.#mounted.values()].find(({ root }) => root.isConnected);
  }

  /** What is shown: names of block and measure, the point and its position in the block, the large frame. */
  get state() {
    return {
      block: this.block.name,
      measure: this.measure.name,
      query: this.#trimmed(this.query),
      position: this.#trimmed(this.place.position),
      frame: this.frame,
      pinned: this.pinned,
      playing: this.#player !== 0,
    };
  }

  /** The stored position nearest to the query: its place in the block, and the number of its row. */
  get place() {
    return NonlocalViewer.geometry.nearestStored(this.block, this.query);
  }

  /** Resolves to the weights of the query over all keys of the block, a Float32Array. */
  async currentRow() {
    const { row } = this.place;
    return (await this.#decoded().promise).weights(row);
  }

  /** Resolves when all that was asked for is drawn, told and in the link. */
  async settled() {
    await this.#decoded().promise.catch(() => null);
    while (this.#drawing || this.#talking) await new Promise((done) => setTimeout(done, 10));
  }

  /** Show another point; what lies outside the input is moved to its edge. */
  setQuery(point, pinned = this.pinned) {
    if (point.length !== this.data.input.sides.length || !point.every(Number.isFinite)) {
      throw new TypeError(`a point has ${this.data.input.sides.length} coordinates; got ${point}`);
    }
    this.#place(NonlocalViewer.geometry.padded(point, 0), pinned);
  }

  /** Show another block by its name, with the same measure if it has that. */
  selectBlock(name) {
    const block = this.blocks.find((candidate) => candidate.name === name);
    if (!block) throw new RangeError(`there is no block ${name}`);
    const { name: measure } = this.measure;
    this.block = block;
    this.measure = block.measures.find((candidate) => candidate.name === measure) ?? block.measures[0];
    this.#chosen();
  }

  /** Show another measure of the block by its name. */
  selectMeasure(name) {
    const measure = this.block.measures.find((candidate) => candidate.name === name);
    if (!measure) throw new RangeError(`block ${this.block.name} has no measure ${name}`);
    this.measure = measure;
    this.#chosen();
  }

  /** Take everything out of the element again. */
  destroy() {
    this.#stopped.abort();
    this.#observer.disconnect();
    this.pause();
    cancelAnimationFrame(this.#drawing);
    clearTimeout(this.#talking);
    NonlocalViewer.#mounted.delete(this.root);
    this.root.replaceChildren();
    this.root.classList.remove("nl-viewer");
    this.root.style.removeProperty("--nl-heat");
  }

  // What the controls, the pointer and the keys call.

  listen(target, type, handler, options = {}) {
    target.addEventListener(type, handler, { ...options, signal: this.#stopped.signal });
  }

  /** The user points at a place (three axes); what is pinned goes into the link. */
  ask(point, pinned) {
    if (pinned) {
      this.#linkNote = "";
      this.#linkDue = true;
    }
    this.#place(point, pinned);
    this.onQuery?.(this.#trimmed(this.query), pinned);
  }

  stepBlock(step) {
    const next = (this.blocks.indexOf(this.block) + step + this.blocks.length) % this.blocks.length;
    this.selectBlock(this.blocks[next].name);
  }

  setArrows(count) {
    this.arrows = count;
    this.refresh();
  }

  setHeat(opacity) {
    this.heat = opacity;
    this.refresh();
  }

  setLarge(large) {
    this.large = large;
    if (!large) this.pause();
    this.refresh({ layout: true });
  }

  stepFrame(step) {
    this.frame = (this.frame + step + this.sides[0]) % this.sides[0];
    if (!this.large) this.setLarge(true);
    this.refresh();
  }

  togglePlay() {
    if (this.#player) {
      this.pause();
    } else {
      this.#player = setInterval(() => this.stepFrame(1), 250);
      this.setLarge(true);
    }
    this.refresh();
  }

  pause() {
    clearInterval(this.#player);
    this.#player = 0;
  }

  /** Draw before the next frame of the screen, once however often it is called. */
  refresh({ layout = false } = {}) {
    this.#layoutDue ||= layout;
    if (!this.#drawing && !this.#stopped.signal.aborted) {
      this.#drawing = requestAnimationFrame(() => this.#draw());
    }
  }

  // Its own affairs.

  static #problemOf(data) {
    if (data.format !== 2) return `This viewer shows documents of format 2; this one is of ${data.format}.`;
    return data.blocks.length ? "" : "There is nothing to show: the document holds no non-local block.";
  }

  #trimmed(values) {
    return values.slice(values.length - this.data.input.sides.length);
  }

  #place(point, pinned) {
    this.query = NonlocalViewer.geometry.clipped(point, this.sides);
    this.pinned = pinned;
    if (!this.#player) this.frame = this.query[0];
    this.refresh();
  }

  #chosen() {
    this.#linkNote = "";
    this.#linkDue = true;
    this.refresh();
  }

  #followLink() {
    try {
      const wanted = NonlocalViewer.links.read(location.hash, this);
      this.#linkNote = "";
      if (wanted.block) this.selectBlock(wanted.block);
      if (wanted.measure) this.selectMeasure(wanted.measure);
      if (wanted.at) this.ask(wanted.at, true);
      this.#linkDue = false;
    } catch (error) {
      this.#linkNote = `The link was ignored: ${error.message}.`;
    }
    this.refresh();
  }

  #decoded() {
    const { block, measure } = this;
    if (!this.#cache.has(measure)) {
      const entry = { rows: null, problem: "", promise: NonlocalViewer.decodeRows(measure, block) };
      entry.promise.then(
        (rows) => { entry.rows = rows; },
        (error) => { entry.problem = error.message; },
      ).then(() => this.refresh());
      this.#cache.set(measure, entry);
    }
    return this.#cache.get(measure);
  }

  #draw() {
    this.#drawing = 0;
    clearTimeout(this.#talking);
    this.#talking = 0;
    const { rows, problem } = this.#decoded();
    this.panel.update(this.state, problem || this.#linkNote);
    if (this.#layoutDue) this.picture.layout();
    this.#layoutDue = false;
    if (!rows) {
      this.picture.clear();
      this.panel.hush();
      return;
    }
    const { row } = this.place;
    const [scale, even] = [rows.scale(row), rows.even(row)];
    // The last colour is that of the largest weight, but never of less than what stands out: weights that are
    // nearly alike must not look like a finding.
    const top = Math.max(scale, this.block.stands_out * even);
    const drawn = { levels: rows.levels(row), scale, even, top, signed: this.measure.signed };
    this.picture.draw(drawn);
    this.panel.showScale(drawn);
    // A screen reader should hear where the pointer came to rest, and browsers limit changes of the address.
    this.#talking = setTimeout(() => this.#tell(rows.weights(row), even), 150);
  }

  #tell(weights, even) {
    this.#talking = 0;
    this.panel.tell(weights, even);
    if (this.deepLinks && this.#linkDue) NonlocalViewer.links.write(this.state);
    this.#linkDue = false;
  }
}

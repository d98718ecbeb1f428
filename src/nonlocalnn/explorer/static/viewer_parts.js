"use strict";

// Parts: elements of the page, and the tables and lists that are made of them.
NonlocalViewer.parts = (() => {
  function filled(made, attributes, children) {
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children);
    return made;
  }

  function element(tag, attributes, ...children) {
    return filled(document.createElement(tag), attributes, children);
  }

  function svgElement(tag, attributes, ...children) {
    return filled(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
  }

  function row(tag, cells) {
    const attributes = tag === "th" ? { scope: "col" } : {};
    return element("tr", {}, ...cells.map((cell) => element(tag, attributes, cell)));
  }

  /** A table with a name and an explanation; it scrolls by itself where it is too wide for the page. */
  function table(name, explanation, heads) {
    const body = element("tbody", {});
    const whole = element("table", { "aria-label": name }, element("thead", {}, row("th", heads)), body);
    const explained = element("p", { class: "nl-hint" }, explanation);
    return { whole: element("div", {}, explained, element("div", { class: "nl-wide" }, whole)), body };
  }

  function details(title, open, ...children) {
    const made = element("details", {}, element("summary", {}, title), ...children);
    made.open = open;
    return made;
  }

  function percent(probability) {
    return `${(100 * probability).toFixed(1)} %`;
  }

  /**
   * The most probable classes with a bar each; of pixels their shares, in the colours of the labels. An object
   * is a button, which asks about its box.
   */
  function predictionList(prediction, ask) {
    return element("ol", { class: "nl-classes" }, ...prediction.map((each) => {
      const { class: name, probability, share, score, box, colour } = each;
      const part = percent(share ?? score ?? probability);
      const bar = element("span", { class: "nl-bar", "aria-hidden": "true" }, element("span", {}));
      bar.firstChild.style.width = part.replace(" ", "");
      // The background has no colour over the image.
      if (colour?.some(Boolean)) bar.firstChild.style.background = `rgb(${colour.join(" ")})`;
      let called = element("span", { class: "nl-class" }, name);
      if (box) {
        called = element("button", { type: "button", class: "nl-class nl-object" }, name);
        called.addEventListener("click", () => ask(box));
      }
      return element("li", {}, called,
        element("span", { class: "nl-percent" }, part), bar);
    }));
  }

  /** What was predicted, and whether rightly. */
  function verdict({ prediction, truth, kind }) {
    const [best] = prediction;
    const parts = [];
    if (!best || "box" in best) return "";
    if ("share" in best) {
      const what = { volume: "voxels", sequence: "steps" }[kind] ?? "pixels";
      return `Most ${what}: ${best.class}, ${percent(best.share)}.`;
    }
    if (best) parts.push(`Predicted: ${best.class}, ${percent(best.probability)}.`);
    if (truth !== null) {
      const right = truth === best?.class ? "as predicted" : "not as predicted";
      parts.push(best ? `True class: ${truth}, ${right}.` : `True class: ${truth}.`);
    }
    return parts.join(" ");
  }

  function figure(value) {
    return value === null ? "\u2013" : NonlocalViewer.words.number(value);
  }

  function distance(found, uniform) {
    return `${figure(found)}${uniform === null ? "" : ` (${figure(uniform)})`}`;
  }

  /** Each block's figures over all queries of the input. */
  function summaryTable(data) {
    const unit = { sequence: "steps", volume: "rows and columns" }[data.kind] ?? "pixels";
    const along = { video: "frames", volume: "slices" }[data.kind];
    const inTime = along ? [`distance in ${along}`] : [];
    const made = table(
      "Summary of the blocks",
      "Means over the queries of this input. Entropy: 0 = one key, 1 = all keys alike. Distance from a " +
      "query to what it attends to; in brackets, what it would be if all keys counted alike.",
      ["block", "entropy", `distance in ${unit}`, ...inTime]);
    for (const { name, summary, evenly } of data.blocks) {
      const inSpace = distance(summary.distance_pixels, summary.uniform_distance_pixels);
      const cells = [name, `${figure(summary.entropy)}${evenly ? ", nearly even" : ""}`, inSpace];
      if (inTime.length) cells.push(distance(summary.distance_frames, summary.uniform_distance_frames));
      made.body.append(row("td", cells));
    }
    return made;
  }

  const KEYS = [
    ["Arrow keys", "move the query by one position of the block", "all"],
    ["Page up, page down, [ and ]", "move the query by a frame", "video"],
    ["Page up, page down, [ and ]", "move the query by a slice", "volume"],
    ["b, Shift + b", "next and previous block", "all"],
    ["Space", "play or pause", "video"],
    ["Escape", "let go of the query, so that it follows the pointer again", "all"],
    ["?", "show or hide this list", "all"],
  ];

  function keyList(kind) {
    const known = KEYS.filter(([, , where]) => where === "all" || where === kind);
    return element("dl", { class: "nl-keys" }, ...known.flatMap(([keys, use]) =>
      [element("dt", {}, keys), element("dd", {}, use)]));
  }

  return { element, svgElement, row, table, details, predictionList, verdict, summaryTable, keyList };
})();

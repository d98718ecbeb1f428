"use strict";

// Links: the address's fragment, as in #block=layer3.4&at=3,100,57&measure=affinity.
NonlocalViewer.links = (() => {
  function pointOf(text, sides, axes) {
    const point = text.split(",").map((word) => (/^\d+$/.test(word) ? Number(word) : NaN));
    const shown = sides.slice(sides.length - axes);
    if (point.length !== axes || !point.every((value, axis) => value < shown[axis])) {
      throw new RangeError(`at=${text} is no place in an input of ${shown.join(" \u00d7 ")}`);
    }
    return NonlocalViewer.geometry.padded(point, 0);
  }

  /** Returns {block, measure, at} as far as they are given; throws what is wrong. */
  function read(hash, viewer) {
    const wanted = {};
    let { block } = viewer;
    for (const [name, value] of new URLSearchParams(hash.slice(1))) {
      if (name === "block") {
        block = viewer.blocks.find((candidate) => candidate.name === value);
        if (!block) throw new RangeError(`there is no block ${value}`);
      } else if (name === "at") {
        wanted.at = pointOf(value, viewer.sides, viewer.data.input.sides.length);
        continue;
      } else if (name !== "measure") {
        throw new RangeError(`${name} is none of block, at and measure`);
      }
      wanted[name] = value;
    }
    if (wanted.measure && !block.measures.some(({ name }) => name === wanted.measure)) {
      throw new RangeError(`block ${block.name} has no measure ${wanted.measure}`);
    }
    return wanted;
  }

  function write({ block, query, measure }) {
    const [blockName, measureName] = [block, measure].map(encodeURIComponent);
    const words = `#block=${blockName}&at=${query.join(",")}&measure=${measureName}`;
    try {
      history.replaceState(history.state, "", words);
    } catch {
      // A page inside another without an address of its own, as in a notebook, has no link to keep.
    }
  }

  return { read, write };
})();

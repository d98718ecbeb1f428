"use strict";

// Decoding: a measure's rows are packed until somebody looks at them.
NonlocalViewer.decodeRows = (() => {
  /** What is asked of unpacked rows, each by its number. */
  function rowsOf(levels, scales, even, keys, signed) {
    const all = signed ? new Int8Array(levels.buffer) : levels;
    const most = signed ? 127 : 255;
    const levelsOf = (row) => all.subarray(row * keys, (row + 1) * keys);
    return {
      // The bytes of a row, one a key: -127..127 or 0..255.
      levels: levelsOf,
      // The weight that the largest byte stands for.
      scale: (row) => scales[row],
      // The weight that each key of a row would have if all were alike.
      even: (row) => even[row],
      weights: (row) => Float32Array.from(levelsOf(row), (level) => (level / most) * scales[row]),
    };
  }

  function bytesOf(base64) {
    return Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  }

  async function inflated(bytes) {
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }

  function floatsOf(base64) {
    const bytes = bytesOf(base64);
    const view = new DataView(bytes.buffer);
    return Float32Array.from({ length: bytes.length / 4 }, (_, row) => view.getFloat32(4 * row, true));
  }

  /** Resolves to the rows; rejects with a sentence for the user. */
  return async function decodeRows(measure, block) {
    if (typeof DecompressionStream === "undefined") {
      throw new Error("This browser is too old to unpack the weights: it has no DecompressionStream.");
    }
    const { product } = NonlocalViewer.geometry;
    const queries = product(block.places.map((along) => along.length));
    const keys = product(block.keySides);
    try {
      const levels = await inflated(bytesOf(measure.rows));
      const [scales, even] = [floatsOf(measure.scales), floatsOf(measure.even)];
      if (levels.length !== queries * keys || scales.length !== queries || even.length !== queries) {
        throw new RangeError("wrong length");
      }
      return rowsOf(levels, scales, even, keys, measure.signed);
    } catch {
      throw new Error(`The weights of block ${block.name} are damaged: have this page written anew.`);
    }
  };
})();

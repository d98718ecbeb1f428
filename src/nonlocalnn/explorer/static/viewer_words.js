"use strict";

// Words: places and numbers as sentences.
NonlocalViewer.words = (() => {
  const FORMS = {
    gaussian: "Gaussian", embedded_gaussian: "embedded Gaussian", dot_product: "dot product",
    concatenation: "concatenation",
  };
  const EXTENTS = {
    spacetime: "over space and time", space: "over space, each frame by itself",
    time: "over time, each place by itself",
  };

  /** Three significant digits, and a proper minus. */
  function number(value) {
    return String(Number(value.toPrecision(3))).replace("-", "\u2212");
  }

  /** A number with its noun. */
  function counted(count, noun) {
    return `${count} ${noun}${count === 1 ? "" : "s"}`;
  }

  /** A weight as a multiple of the even level. */
  function times(weight, even) {
    return even ? `${number(weight / even)}\u00d7` : "\u2013";
  }

  /** What a sequence is: its steps, and where its rate is known how long they take. */
  function length({ sides: [steps], channels, rate }) {
    const time = rate ? `, ${number(steps / rate)} s` : "";
    return `${counted(channels?.length ?? 0, "channel")} of ${counted(steps, "step")}${time}`;
  }

  /** What a volume is: slices, rows and columns, and where they are known their millimetres. */
  function volume({ sides, planes, window }) {
    const voxels = `volume of ${sides.join(" \u00d7 ")} voxels (slices \u00d7 rows \u00d7 columns)`;
    const apart = planes.has_spacing ? `, ${planes.spacing.map(number).join(" \u00d7 ")} mm apart` : "";
    const ways = window ? `; classes by windows of ${window} voxels, maps of one pass over the whole` : "";
    return `${voxels}${apart}${ways}`;
  }

  /** Where a voxel lies in millimetres: towards the right, the front and the head where the file tells that. */
  function millimetres({ affine, has_spacing: known }, point) {
    if (!known) return "";
    const found = affine.map((line) => line[0] * point[0] + line[1] * point[1] + line[2] * point[2] + line[3]);
    const [x, y, z] = found.map((value) => number(Math.round(10 * value) / 10));
    return ` (x ${x}, y ${y}, z ${z} mm)`;
  }

  /** What the input is, and in which pixels its rows and columns count: those that the network sees. */
  function sizes({ kind, input }) {
    const { sides, picture_sides: own, file_sides: file } = input;
    const shape = (some) => some.join(" \u00d7 ");
    if (kind === "sequence") return `sequence of ${shape(sides)} steps`;
    if (kind === "volume") return volume(input);
    const whole = file ?? own;
    if (!whole || whole.join() === sides.slice(-2).join()) return `${kind} of ${shape(sides)}`;
    const cut = isCut(file, own) ? ", its sides cut off" : "";
    const seen = `which the network sees as ${shape(sides)}${cut}`;
    return `${kind} of ${shape(whole)} pixels, ${seen}: rows and columns are counted there`;
  }

  /** Whether a picture is a part of its file: of another shape than rounding to whole pixels gives. */
  function isCut(file, own) {
    if (!file || !own) return false;
    const scale = Math.max(own[0] / file[0], own[1] / file[1]);
    return own.some((side, axis) => Math.abs(side - file[axis] * scale) > 1);
  }

  /** A frame with its number and time in the file. */
  function frame(viewer, index) {
    const { frame_numbers: numbers, seconds } = viewer.data.input;
    const inFile = [];
    if (numbers) inFile.push(`file frame ${numbers[index]}`);
    if (seconds) inFile.push(`${seconds[index].toFixed(2)} s`);
    return `frame ${index}${inFile.length ? ` (${inFile.join(", ")})` : ""}`;
  }

  /** A step of a sequence, and where its rate is known when that is. */
  function step(viewer, index) {
    const { rate } = viewer.data.input;
    return rate ? `step ${index} (${number(index / rate)} s)` : `step ${index}`;
  }

  function place(viewer, [time, row, column]) {
    const { kind } = viewer.data;
    if (kind === "sequence") return step(viewer, column);
    const inFrame = `row ${row}, column ${column}`;
    if (kind === "volume") {
      return `slice ${time}, ${inFrame}${millimetres(viewer.data.input.planes, [time, row, column])}`;
    }
    return kind === "video" ? `${frame(viewer, time)}, ${inFrame}` : inFrame;
  }

  /** What a key covers, as cells of a table: frames, and the row and column of its centre. */
  function keyCells(viewer, key) {
    const { block, sides, data } = viewer;
    const { keyPosition, centreOf, clipped, boxOf, framesOf } = NonlocalViewer.geometry;
    const position = keyPosition(block, key);
    const [slice, row, column] = clipped(centreOf(block.keyGrid, position), sides);
    if (data.kind === "sequence") return [String(column)];
    if (data.kind === "image") return [String(row), String(column)];
    if (data.kind === "volume") return [slice, row, column].map(String);
    const [first, last] = framesOf(boxOf(block.keyGrid, position)[0]);
    return [first < last ? `${first}\u2013${last}` : String(first), String(row), String(column)];
  }

  function keyPlace(viewer, key) {
    const cells = keyCells(viewer, key);
    if (cells.length === 1) return step(viewer, Number(cells[0]));
    const inFrame = `row ${cells.at(-2)}, column ${cells.at(-1)}`;
    if (cells.length === 2) return inFrame;
    if (viewer.data.kind === "volume") return place(viewer, cells.map(Number));
    return `${cells[0].includes("\u2013") ? "frames" : "frame"} ${cells[0]}, ${inFrame}`;
  }

  /** Three sentences: the block and its form, the query, the strongest key. */
  function status(viewer, weights, strongest, even) {
    const { block, measure, query, pinned } = viewer;
    const form = FORMS[block.instantiation] ?? block.instantiation;
    // Images and sequences have no space apart from time.
    const extent = viewer.data.kind === "video" ? `, ${EXTENTS[block.extent] ?? block.extent}` : "";
    const kind = measure.name === "affinity" ? "weight" : measure.name;
    const inModel = viewer.named ? ` in ${viewer.data.model}` : "";
    const spread = block.evenly ? ` attends nearly evenly (entropy ${block.summary.entropy.toFixed(2)} of 1)` : "";
    const asked = `Query${pinned ? ", pinned" : ""}: ${place(viewer, query)}.`;
    let found = `No key counts at all${inModel}.`;
    if (strongest !== undefined) {
      const weight = weights[strongest];
      const largest = `${keyPlace(viewer, strongest)}, with ${kind} ${number(weight)}, ` +
        `${times(weight, even)} the even level`;
      found = Math.abs(weight) >= block.stands_out * even
        ? `Its strongest key${inModel}: ${largest}.` : `No key stands out${inModel}; the strongest: ${largest}.`;
    }
    return [`Block ${block.name} (${form}${extent})${spread}.`, asked, found];
  }

  return { number, times, sizes, length, frame, place, keyCells, status };
})();

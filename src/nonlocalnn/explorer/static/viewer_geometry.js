"use strict";

// Geometry: every input has three axes here, [frame, row, column]; an image has one frame, a sequence one row
// as well.
// Pixel p covers [p, p + 1), so that its centre lies at p + 0.5.
NonlocalViewer.geometry = (() => {
  const AXES = 3;

  function padded(values, filling) {
    return [...Array(AXES - values.length).fill(filling), ...values];
  }

  function paddedGrid(grid, counts, inputSides) {
    const [steps, centres] = [padded(grid.steps, 1), padded(grid.centres, 0.5)];
    const reach = steps.map((step, axis) => reachOf(step, centres[axis], counts[axis], inputSides[axis]));
    return { steps, centres, counts, reach };
  }

  /** From where to where boxes go along an axis: to the input's edge, but for what a pool left out. */
  function reachOf(step, centre, count, side) {
    const low = centre - step / 2;
    const high = low + count * step;
    return [low < step / 2 ? 0 : low, side - high < step / 2 ? side : high];
  }

  /** The block with three axes throughout. */
  function prepared(block, inputSides) {
    const [sides, keySides] = [padded(block.sides, 1), padded(block.key_sides, 1)];
    return {
      ...block,
      sides,
      grid: paddedGrid(block.grid, sides, inputSides),
      keySides,
      keyGrid: paddedGrid(block.key_grid, keySides, inputSides),
      places: padded(block.query_places, [0]),
    };
  }

  function product(numbers) {
    return numbers.reduce((so_far, number) => so_far * number, 1);
  }

  /** Whole numbers inside the input. */
  function clipped(point, sides) {
    return point.map((value, axis) => Math.min(Math.max(Math.floor(value), 0), sides[axis] - 1));
  }

  function centreOf(grid, position) {
    return position.map((index, axis) => grid.centres[axis] + index * grid.steps[axis]);
  }

  /** Where a position lies in the input, as [low, high] along each axis. */
  function boxOf(grid, position) {
    return centreOf(grid, position).map((centre, axis) => {
      const [[low, high], half] = [grid.reach[axis], grid.steps[axis] / 2];
      return [
        position[axis] === 0 ? low : Math.max(centre - half, low),
        position[axis] === grid.counts[axis] - 1 ? high : Math.min(centre + half, high),
      ];
    });
  }

  /** What covers an axis: number of the first key, how many, and from where to where they lie. */
  function spansOf({ steps, centres, counts, reach }, axis) {
    const [low, high] = reach[axis];
    const start = centres[axis] - steps[axis] / 2;
    const end = start + counts[axis] * steps[axis];
    const spans = [[0, counts[axis], start, end]];
    // The boxes at the edges can be longer than the others.
    if (low < start) spans.push([0, 1, low, start]);
    if (end < high) spans.push([counts[axis] - 1, 1, end, high]);
    return spans;
  }

  /** The number of the stored place along an axis that is nearest to a coordinate of the input. */
  function nearestAlong(block, axis, coordinate) {
    const distances = block.places[axis].map((index) =>
      Math.abs(block.grid.centres[axis] + index * block.grid.steps[axis] - coordinate));
    return distances.indexOf(Math.min(...distances));
  }

  /** The stored position nearest to a point's pixel. */
  function nearestStored(block, point) {
    const numbers = point.map((value, axis) => nearestAlong(block, axis, value + 0.5));
    const row = numbers.reduce((so_far, number, axis) => so_far * block.places[axis].length + number, 0);
    return { numbers, row, position: numbers.map((number, axis) => block.places[axis][number]) };
  }

  /** The point at the stored position one step along an axis from the query's, or null at the edge. */
  function neighbour(block, point, axis, step, sides) {
    const { numbers, position } = nearestStored(block, point);
    const next = block.places[axis][numbers[axis] + step];
    if (next === undefined) return null;
    const moved = [...position];
    moved[axis] = next;
    const there = clipped(centreOf(block.grid, moved), sides);
    // The frame that the user chose stays: a position may cover several.
    return axis === 0 ? there : [point[0], there[1], there[2]];
  }

  function keyPosition(block, key) {
    const [, rows, columns] = block.keySides;
    return [Math.floor(key / (rows * columns)), Math.floor(key / columns) % rows, key % columns];
  }

  /** The index in time of the keys that a frame shows, or null where no key covers the frame's centre. */
  function keyTime({ keyGrid }, frame) {
    const [low, high] = keyGrid.reach[0];
    if (frame + 0.5 < low || frame + 0.5 >= high) return null;
    const index = Math.floor((frame + 0.5 - keyGrid.centres[0]) / keyGrid.steps[0] + 0.5);
    return Math.min(Math.max(index, 0), keyGrid.counts[0] - 1);
  }

  /** The frame whose centre is nearest to a time; the earlier of two. */
  function nearestFrame(time, frames) {
    return Math.min(Math.max(Math.ceil(time - 1), 0), frames - 1);
  }

  /** First and last frame whose centre lies in the time of a box. */
  function framesOf([low, high]) {
    return [Math.ceil(low - 0.5), Math.ceil(high - 0.5) - 1];
  }

  /** Numbers of the keys with the largest absolute levels, downwards; never a key without weight. */
  function strongest(levels, count) {
    const best = [];
    for (let key = 0; key < levels.length; key++) {
      const size = Math.abs(levels[key]);
      if (size === 0 || (best.length === count && size <= Math.abs(levels[best[count - 1]]))) continue;
      let place = best.length;
      while (place > 0 && Math.abs(levels[best[place - 1]]) < size) place--;
      best.splice(place, 0, key);
      if (best.length > count) best.pop();
    }
    return best;
  }

  return {
    padded, prepared, product, clipped, centreOf, boxOf, spansOf, nearestStored, neighbour, keyPosition, keyTime,
    nearestFrame, framesOf, strongest,
  };
})();

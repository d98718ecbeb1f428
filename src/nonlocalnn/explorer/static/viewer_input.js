"use strict";

// Pointer: hovering asks, a click or tap pins, a click on what is pinned lets go.
NonlocalViewer.listenToPointer = (viewer) => {
  const { nearestStored } = NonlocalViewer.geometry;
  const samePlace = (point) =>
    point[0] === viewer.query[0] && nearestStored(viewer.block, point).row === viewer.place.row;
  for (const surface of viewer.picture.screens) {
    viewer.listen(surface.screen, "pointermove", (event) => {
      // A finger that moves is scrolling.
      if (event.pointerType !== "touch" && !viewer.pinned) viewer.ask(surface.pointOf(event), false);
    });
    viewer.listen(surface.screen, "click", (event) => {
      const point = surface.pointOf(event);
      viewer.ask(point, !(viewer.pinned && samePlace(point)));
      viewer.panel.strip.focus({ preventScroll: true });
    });
  }
};

// Keyboard: anywhere on the page, but what a control or another viewer uses stays its own. Who dictates, or
// types by accident, can keep the keys to the pictures: a box beside them says so.
NonlocalViewer.listenToKeys = (viewer) => {
  const STEPS = {
    ArrowUp: [1, -1], ArrowDown: [1, 1], ArrowLeft: [2, -1], ArrowRight: [2, 1],
  };
  const FRAMES = { PageUp: -1, PageDown: 1, "[": -1, "]": 1 };

  function move(axis, step) {
    if (viewer.sides[axis] === 1) return false;
    const there = NonlocalViewer.geometry.neighbour(viewer.block, viewer.query, axis, step, viewer.sides);
    if (there) viewer.ask(there, true);
    return true;
  }

  function moveFrame(step) {
    const [frame, row, column] = viewer.query;
    if (viewer.sides[0] === 1) return false;
    viewer.ask([frame + step, row, column], true);
    return true;
  }

  function release() {
    if (!viewer.pinned) return false;
    viewer.ask(viewer.query, false);
    return true;
  }

  const COMMANDS = {
    Escape: release,
    b: () => { viewer.stepBlock(1); return true; },
    B: () => { viewer.stepBlock(-1); return true; },
    "?": () => { viewer.panel.toggleHelp(); return true; },
    " ": () => {
      if (viewer.data.kind !== "video") return false;
      viewer.togglePlay();
      return true;
    },
  };

  /** Returns whether the key was for the viewer; any other keeps its use. */
  function obey(key) {
    if (STEPS[key]) return move(...STEPS[key]);
    if (FRAMES[key]) return moveFrame(FRAMES[key]);
    return COMMANDS[key]?.() ?? false;
  }

  function isOurs(target) {
    const around = target.closest(".nl-viewer");
    if (around ? around !== viewer.root : NonlocalViewer.first() !== viewer) return false;
    return viewer.keysAnywhere || viewer.panel.strip.contains(target);
  }

  /** Whether what has the focus has a use of its own for a key. */
  function isTaken(target, key) {
    const within = (selector) => target.closest(selector) !== null;
    if (key === "Escape") return false;
    // These take letters, too.
    if (within("select, textarea, [contenteditable], input:not([type=range], [type=radio], [type=checkbox])")) {
      return true;
    }
    if (key === " ") return within("input, button, summary, a");
    return /^(Arrow|Page)/.test(key) && within("input[type=range], input[type=radio], .nl-wide");
  }

  viewer.listen(document, "keydown", (event) => {
    if (event.defaultPrevented || event.ctrlKey || event.altKey || event.metaKey) return;
    const { target, key } = event;
    if (isOurs(target) && !isTaken(target, key) && obey(key)) event.preventDefault();
  });
};

"use strict";

// Colours: maps of 256 colours each, interpolated in OKLab, where equal steps look equal.
NonlocalViewer.colours = (() => {
  // Lightness, chroma, hue in degrees; the lightnesses are evenly spaced.
  const SEQUENTIAL = [
    [0.18, 0.06, 285], [0.375, 0.15, 305], [0.57, 0.19, 5], [0.765, 0.15, 55], [0.96, 0.1, 105],
  ];
  const SIGNED = [[0.45, 0.16, 262], [0.715, 0.09, 255], [0.98, 0, 0], [0.715, 0.1, 30], [0.45, 0.17, 27]];

  function lab([lightness, chroma, hue]) {
    const angle = (hue * Math.PI) / 180;
    return [lightness, chroma * Math.cos(angle), chroma * Math.sin(angle)];
  }

  /** Red, green, blue in 0..255 of a colour in OKLab. */
  function rgb([lightness, a, b]) {
    const long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3;
    const medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3;
    const short = (lightness - 0.0894841775 * a - 1.291485548 * b) ** 3;
    return [
      4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short,
      -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short,
      -0.0041960863 * long - 0.7034186147 * medium + 1.707614701 * short,
    ].map((linear) => {
      const held = Math.min(Math.max(linear, 0), 1);
      return Math.round(255 * (held <= 0.0031308 ? 12.92 * held : 1.055 * held ** (1 / 2.4) - 0.055));
    });
  }

  function colourAt(controls, fraction) {
    const along = fraction * (controls.length - 1);
    const before = Math.min(Math.floor(along), controls.length - 2);
    const [low, high] = [lab(controls[before]), lab(controls[before + 1])];
    return rgb(low.map((value, axis) => value + (along - before) * (high[axis] - value)));
  }

  // What is not attended to stays recognisable, and so does the picture under even attention, which is a third
  // up the scale: the dark colours cover less than the bright ones.
  function sequentialTable() {
    const table = new Uint8ClampedArray(4 * 256);
    for (let level = 0; level < 256; level++) {
      table.set([...colourAt(SEQUENTIAL, level / 255), 255 * (0.3 + (0.7 * level) / 255)], 4 * level);
    }
    return table;
  }

  // The smallest effects must not veil the picture: nothing is drawn at zero, and little near it.
  function signedTable() {
    const table = new Uint8ClampedArray(4 * 256);
    for (let level = -127; level <= 127; level++) {
      const alpha = 255 * Math.sqrt(Math.abs(level) / 127);
      table.set([...colourAt(SIGNED, (level + 127) / 254), alpha], 4 * (level + 128));
    }
    return table;
  }

  const tables = new Map();

  /** Red, green, blue and alpha of each level, 4 bytes each; of signed levels from -128 on. */
  function table(signed) {
    if (!tables.has(signed)) tables.set(signed, signed ? signedTable() : sequentialTable());
    return tables.get(signed);
  }

  /** The map as a CSS gradient from left to right. */
  function gradient(signed) {
    const stops = Array.from({ length: 17 }, (_, stop) => {
      const [red, green, blue] = colourAt(signed ? SIGNED : SEQUENTIAL, stop / 16);
      return `rgb(${red} ${green} ${blue})`;
    });
    return `linear-gradient(to right, ${stops.join(", ")})`;
  }

  return { table, gradient };
})();

// Typesets what pymdownx.arithmatex marks, with the KaTeX that lies beside this file.
function typeset() {
  for (const element of document.querySelectorAll(".arithmatex")) {
    renderMathInElement(element, {
      delimiters: [
        { left: "\\[", right: "\\]", display: true },
        { left: "\\(", right: "\\)", display: false },
      ],
      throwOnError: false,
    });
  }
}

// Where the theme swaps pages without a reload, each new page is typeset again.
if (typeof document$ === "undefined") {
  document.addEventListener("DOMContentLoaded", typeset);
} else {
  document$.subscribe(typeset);
}

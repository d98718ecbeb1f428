"use strict";

// The explorer: choose an input and models, follow the job, show what it made. One job at a time.
(() => {
  const MOST_MODELS = 2;
  // Milliseconds between two looks at a job: soon at first, then at ease.
  const [FIRST_WAIT, LONGEST_WAIT, WAIT_FOR_NAME] = [200, 1500, 500];
  // What each kind of model takes, and what the browser offers for it.
  const KINDS = {
    image: ["an image", "image/*"],
    video: ["a video", "video/*"],
    sequence: ["a sequence (.npy or .csv)", ".npy,.csv"],
    volume: ["a volume (.nii, .nii.gz or .npy)", ".nii,.gz,.npy"],
  };
  const element = (id) => document.getElementById(id);
  const make = NonlocalViewer.parts.element;
  const page = {
    uploadBytes: Infinity,
    file: null,
    input: "",
    job: null,
    viewers: [],
  };

  /** Ask the server; throws what it says is wrong. */
  async function ask(path, options = {}) {
    let response;
    try {
      response = await fetch(path, options);
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Error("The server does not answer. Is it still running?");
    }
    const answer = await response.json().catch((error) => {
      if (error.name === "AbortError") throw error;
      return null;
    });
    if (!response.ok) {
      const retry = Number(response.headers.get("Retry-After"));
      const words = answer?.error ?? `the server answered with status ${response.status}`;
      throw new Error(sentence(words) + (retry ? ` (In about ${retry} s.)` : ""));
    }
    if (answer === null) throw new Error("The server's answer is no JSON.");
    return answer;
  }

  function sentence(words) {
    // A file keeps its name as it is.
    const name = page.file?.name ?? page.input.split("/").pop();
    const first = name && words.startsWith(name) ? words.charAt(0) : words.charAt(0).toUpperCase();
    return first + words.slice(1) + (/[.!?]$/.test(words) ? "" : ".");
  }

  function say(words, isProblem = false) {
    const state = element("state");
    state.classList.toggle("problem", isProblem);
    // A screen reader repeats whatever is set, changed or not.
    if (state.textContent !== words) state.textContent = words;
  }

  // What is chosen.

  function sizeOf(bytes) {
    return bytes < 1 << 20 ? `${Math.ceil(bytes / 1024)} KiB` : `${(bytes / (1 << 20)).toFixed(1)} MiB`;
  }

  function chooseFile(file) {
    if (!file) return;
    if (file.size > page.uploadBytes) {
      say(`${file.name} has ${sizeOf(file.size)}; up to ${sizeOf(page.uploadBytes)} are taken.`, true);
      return;
    }
    page.file = file;
    page.input = "";
    for (const box of element("inputs").querySelectorAll("input:checked")) box.checked = false;
    element("chosen").textContent = `${file.name} (${sizeOf(file.size)})`;
    say("");
    update();
  }

  function chooseInput(name) {
    page.input = name;
    page.file = null;
    element("file").value = "";
    element("chosen").textContent = name;
    update();
  }

  function chosenModels() {
    return [...element("models").querySelectorAll("input:checked")].map((box) => box.value);
  }

  function update() {
    const models = chosenModels();
    const isBusy = page.job !== null;
    const focused = document.activeElement;
    for (const box of element("models").querySelectorAll("input")) {
      box.disabled = isBusy || (!box.checked && models.length >= MOST_MODELS);
    }
    const [explainButton, cancelButton] = [element("explain"), element("cancel")];
    explainButton.disabled = isBusy || models.length === 0 || !(page.file || page.input);
    cancelButton.hidden = !isBusy;
    element("progress").hidden = !isBusy;
    // Who works by keyboard must not lose the place with what goes: Enter works in a model's box, too.
    if (isBusy && focused?.disabled) cancelButton.focus();
    if (!isBusy && focused === cancelButton) explainButton.focus({ preventScroll: true });
  }

  function listModels(models) {
    if (models.length > 1) element("models-legend").textContent = "Models, one or two";
    const kinds = Object.keys(KINDS).filter((kind) => models.some((model) => model.kind === kind));
    element("wanted").textContent = kinds.map((kind) => KINDS[kind][0]).join(" or ");
    element("file").accept = kinds.map((kind) => KINDS[kind][1]).join();
    for (const [number, { name, kind }] of models.entries()) {
      const box = make("input", { type: "checkbox", value: name });
      box.checked = number === 0;
      box.addEventListener("change", update);
      element("models").append(make("label", {}, box, name, make("span", { class: "quiet" }, `${kind}s`)));
    }
  }

  /** The browser makes the thumbnails of the files themselves: the server decodes nothing. */
  function thumbnailOf({ name, kind }) {
    // Numbers, which the place names; or nothing that is read here: the reason is told to who chooses it.
    if (kind !== "image" && kind !== "video") return make("span", { class: "thumbnail quiet" }, kind ?? "");
    const source = `/api/inputs/${name.split("/").map(encodeURIComponent).join("/")}`;
    if (kind === "image") {
      const image = make("img", { loading: "lazy", alt: "", class: "thumbnail" });
      // What this browser cannot read keeps its name and an empty place.
      image.addEventListener("error", () => image.removeAttribute("src"));
      image.src = source;
      return image;
    }
    const video = make("video", { muted: "", preload: "metadata", class: "thumbnail", tabindex: -1 });
    // Not the first frame, which is often black.
    inView.observe(Object.assign(video, { later: `${source}#t=0.5` }));
    return video;
  }

  // Videos, unlike images, have no lazy loading of their own.
  const inView = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      if (isIntersecting && !target.src) target.src = target.later;
    }
  });

  function listInputs(inputs) {
    element("listed").hidden = inputs.length === 0;
    element("inputs").append(...inputs.map((input) => make("label", { class: "input" },
      make("input", { type: "radio", name: "input", value: input.name }), thumbnailOf(input), input.name)));
  }

  // A job, from the button to its result.

  function wordsOf({ state, position, step, reason }) {
    if (state === "queued") return position === 1 ? "Next in the queue." : `Number ${position} in the queue.`;
    if (state === "running") return sentence(step ?? "starting");
    if (state === "cancelled") return "Cancelled.";
    return state === "failed" ? sentence(reason) : "Done.";
  }

  async function explain() {
    const form = new FormData();
    if (page.file) form.append("file", page.file);
    else form.append("input", page.input);
    for (const name of chosenModels()) form.append("models", name);
    const job = { id: null, cancelled: false, upload: new AbortController() };
    page.job = job;
    clear();
    say(page.file ? "Uploading." : "Sending.");
    update();
    try {
      let about = await ask("/api/jobs", { method: "POST", body: form, signal: job.upload.signal });
      job.id = about.id;
      about = await (job.cancelled ? end(job).catch(() => follow(about)) : follow(about));
      if (about.state === "done") await show(about);
      say(wordsOf(about), about.state === "failed");
    } catch (error) {
      if (error.name === "AbortError") say("Cancelled.");
      else say(error.message, true);
    }
    page.job = null;
    update();
  }

  async function follow(about) {
    let wait = FIRST_WAIT;
    while (["queued", "running"].includes(about.state)) {
      say(wordsOf(about));
      await new Promise((resolve) => setTimeout(resolve, wait));
      wait = Math.min(wait * 1.3, LONGEST_WAIT);
      about = await ask(`/api/jobs/${about.id}`);
    }
    return about;
  }

  function end(job) {
    return ask(`/api/jobs/${job.id}`, { method: "DELETE" });
  }

  async function cancel() {
    const { job } = page;
    if (!job) return;
    job.cancelled = true;
    // What was sent whole is a job already, whose name is on its way: then it is ended when the name comes.
    if (job.id === null) return setTimeout(() => job.id ?? job.upload.abort(), WAIT_FOR_NAME);
    try {
      const about = await end(job);
      // By now another one may have begun.
      if (page.job === job) say(wordsOf(about));
    } catch (error) {
      // It was done a moment ago: its result comes.
      if (page.job === job) say(error.message);
    }
  }

  // Results: a viewer a model; two show the same place.

  function clear() {
    for (const viewer of page.viewers) viewer.destroy();
    page.viewers = [];
    element("results").replaceChildren();
    // A link into the last result means nothing in the next.
    if (location.hash) history.replaceState(null, "", location.pathname);
  }

  async function show({ id, models }) {
    const path = (what, model) => `/api/jobs/${id}/${what}/${encodeURIComponent(model)}`;
    const documents = await Promise.all(models.map((model) => ask(path("document", model))));
    element("results").classList.toggle("two", models.length > 1);
    for (const [number, model] of models.entries()) {
      const section = element("result").content.cloneNode(true).firstElementChild;
      section.setAttribute("aria-label", model);
      section.querySelector("h2").textContent = model;
      const link = section.querySelector("a");
      link.href = path("page", model);
      link.setAttribute("aria-label", `Save as page: ${model}`);
      element("results").append(section);
      mount(section.querySelector(".viewer"), documents[number], number, models.length > 1);
    }
    element("results").scrollIntoView();
  }

  function mount(root, shown, number, isOneOfTwo) {
    const onQuery = (point, pinned) => {
      for (const viewer of page.viewers) {
        if (viewer.data !== shown) viewer.setQuery(sameplace(point, shown, viewer.data), pinned);
      }
    };
    try {
      const options = { deepLinks: number === 0, onQuery, level: 3, named: isOneOfTwo };
      page.viewers.push(new NonlocalViewer(root, shown, options));
    } catch (error) {
      // The viewer has said it in its place.
      console.warn(error.message);
    }
  }

  /** The point of another model's input: its frames may be of another size, and more or fewer. */
  function sameplace(point, from, to) {
    return point.map((value, axis) => {
      const [here, there] = [from.input.sides[axis], to.input.sides[axis]];
      return Math.min(there - 1, Math.floor(((value + 0.5) * there) / here));
    });
  }

  // Start.

  function listen() {
    element("file").addEventListener("change", (event) => chooseFile(event.target.files[0]));
    element("inputs").addEventListener("change", (event) => chooseInput(event.target.value));
    element("form").addEventListener("submit", (event) => {
      event.preventDefault();
      if (!element("explain").disabled) explain();
    });
    element("cancel").addEventListener("click", cancel);
    // Anywhere on the page: a file that misses its place would replace the page.
    const over = (isOver) => element("drop").classList.toggle("over", isOver);
    document.addEventListener("dragover", (event) => {
      event.preventDefault();
      over(true);
    });
    document.addEventListener("dragleave", (event) => {
      if (event.relatedTarget === null) over(false);
    });
    document.addEventListener("drop", (event) => {
      event.preventDefault();
      over(false);
      if (page.job === null) chooseFile(event.dataTransfer.files[0]);
    });
  }

  async function start() {
    listen();
    try {
      const [about, { inputs }] = await Promise.all([ask("/api/models"), ask("/api/inputs")]);
      page.uploadBytes = about.upload_bytes;
      element("hint").textContent = `or drop it here (up to ${sizeOf(about.upload_bytes)})`;
      listModels(about.models);
      listInputs(inputs);
    } catch (error) {
      say(error.message, true);
    }
    update();
  }

  start();
})();

"use strict";
// The viewer: NiiVue, unpacked from the page when the viewer comes into view. It follows the table
// (a click on a row moves it to the lesion) and leads it (a click on a lesion marks its row).
{
  const byId = (id) => document.getElementById(id);
  const [note, canvas, told] = ["viewer-note", "viewer-canvas", "viewer-told"].map(byId);
  const rows = [...byId("lesion-table").tBodies[0].rows];
  const rowOf = (index) => rows.find((row) => Number(row.dataset.index) === index);
  const colours = JSON.parse(byId("viewer-colours").textContent);
  let viewer = null;
  let images = {};
  let labels = null;
  let current = rows[0];
  let ready = false;
  let pending = Promise.resolve();

  const hasWebGl = () => {
    try { return Boolean(document.createElement("canvas").getContext("webgl2")); } catch { return false; }
  };

  async function unpacked(base64) {
    const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).text();
  }

  function volume(id, options) {
    const base64 = byId(`volume-${id}`).textContent;
    return niivue.NVImage.loadFromBase64({ base64, name: `${id}.nii.gz`, colorbarVisible: false, ...options });
  }

  // Colours of the label image: background, the chosen lesion, all others.
  function labelColours() {
    const all = rows.map((row) => Number(row.dataset.index));
    const index = Number(current.dataset.index);
    const chosen = current.dataset.outcome === "FN" ? colours.missed : colours.lesion;
    const steps = [0, ...all.toSorted((a, b) => a - b)];
    const part = (place) => steps.map((step) => (step === index ? chosen : colours.others)[place]);
    return { R: part(0), G: part(1), B: part(2), A: steps.map((step) => (step ? 255 : 0)), I: steps,
      labels: steps.map((step) => (step ? `L${String(step).padStart(3, "0")}` : "")) };
  }

  function size() {
    canvas.parentElement.style.height = `${Math.min(Math.max(canvas.parentElement.clientWidth / 3.1, 200), 420)}px`;
  }

  async function start() {
    note.textContent = "The viewer is starting …";
    const script = document.createElement("script");
    script.textContent = await unpacked(byId("niivue").textContent);
    document.head.append(script);
    size();
    viewer = new niivue.Niivue({
      backColor: [0.059, 0.067, 0.078, 1], crosshairColor: [0.89, 0.91, 0.93, 0.65], crosshairWidth: 0.7,
      crosshairGap: 6, isRadiologicalConvention: true, sagittalNoseLeft: false, multiplanarShowRender: 0,
      multiplanarLayout: 3, show3Dcrosshair: false, isColorbar: false, dragAndDropEnabled: false,
      gradientOrder: 1, fontColor: [0.89, 0.91, 0.93, 1], fontMinPx: 13, logLevel: "error",
      loadingText: "",
    });
    await viewer.attachToCanvas(canvas);
    viewer.addColormap("lesion-positive", colours.positive);
    viewer.addColormap("lesion-negative", colours.negative);
    for (const key of ["flair", "t1w"]) {
      images[key] = await volume(key, { colormap: "gray", cal_min: 1, cal_max: 255 });
    }
    labels = await volume("labels", { opacity: 0.4 });
    viewer.onLocationChange = located;
    note.hidden = true;
    byId("viewer-controls").hidden = false;
    await show(current);
    byId("viewer").dataset.state = "ready";
    ready = true;
  }

  // A click on a lesion in the viewer chooses it.
  function located(place) {
    const found = place.values.find((value) => value.id === labels.id);
    const row = found && rowOf(Math.round(found.value));
    const texts = [...place.mm].slice(0, 3).map((mm) => mm.toFixed(1).replace("-", "−"));
    byId("viewer-at").textContent = `${texts.join(", ")} mm${row ? `, in ${row.dataset.lesion}` : ""}`;
    if (row && row !== current && !canvas.dataset.moving) select(row, false);
  }

  function mark(row) {
    current = row;
    for (const other of rows) other.toggleAttribute("data-chosen", other === row);
  }

  function select(row, move = true) {
    mark(row);
    // Until the viewer is there, the choice waits.
    if (!ready) return;
    pending = pending.then(() => show(row, move)).catch((error) => {
      note.hidden = false;
      note.textContent = `The viewer cannot show this lesion (${error.message}); its figure below does.`;
    });
  }

  async function show(row, move = true) {
    mark(row);
    const name = row.dataset.lesion;
    const channel = byId("viewer-saliency").value;
    const stored = channel && byId(`volume-${name}-flair`);
    const limit = stored ? Number(stored.dataset.limit) : 0;
    // Below, colours fade away, with the square of the value.
    const faint = 0.3 * limit;
    const saliency = stored && await volume(`${name}-${channel}`, {
      colormap: "lesion-positive", colormapNegative: "lesion-negative", opacity: 0.9,
      cal_min: faint, cal_max: limit, cal_minNeg: -limit, cal_maxNeg: -faint,
    });
    // COLORMAP_TYPE.ZERO_TO_MAX_TRANSPARENT_BELOW_MIN
    if (saliency) saliency.colormapType = 1;
    document.querySelector("#viewer .bar").hidden = !saliency;
    byId("viewer-least").textContent = (-limit).toPrecision(3).replace("-", "−");
    byId("viewer-most").textContent = limit.toPrecision(3);
    labels.setColormapLabel(labelColours());
    const parts = [images[byId("viewer-image").value], byId("viewer-lesions").checked && labels, saliency];
    // As NiiVue's own setVolume does, but for all volumes at once.
    viewer.volumes = parts.filter(Boolean);
    [viewer.back, ...viewer.overlays] = viewer.volumes;
    viewer.updateGLVolume();
    if (move) {
      canvas.dataset.moving = "yes";
      viewer.scene.crosshairPos = viewer.mm2frac(row.dataset.mm.split(" ").map(Number), 0, true);
      viewer.drawScene();
      viewer.createOnLocationChange();
      delete canvas.dataset.moving;
    }
    told.value = `${name}${saliency ? `, saliency of ${channel === "flair" ? "FLAIR" : "T1w"}` : ""}`;
  }

  function step(by) {
    const shown = [...byId("lesion-table").tBodies[0].rows].filter((row) => !row.hidden);
    if (!shown.length) return;
    const place = shown.indexOf(current);
    const row = shown[(place + by + shown.length) % shown.length];
    const box = row.closest(".tall");
    box.scrollTop += row.getBoundingClientRect().top - box.getBoundingClientRect().top - box.clientHeight / 2;
    select(row);
  }

  function connect() {
    byId("lesion-table").tBodies[0].addEventListener("click", (event) => {
      const row = event.target.closest("tr");
      if (row && !event.target.closest("a")) select(row);
    });
    byId("viewer-image").addEventListener("change", () => select(current, false));
    byId("viewer-saliency").addEventListener("change", () => select(current, false));
    byId("viewer-lesions").addEventListener("change", () => select(current, false));
    byId("viewer-before").addEventListener("click", () => step(-1));
    byId("viewer-after").addEventListener("click", () => step(1));
    for (const link of document.querySelectorAll("[data-show]")) {
      link.addEventListener("click", () => select(rows.find((row) => row.dataset.lesion === link.dataset.show)));
    }
    addEventListener("resize", size);
  }

  if (!hasWebGl()) {
    byId("viewer").dataset.state = "none";
    note.textContent = "This browser has no WebGL2, so there is no interactive viewer here. The figures of the single lesions below show the same slices.";
    canvas.parentElement.remove();
  } else {
    connect();
    const watch = new IntersectionObserver((seen) => {
      if (!seen.some((entry) => entry.isIntersecting)) return;
      watch.disconnect();
      start().catch((error) => {
        byId("viewer").dataset.state = "failed";
        note.hidden = false;
        note.textContent = `The interactive viewer could not start (${error.message}). The figures of the single lesions below show the same slices.`;
        canvas.parentElement.remove();
      });
    }, { rootMargin: "200px" });
    watch.observe(byId("viewer"));
  }
}

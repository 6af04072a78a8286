"""The labelling page: HTML, and pictures for it."""

from __future__ import annotations

import struct
import zlib

import numpy as np

# Whatever comes from the data is put in by textContent, never as HTML.
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Labels</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style nonce="@NONCE@">
body { font: 16px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem;
  color: #222; background: #fff; }
header { display: flex; justify-content: space-between; color: #555; }
#item { border: 1px solid #bbb; border-radius: 6px; padding: 1rem; margin: 1rem 0;
  min-height: 6rem; white-space: pre-wrap; overflow-wrap: anywhere; }
#item img { image-rendering: pixelated; min-width: 12rem; max-width: 100%; }
td { padding: 0 1rem 0 0; } td + td { text-align: right; font-variant-numeric: tabular-nums; }
#classes { display: grid; gap: .4rem; }
button { font: inherit; padding: .4rem .8rem; border: 1px solid #888; border-radius: 6px;
  background: #f4f4f4; cursor: pointer; text-align: left; }
button:focus-visible { outline: 2px solid #0072b2; }
.class { display: grid; grid-template-columns: 2rem 1fr 8rem 3.5rem; align-items: center; }
kbd { color: #555; }
.bar { height: .6rem; background: #ddd; } .bar i { display: block; height: 100%;
  background: #0072b2; }
.p { text-align: right; font-variant-numeric: tabular-nums; }
#why, #message { color: #555; } #message { min-height: 1.5rem; }
svg { width: 100%; height: 8rem; border: 1px solid #ddd; margin-top: 1rem; }
</style></head><body>
<header><span id="progress"></span><span id="score"></span></header>
<div id="item"></div>
<p id="why"></p>
<div id="classes"></div>
<form id="number" hidden><input id="value" inputmode="decimal" autocomplete="off"
 aria-label="answer"> <button>answer</button></form>
<p><button id="skip"><kbd>space</kbd> skip</button>
<button id="undo"><kbd>backspace</kbd> undo</button></p>
<p id="message" role="status"></p>
<svg id="curve" viewBox="0 0 400 100" preserveAspectRatio="none"><polyline fill="none"
 stroke="#0072b2" stroke-width="2" vector-effect="non-scaling-stroke" points=""/></svg>
<p id="caption"></p>
<script nonce="@NONCE@">
"use strict";
const token = new URLSearchParams(location.search).get("token");
const by = id => document.getElementById(id);
const KEYS = "1234567890abcdefghijklmnopqrstuvwxyz";
let now = null, busy = false;
async function call(path, body) {
  const options = { headers: { "X-Token": token } };
  if (body !== undefined) {
    options.method = "POST";
    options.body = JSON.stringify(body);
    options.headers["Content-Type"] = "application/json";
  }
  const answer = await fetch(path, options);
  const found = await answer.json();
  if (!answer.ok) throw new Error(found.error);
  return found;
}
async function act(path, body) {
  if (busy) return;
  busy = true;
  by("message").textContent = "\\u2026";
  try { show(await call(path, body)); by("message").textContent = now.message; }
  catch (error) { by("message").textContent = error.message; }
  finally { busy = false; }
}
function element(name, text, parent) {
  const out = document.createElement(name);
  if (text !== null) out.textContent = text;
  parent.appendChild(out);
  return out;
}
function show(state) {
  now = state;
  by("progress").textContent =
    `${state.n_labelled} of ${state.n_rows} labelled, ${state.n_skipped} skipped`;
  by("score").textContent = state.score === null ? "" : `${state.score_name} ${state.score}`;
  by("why").textContent = state.why;
  const item = by("item");
  item.replaceChildren();
  if (state.done) item.textContent = "No rows are left.";
  else if (state.content.kind === "text") item.textContent = state.content.text;
  else if (state.content.kind === "image") {
    const image = element("img", null, item);
    image.alt = `row ${state.item}`;
    image.src = state.content.data;
  } else {
    const body = element("tbody", null, element("table", null, item));
    for (const [name, value] of state.content.cells) {
      const row = element("tr", null, body);
      element("td", name, row);
      element("td", value, row);
    }
  }
  const box = by("classes");
  box.replaceChildren();
  by("number").hidden = !state.regression || state.done;
  if (!state.done && !state.regression) state.classes.forEach((name, k) => {
    const button = element("button", null, box);
    button.className = "class";
    element("kbd", KEYS[k] || "", button);
    element("span", name, button);
    const bar = element("span", null, button), p = state.proba === null ? null : state.proba[k];
    bar.className = "bar";
    if (p !== null) element("i", null, bar).style.width = `${100 * p}%`;
    element("span", p === null ? "" : p.toFixed(3), button).className = "p";
    button.onclick = () => act("api/label", { item: now.item, choice: k });
  });
  const curve = state.curve, line = by("curve").firstElementChild;
  by("caption").textContent = curve.length > 1 ? state.caption : "";
  let low = 0, high = 1;
  if (curve.length) { low = Math.min(low, ...curve); high = Math.max(high, ...curve); }
  line.setAttribute("points", curve.map((v, i) =>
    `${400 * i / Math.max(1, curve.length - 1)},${98 - 96 * (v - low) / (high - low)}`).join(" "));
}
by("skip").onclick = () => now && !now.done && act("api/skip", { item: now.item });
by("undo").onclick = () => act("api/undo", {});
by("number").onsubmit = event => {
  event.preventDefault();
  const value = by("value").value;
  by("value").value = "";
  act("api/label", { item: now.item, value });
};
document.addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey || !now) return;
  if (event.target.tagName === "INPUT") return;
  if (event.repeat) {  // a key held down is one answer, not one for every row to come
    if (event.key === " " || event.key === "Enter") event.preventDefault();
    return;
  }
  const k = KEYS.indexOf(event.key);
  if (event.key === " ") { event.preventDefault(); by("skip").click(); }
  else if (event.key === "Backspace") { event.preventDefault(); by("undo").click(); }
  else if (k >= 0 && !now.done && !now.regression && k < now.classes.length) {
    event.preventDefault();
    act("api/label", { item: now.item, choice: k });
  }
});
act("api/next");
</script></body></html>
"""


def page(nonce: str) -> bytes:
    """The page; only scripts and styles with the nonce are run."""
    return PAGE.replace("@NONCE@", nonce).encode()


def png(image: np.ndarray, low: float, high: float) -> bytes:
    """A picture, values from low to high, as PNG.

    Parameters
    ----------
    image : ndarray of shape (height, width) or (height, width, channels)
        1 channel (grey), 3 (red, green, blue) or 4 (and opacity); (1, height, width) is grey too.
    low, high : float
        What is black and what is white.

    Raises
    ------
    ValueError
        If it has another shape.
    """
    values = np.asarray(image, dtype=np.float64)
    if values.ndim == 3 and values.shape[2] not in (3, 4):
        values = values[:, :, 0] if values.shape[2] == 1 else values
        values = values[0] if values.ndim == 3 and values.shape[0] == 1 else values
    if values.ndim != 2 and not (values.ndim == 3 and values.shape[2] in (3, 4)):
        raise ValueError(
            f"A picture has the shape {values.shape}; it must be (height, width), or (height, "
            "width, channels) with 1, 3 or 4 channels."
        )
    scaled = (255 * (values - low) / ((high - low) or 1.0)).clip(0, 255).round().astype(np.uint8)
    height, width = scaled.shape[:2]
    rows = scaled.reshape(height, -1)
    raw = b"".join(b"\0" + row.tobytes() for row in rows)  # each row without a filter
    colour = 0 if scaled.ndim == 2 else {3: 2, 4: 6}[scaled.shape[2]]
    head = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    parts = [(b"IHDR", head), (b"IDAT", zlib.compress(raw)), (b"IEND", b"")]
    out = b"\x89PNG\r\n\x1a\n"
    for name, data in parts:
        out += struct.pack(">I", len(data)) + name + data
        out += struct.pack(">I", zlib.crc32(name + data))
    return out

// The cards of the page: progress, sound while it is made, waveform, spectrogram, regions. No library, nothing from elsewhere.
(() => {
  "use strict";
  const make = (tag, attributes = {}, ...children) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else if (value !== null && value !== undefined) element.setAttribute(name, value);
    }
    element.append(...children);
    return element;
  };
  const clock = (seconds) => `${Math.floor(seconds / 60)}:${(seconds % 60).toFixed(1).padStart(4, "0")}`;
  const field = (id) => document.querySelector(`#${id} textarea, #${id} input`);
  // Gradio's fields hear an input event
  const set = (id, value) => {
    const element = field(id);
    if (!element) return;
    const kind = element.tagName === "TEXTAREA" ? HTMLTextAreaElement : HTMLInputElement;
    Object.getOwnPropertyDescriptor(kind.prototype, "value").set.call(element, value);
    for (const name of ["input", "change", "blur"]) element.dispatchEvent(new Event(name, { bubbles: true }));
  };
  const there = async (selector) => {
    while (!document.querySelector(selector)) await new Promise((done) => setTimeout(done, 30));
  };
  const root = () => document.baseURI.split(/[?#]/)[0].replace(/[^/]*$/, "");
  const ask = async (path, body) => {
    const answer = await fetch(root() + path, {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body ?? {}),
    });
    const told = await answer.json();
    if (!answer.ok) throw new Error(told.error?.message ?? answer.statusText);
    return told;
  };

  // ------------------------------------------------------------------ sound while it is made
  let context = null, listening = null;
  const audioContext = () => (context ??= new (window.AudioContext || window.webkitAudioContext)());
  const hush = () => { listening?.stop(); listening = null; };

  const listen = (token) => {
    hush();
    const control = new AbortController(), sources = new Set();
    const self = { played: 0, stop: () => { control.abort(); sources.forEach((each) => { try { each.stop(); } catch {} }); } };
    listening = self;
    (async () => {
      const answer = await fetch(`${root()}page/sound/${token}`, { signal: control.signal });
      const rate = +answer.headers.get("X-Sampling-Rate"), channels = +answer.headers.get("X-Channels");
      const out = audioContext();
      await out.resume();
      const reader = answer.body.getReader();
      let rest = new Uint8Array(0), when = 0;
      for (;;) {
        const { done, value } = await reader.read();
        if (done) break;
        const joined = new Uint8Array(rest.length + value.length);
        joined.set(rest); joined.set(value, rest.length);
        const frames = Math.floor(joined.length / (2 * channels));
        rest = joined.slice(frames * 2 * channels);
        if (!frames) continue;
        const samples = new DataView(joined.buffer), buffer = out.createBuffer(channels, frames, rate);
        for (let channel = 0; channel < channels; channel++) {
          const data = buffer.getChannelData(channel);
          for (let i = 0; i < frames; i++) data[i] = samples.getInt16(2 * (i * channels + channel), true) / 32768;
        }
        const source = out.createBufferSource();
        source.buffer = buffer;
        source.connect(out.destination);
        when = Math.max(when, out.currentTime + 0.05);
        source.start(when);
        when += buffer.duration;
        self.played += buffer.duration;
        sources.add(source);
        source.onended = () => sources.delete(source);
      }
    })().catch((error) => { if (error.name !== "AbortError") console.warn(error); });
  };

  // ------------------------------------------------------------------ pictures
  const transform = (re, im) => {
    const size = re.length;
    for (let i = 1, j = 0; i < size; i++) {
      let bit = size >> 1;
      for (; j & bit; bit >>= 1) j ^= bit;
      j ^= bit;
      if (i < j) { [re[i], re[j]] = [re[j], re[i]]; [im[i], im[j]] = [im[j], im[i]]; }
    }
    for (let length = 2; length <= size; length <<= 1) {
      const angle = (-2 * Math.PI) / length, half = length / 2;
      for (let k = 0; k < half; k++) {
        const c = Math.cos(angle * k), s = Math.sin(angle * k);
        for (let i = k; i < size; i += length) {
          const j = i + half, x = re[j] * c - im[j] * s, y = re[j] * s + im[j] * c;
          re[j] = re[i] - x; im[j] = im[i] - y; re[i] += x; im[i] += y;
        }
      }
    }
  };
  const drawSpectrum = (canvas, buffer) => {
    const width = (canvas.width = 600), height = (canvas.height = 96), size = 1024;
    const samples = buffer.getChannelData(0), paint = canvas.getContext("2d"), picture = paint.createImageData(width, height);
    const low = 50, high = Math.min(buffer.sampleRate / 2, 12000), re = new Float32Array(size), im = new Float32Array(size);
    for (let x = 0; x < width; x++) {
      const first = Math.round((x / width) * samples.length) - size / 2;
      for (let i = 0; i < size; i++) {
        re[i] = (samples[first + i] || 0) * (0.5 - 0.5 * Math.cos((2 * Math.PI * i) / size));
        im[i] = 0;
      }
      transform(re, im);
      for (let y = 0; y < height; y++) {
        const bin = (low * (high / low) ** ((height - y) / height) * size) / buffer.sampleRate;
        const under = Math.floor(bin), share = bin - under;
        const power = (k) => re[k] * re[k] + im[k] * im[k];
        const level = 10 * Math.log10(power(under) * (1 - share) + power(under + 1) * share + 1e-9);
        const value = Math.max(0, Math.min(1, (level + 25) / 65)), place = 4 * (y * width + x);
        picture.data[place] = 255 * Math.min(1, value * 1.6 - 0.35);
        picture.data[place + 1] = 255 * Math.max(0, Math.min(1, value * 1.3 - 0.12));
        picture.data[place + 2] = 60 + 150 * Math.sin(Math.PI * value);
        picture.data[place + 3] = 255;
      }
    }
    paint.putImageData(picture, 0, 0);
  };
  const drawWave = (canvas, buffer, position, region) => {
    const width = (canvas.width = 900), height = (canvas.height = 120), paint = canvas.getContext("2d");
    const samples = buffer.getChannelData(0), duration = buffer.duration;
    let loudest = 0.05;
    for (const sample of samples) loudest = Math.max(loudest, Math.abs(sample));
    paint.clearRect(0, 0, width, height);
    if (region && region[1] > region[0]) {
      paint.fillStyle = "rgba(214, 140, 20, 0.35)";
      paint.fillRect((region[0] / duration) * width, 0, ((region[1] - region[0]) / duration) * width, height);
    }
    for (let x = 0; x < width; x += 2) {
      let peak = 0;
      const stop = Math.floor(((x + 2) / width) * samples.length);
      for (let i = Math.floor((x / width) * samples.length); i < stop; i++) peak = Math.max(peak, Math.abs(samples[i]));
      paint.fillStyle = x / width < position / duration ? "#1f7a5c" : "#6f8fa6";
      const tall = Math.max(1, (peak / loudest) * height);
      paint.fillRect(x, (height - tall) / 2, 1.5, tall);
    }
  };

  // ------------------------------------------------------------------ a card
  class Card extends HTMLElement {
    connectedCallback() {
      if (this.begun) return;
      this.begun = true;
      this.setAttribute("role", "group");
      this.token = this.getAttribute("token");
      this.follow().catch((error) => this.fail(error.message));
    }
    async follow() {
      const answer = await fetch(`${root()}page/job/${this.token}`);
      if (!answer.ok) throw new Error((await answer.json()).error?.message ?? answer.statusText);
      const reader = answer.body.getReader(), decoder = new TextDecoder();
      let text = "";
      for (;;) {
        const { done, value } = await reader.read();
        if (done) break;
        text += decoder.decode(value, { stream: true });
        const events = text.split("\n\n");
        text = events.pop();
        for (const event of events) this.show(JSON.parse(event.slice(6)));
      }
    }
    show(told) {
      this.setAttribute("state", told.state);
      if (told.state === "making") this.showMaking(told);
      else if (told.state === "done") this.showDone(told);
      else this.fail(told.state === "stopped" ? "Stopped." : told.message, told.title);
    }
    fail(message, title) {
      if (listening && this.listens) hush();
      this.replaceChildren(
        make("div", { class: "title" }, title ?? ""), make("div", { class: "failed", role: "alert" }, message),
      );
    }
    showMaking(told) {
      if (!this.bar) {
        this.bar = make("progress", { max: 1, value: 0, "aria-label": "how far it is" });
        this.facts = make("div", { class: "facts", "aria-live": "polite" });
        const stop = make("button", { type: "button", class: "stop", onclick: () => { stop.disabled = true; ask(`page/stop/${this.token}`); } }, "Stop");
        this.replaceChildren(make("div", { class: "title" }, told.title), this.bar, this.facts, make("div", { class: "row" }, stop));
        if (told.is_streamed && !this.hasAttribute("silent") && document.querySelector("#listen input")?.checked) {
          this.listens = true;
          listen(this.token);
        }
      }
      if (told.stage === "waiting") {
        this.facts.textContent = told.ahead ? `waiting: ${told.ahead} before it` : "waiting for its turn";
        return;
      }
      this.bar.value = told.num_steps ? told.step / told.num_steps : 0;
      const left = told.seconds_left === null ? "" : `, ${Math.ceil(told.seconds_left)} s left`;
      this.facts.textContent = told.stage === "sound"
        ? `${told.made_in_s.toFixed(0)} of ${(told.num_steps / 10).toFixed(0)} s of sound${left}`
        : `${told.stage}: ${told.step} of ${told.num_steps} tokens${left}`;
    }
    showDone(told) {
      const variants = told.made.map((made, place) => this.variant(told, made, place));
      this.replaceChildren(make("div", { class: "title" }, told.title), ...variants);
      if (this.hasAttribute("main") && told.made[0]?.told) remember(told.made[0].told);
      this.dispatchEvent(new CustomEvent("done", { bubbles: true }));
    }
    variant(told, made, place) {
      const address = `${root()}page/file/${this.token}/${place}`;
      const wave = make("canvas", { class: "wave", tabindex: 0, role: "img", "aria-label": "waveform; arrow keys move" });
      const spectrum = make("canvas", { class: "spectrum", role: "img", "aria-label": "spectrogram: time to the right, pitch upward" });
      const player = make("audio", { controls: "", preload: "auto", src: `${address}.wav` });
      const facts = [clock(made.length)];
      if (made.told) facts.push(`seed ${made.told.seed}`);
      if (made.similarity !== null && made.similarity !== undefined) facts.push(`CLAP similarity ${made.similarity.toFixed(3)}`);
      if (made.start !== null && made.start !== undefined) facts.push(`new from ${clock(made.start)}`);
      const row = make("div", { class: "row" });
      const again = (label, how, hint) => make("button", { type: "button", title: hint, onclick: (event) => this.again(event, place, how) }, label);
      if (!told.hides_settings) {
        row.append(make("a", { class: "button", href: `${address}.wav`, download: "" }, "WAV"), make("a", { class: "button", href: `${address}.flac`, download: "" }, "FLAC"));
        if (!told.is_recording) row.append(again("Again", "again", "the same with another seed"));
        if (!told.is_recording && told.can_change) {
          row.append(
            again("Longer", "longer", "go on from its end"), again("Vary", "vary", "its structure stays, its sound is made anew"),
            again("Keep the tune, change the sound", "sound", "with the prompt that stands above"),
          );
        }
        if (told.can_change && !this.hasAttribute("chosen")) {
          row.append(make("button", { type: "button", onclick: () => window.openMusicLM.edit(this.token, place) }, "Edit"));
        }
        if (made.told) row.append(make("button", { type: "button", onclick: (event) => link(event, made.told) }, "Copy its address"));
      }
      const box = make("div", { class: "variant" }, wave, spectrum, player, make("div", { class: "facts" }, facts.join(" · ")), row);
      this.picture(address, wave, spectrum, player, made).catch((error) => console.warn(error));
      return box;
    }
    async picture(address, wave, spectrum, player, made) {
      const data = await (await fetch(`${address}.wav`)).arrayBuffer();
      const buffer = await new OfflineAudioContext(1, 1, 48000).decodeAudioData(data);
      const region = () => this.region ?? (made.start !== null && made.start !== undefined ? [made.start, made.stop] : null);
      const draw = () => drawWave(wave, buffer, player.currentTime, region());
      this.redraw = draw;
      draw();
      drawSpectrum(spectrum, buffer);
      player.addEventListener("play", () => { hush(); for (const other of document.querySelectorAll("music-card audio")) if (other !== player) other.pause(); });
      for (const name of ["timeupdate", "seeked"]) player.addEventListener(name, draw);
      const moment = (event, canvas) => {
        const box = canvas.getBoundingClientRect();
        return Math.max(0, Math.min(1, (event.clientX - box.left) / box.width)) * buffer.duration;
      };
      const chooses = this.hasAttribute("chosen");
      for (const canvas of [wave, spectrum]) {
        let from = null;
        canvas.addEventListener("pointerdown", (event) => { from = moment(event, canvas); canvas.setPointerCapture(event.pointerId); });
        canvas.addEventListener("pointermove", (event) => {
          if (from === null || !chooses) return;
          const to = moment(event, canvas);
          if (Math.abs(to - from) > 0.05) this.choose(Math.min(from, to), Math.max(from, to));
        });
        canvas.addEventListener("pointerup", (event) => {
          if (from !== null && Math.abs(moment(event, canvas) - from) < 0.05) player.currentTime = from;
          from = null;
        });
      }
      wave.addEventListener("keydown", (event) => {
        const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
        if (step) { player.currentTime = Math.max(0, player.currentTime + step); event.preventDefault(); }
        if (event.key === " ") { player.paused ? player.play() : player.pause(); event.preventDefault(); }
      });
      this.setAttribute("drawn", "");
    }
    choose(start, stop) {
      this.region = [start, stop];
      set("edit-start", start.toFixed(2));
      set("edit-stop", stop.toFixed(2));
      this.redraw?.();
    }
    async again(event, place, how) {
      const button = event.target;
      button.disabled = true;
      try {
        const prompt = how === "sound" ? field("prompt")?.value ?? "" : "";
        const { token } = await ask("page/again", { token: this.token, place, how, prompt });
        add(this.closest(".music-cards"), token);
      } catch (error) { window.alert(error.message); }
      button.disabled = false;
    }
  }
  customElements.define("music-card", Card);

  // ------------------------------------------------------------------ what Gradio's buttons call
  const add = (cards, token, attributes = {}) => {
    const card = make("music-card", { token, main: "", ...attributes });
    cards.prepend(card);
    card.scrollIntoView({ behavior: "smooth", block: "nearest" });
  };
  const addressOf = (told) => {
    const address = new URL(location.href);
    address.search = "";
    address.hash = "";
    address.searchParams.set("settings", JSON.stringify({ prompt: told.prompt, seed: told.seed, duration_in_s: told.duration_in_s, asked: told.asked }));
    return address.href;
  };
  const remember = (told) => { if (!told.asked?.way) history.replaceState(null, "", addressOf(told)); };
  const link = async (event, told) => {
    const button = event.target, address = addressOf(told);
    try { await navigator.clipboard.writeText(address); button.textContent = "Copied"; }
    catch { window.prompt("Its address:", address); }
    setTimeout(() => (button.textContent = "Copy its address"), 2000);
  };
  window.openMusicLM = {
    // before a request: browsers let sound begin where somebody has clicked
    ready: () => { try { audioContext().resume(); } catch {} },
    show: (where, token) => {
      if (token) add(document.querySelector(`#${where} .music-cards`), token.split(" ")[0]);
    },
    edit: async (token, place) => {
      [...document.querySelectorAll("button[role=tab]")].find((tab) => tab.textContent.includes("edit"))?.click();
      await there("#edit-source textarea, #edit-source input"); // a tab is made when it is first shown
      await there("#edit-chosen .music-cards");
      set("edit-source", `${token} ${place}`);
      window.openMusicLM.chosen(`${token} ${place}`);
    },
    chosen: (source) => {
      if (!source) return;
      const card = make("music-card", { token: source.split(" ")[0], chosen: "", silent: "" });
      document.querySelector("#edit-chosen .music-cards").replaceChildren(card);
      set("edit-start", "0");
      set("edit-stop", "0");
    },
    pair: (tokens) => {
      if (!tokens) return;
      const sides = tokens.split(" ").map((token, place) => make("div", {}, make("h3", {}, "AB"[place]), make("music-card", { token, silent: "" })));
      document.querySelector("#pair .music-cards").replaceChildren(...sides);
    },
    save: (files) => {
      for (const [name, text] of Object.entries(files ? JSON.parse(files) : {})) {
        const address = URL.createObjectURL(new Blob([text], { type: "application/json" }));
        const anchor = make("a", { href: address, download: name });
        document.body.append(anchor);
        anchor.click();
        anchor.remove();
      }
    },
  };
})();

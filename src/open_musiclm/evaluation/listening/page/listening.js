"use strict";
// Pairs, blinded: which system is A is known to listening_key.json only, which never leaves the one who asks.
const test = JSON.parse(document.getElementById("test").textContent);
const storageName = "open-musiclm-listening-" + test.id;
const byId = (id) => document.getElementById(id);
let state = { rater: "", ratings: {} };
let place = 0;

function recall() {
  try {
    const kept = JSON.parse(localStorage.getItem(storageName));
    if (kept && kept.ratings) state = kept;
  } catch (error) { /* a private window keeps nothing; the test works all the same */ }
}

function keep() {
  try { localStorage.setItem(storageName, JSON.stringify(state)); } catch (error) { /* as above */ }
}

function show(name) {
  for (const part of ["start", "pair", "end"]) byId(part).hidden = part !== name;
  const rated = Object.keys(state.ratings).length;
  byId("done").style.width = (100 * rated) / test.pairs.length + "%";
}

function showPair() {
  const pair = test.pairs[place];
  byId("number").textContent = "Pair " + (place + 1) + " of " + test.pairs.length;
  byId("prompt").textContent = "“" + pair.prompt + "”";
  for (const side of ["a", "b"]) {
    const player = byId("audio-" + side);
    player.pause();
    player.src = pair[side];
    player.dataset.heard = "";
  }
  const given = state.ratings[pair.id];
  for (const choice of document.querySelectorAll("input[name=rating]")) {
    choice.checked = given !== undefined && Number(choice.value) === given.rating;
  }
  refresh();
  show("pair");
  byId("audio-a").focus(); // the button that was pressed is off now, and would take the keyboard's place with it
}

function refresh() {
  const rated = state.ratings[test.pairs[place].id] !== undefined;
  const heard = ["a", "b"].every((side) => byId("audio-" + side).dataset.heard) || rated;
  for (const choice of document.querySelectorAll("input[name=rating]")) choice.disabled = !heard;
  byId("hint").textContent = heard ? "" : "Listen to both clips first.";
  byId("next").disabled = !rated;
  byId("next").textContent = place + 1 < test.pairs.length ? "Next" : "Finish";
  byId("back").disabled = place === 0;
}

function rate(value) {
  state.ratings[test.pairs[place].id] = { rating: Number(value) };
  keep();
  refresh();
  show("pair");
}

function result() {
  const ratings = test.pairs.filter((pair) => state.ratings[pair.id] !== undefined)
    .map((pair) => ({ pair: pair.id, rating: state.ratings[pair.id].rating }));
  return JSON.stringify({ format: 1, test: test.id, rater: state.rater, ratings: ratings }, null, 1) + "\n";
}

function download() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([result()], { type: "application/json" }));
  link.download = "listening-" + test.id + "-" + (state.rater.replace(/[^\w-]+/g, "_") || "anonymous") + ".json";
  document.body.append(link);
  link.click();
  link.remove();
}

byId("begin").addEventListener("click", () => {
  const rater = byId("rater").value.trim();
  if (state.rater && rater !== state.rater) state = { rater: rater, ratings: {} }; // someone else at the same browser
  state.rater = rater;
  keep();
  const first = test.pairs.findIndex((pair) => state.ratings[pair.id] === undefined);
  if (first === -1) { show("end"); return; }
  place = first;
  showPair();
});
byId("next").addEventListener("click", () => {
  if (place + 1 < test.pairs.length) { place += 1; showPair(); } else {
    for (const side of ["a", "b"]) byId("audio-" + side).pause();
    show("end");
  }
});
byId("back").addEventListener("click", () => { place -= 1; showPair(); });
byId("again").addEventListener("click", () => { place = 0; showPair(); });
byId("download").addEventListener("click", download);
for (const choice of document.querySelectorAll("input[name=rating]")) {
  choice.addEventListener("change", () => rate(choice.value));
}
for (const side of ["a", "b"]) {
  const player = byId("audio-" + side);
  player.addEventListener("play", () => byId("audio-" + (side === "a" ? "b" : "a")).pause());
  player.addEventListener("ended", () => { player.dataset.heard = "yes"; refresh(); });
  // most of a clip is enough to have heard it
  player.addEventListener("timeupdate", () => {
    if (player.duration && player.currentTime > 0.6 * player.duration) { player.dataset.heard = "yes"; refresh(); }
  });
}
recall();
byId("rater").value = state.rater;
show("start");

"""The whole evaluation through the command, on tiny real networks."""

import json
import re
import shutil

import numpy as np
import pytest
import soundfile
from browser import needs_browser, run_in_browser, screenshot
from evaluation_networks import chord
from evaluation_scene import FAST, command, without_timing

from open_musiclm.audio import write_audio
from open_musiclm.cli import main
from open_musiclm.evaluation import evaluate
from open_musiclm.evaluation.embedders import cache as embedding_cache
from open_musiclm.evaluation.metrics.frechet import frechet_distance
from open_musiclm.evaluation.metrics.kernel import kernel_audio_distance
from open_musiclm.evaluation.systems import system as systems
from open_musiclm.evaluation.verdicts import Verdict


@pytest.fixture(scope="module")
def done(scene, nets, tmp_path_factory):
    output = tmp_path_factory.mktemp("report")
    assert main(command(scene, nets, output, "--listening-test", "--num-pairs", "6")) == 0
    return output, json.loads((output / "report.json").read_text(encoding="utf-8"))


def result(report, metric, system):
    return next(r for r in report["results"] if r["metric"] == metric and r["system"] == system)


METRICS = (
    "CLAP score", "FAD", "FAD∞", "KAD", "KL divergence", "Chroma agreement", "Tempo agreement", "Key agreement", "Diversity",
    "Vendi score", "Silence rate", "Clipping rate",
)  # fmt: skip


def test_every_metric_of_every_system_with_its_record(done):
    _, report = done
    for system in ("ours", "musicgen", "held-out", "white noise"):
        for metric in METRICS:
            found = result(report, metric, system)
            assert found["value"] is not None
            assert found["num_clips"] == (5 if metric == "Tempo agreement" else 1 if metric == "Key agreement" else 6)
    fad = result(report, "FAD", "musicgen")
    assert fad["backbone"]["weights_fingerprint"].startswith("sha256:")
    assert (fad["num_windows"], fad["num_reference_clips"], fad["num_reference_windows"]) == (6, 8, 8)
    assert (fad["windowing"]["window_in_s"], fad["backbone"]["sampling_rate"]) == (10.0, 8000)
    assert any("6 clips are few" in warning for warning in fad["warnings"])
    assert "KL(reference||generated)" in result(report, "KL divergence", "ours")["settings"]["direction"]
    assert result(report, "KAD", "ours")["settings"]["bandwidth"] > 0
    assert any("conditions ours" in warning for warning in result(report, "CLAP score", "ours")["warnings"])


def test_figures_are_those_of_the_metrics(done, nets, scene):
    from open_musiclm.evaluation.embedders.networks import ClapEmbedder

    output, report = done
    clap = ClapEmbedder.from_pretrained(str(nets / "pipeline"))

    def embed(folder):
        rows = []
        for path in sorted(folder.glob("*.*")):
            audio = soundfile.read(path)[0].astype(np.float32)
            times = 80000 // len(audio)
            rows.append(clap.embed(np.pad(np.tile(audio, times), (0, 80000 - times * len(audio)))[None])[0])
        return np.concatenate(rows)

    reference, musicgen = embed(scene / "reference"), embed(output / "audio" / "musicgen")
    assert result(report, "FAD", "musicgen")["value"] == pytest.approx(frechet_distance(musicgen, reference), rel=1e-6)
    found = result(report, "KAD", "musicgen")
    expected = kernel_audio_distance(musicgen, reference, found["settings"]["bandwidth"])
    assert found["value"] == pytest.approx(expected, rel=1e-6)
    text = clap.embed_text(
        [prompt["prompt"] if "prompt" in prompt else prompt["text"] for prompt in report["prompts"]]
    )
    scores = (text * musicgen).sum(axis=1) / np.linalg.norm(text, axis=1) / np.linalg.norm(musicgen, axis=1)
    assert result(report, "CLAP score", "musicgen")["per_clip"] == pytest.approx(scores.tolist(), abs=1e-5)


def test_real_music_is_ahead_of_noise_and_random_weights(done):
    _, report = done
    for metric in ("FAD", "KAD"):
        values = {
            system: result(report, metric, system)["value"] for system in ("held-out", "musicgen", "white noise")
        }
        assert values["held-out"] < min(values["musicgen"], values["white noise"])
    assert result(report, "Tempo agreement", "held-out")["value"] == 1.0
    assert result(report, "Chroma agreement", "held-out")["value"] == 1.0


def test_comparisons(done):
    _, report = done
    fad = [c for c in report["comparisons"] if c["metric"] == "FAD"]
    assert {(c["a"], c["b"]) for c in fad} == {
        ("ours", "musicgen"), ("ours", "held-out"), ("ours", "white noise"), ("musicgen", "held-out"),
        ("musicgen", "white noise"), ("held-out", "white noise"),
    }  # fmt: skip
    for found in report["comparisons"]:
        assert found["interval"]["low"] <= found["difference"] + 1e-9
        assert found["adjusted_p_value"] >= found["p_value"]
    shuffled = [c for c in report["comparisons"] if c["b"] == "ours (prompts shuffled)"]
    assert [c["a"] for c in shuffled] == ["ours"]
    pair = next(c for c in fad if c["b"] == "held-out" and c["a"] == "musicgen")
    expected = result(report, "FAD", "musicgen")["value"] - result(report, "FAD", "held-out")["value"]
    assert pair["difference"] == pytest.approx(expected)


def test_rankings_and_verdicts(done):
    output, report = done
    for ranking in report["rankings"]:
        values = [place["value"] for place in ranking["places"]]
        higher = result(report, ranking["metric"], "ours")["higher_is_better"]
        assert values == sorted(values, reverse=higher)
        ranked = {place["system"] for place in ranking["places"]}
        assert ranked >= {"ours", "musicgen", "held-out", "white noise"}
        assert ("ours (prompts shuffled)" in ranked) == (ranking["metric"] == "CLAP score")
    pairs = [(verdict["a"], verdict["b"]) for verdict in report["verdicts"]]
    assert pairs[:3] == [("musicgen", "ours"), ("held-out", "ours"), ("held-out", "musicgen")]
    assert set(pairs[3:]) == {
        (a, b) for a in ("ours", "musicgen", "held-out") for b in (f"{a} (prompts shuffled)", "white noise")
    }
    assert list(report) == [
        "format", "versions", "settings", "preset", "prompts", "reference", "systems", "verdicts", "rankings", "results",
        "comparisons", "not_measured", "skipped", "unmatched", "cautions", "notices", "performance",
    ]  # fmt: skip
    assert not re.search(r"\bNaN\b|\bInfinity\b", (output / "report.json").read_text())


def test_the_order_of_prompts_changes_no_figure(done, scene, nets, tmp_path):
    whole, report = done
    header, *rows = (scene / "prompts.csv").read_text(encoding="utf-8").splitlines()
    (tmp_path / "prompts.csv").write_text("\n".join([header, *rows[::-1]]) + "\n", encoding="utf-8")
    for folder in ("audio", "embeddings"):
        shutil.copytree(whole / folder, tmp_path / "out" / folder)
    args = command(scene, nets, tmp_path / "out", "--prompts", str(tmp_path / "prompts.csv"))
    assert main(args) == 0
    other = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert other["prompts"] == report["prompts"][::-1]
    for part in ("verdicts", "rankings", "results", "comparisons"):
        assert other[part] == report[part]


def test_a_damaged_embedding_is_made_again(done, scene, nets, tmp_path):
    whole, _ = done
    for folder in ("audio", "embeddings"):
        shutil.copytree(whole / folder, tmp_path / folder)
    one, two, *_ = sorted((tmp_path / "embeddings").glob("*.npy"))
    one.write_bytes(b"")
    two.write_bytes(two.read_bytes()[:100])
    assert main(command(scene, nets, tmp_path)) == 0
    assert without_timing(tmp_path) == without_timing(whole)


class Stop(Exception):
    pass


def test_interrupted_anywhere_the_report_is_the_same(done, scene, nets, tmp_path, monkeypatch):
    whole, _ = done
    output = tmp_path / "report"
    args = command(scene, nets, output)

    def stops_after(patch, owner, name, calls):
        original, count = getattr(owner, name), iter(range(10**6))

        def wrapped(*arguments, **named):
            if next(count) == calls:
                raise Stop
            return original(*arguments, **named)

        patch.setattr(owner, name, wrapped)

    places = [
        (systems.MusicLMSystem, "generate", 2),
        (systems.TransformersSystem, "generate", 1),
        (embedding_cache.EmbeddingCache, "_run_clip", 9),
        (evaluate, "measure_levels_of_systems", 0),
    ]
    for owner, name, calls in places:
        with monkeypatch.context() as patch:
            stops_after(patch, owner, name, calls)
            with pytest.raises(Stop):
                main(args)
        assert not (output / "report.html").exists()
    assert main(args) == 0
    assert without_timing(output) == without_timing(whole)
    once = (output / "report.html").read_bytes(), (output / "report.json").read_bytes()
    assert main(args) == 0
    assert ((output / "report.html").read_bytes(), (output / "report.json").read_bytes()) == once
    assert not list(output.rglob("*.part"))


def test_page_loads_nothing_and_escapes_prompts(done):
    output, _ = done
    page = (output / "report.html").read_text(encoding="utf-8")
    assert not re.search(r'(?:src|href)="(?!data:)', page)
    assert "<b>bold" not in page
    assert "&lt;b&gt;bold&lt;/b&gt;" in page


def str_of(verdict):
    fields = {k: tuple(v) if isinstance(v, list) else v for k, v in verdict.items() if k != "better"}
    return str(Verdict(**fields))


@needs_browser
def test_report_in_a_browser(done, tmp_path):
    output, report = done
    script = """
      const wait = async (test) => { for (let i = 0; i < 600 && !test(); i += 1) await sleep(100); };
      const players = [...document.querySelectorAll("audio")];
      const pictures = [...document.querySelectorAll("img")];
      for (const player of players) player.load();
      await wait(() => players.every((p) => p.duration > 0));
      const box = (element) => element.getBoundingClientRect();
      return {
        durations: players.map((p) => Math.round(p.duration * 10) / 10),
        pictures: pictures.filter((p) => p.complete && p.naturalWidth > 100).length,
        plots: [...document.querySelectorAll("#plots svg")].filter((s) => box(s).height > 40).length,
        cut: [...document.querySelectorAll("#plots svg text")].filter((t) => {
          const mine = box(t), frame = box(t.closest("svg"));
          return mine.left < frame.left - 1 || mine.right > frame.right + 1;
        }).map((t) => t.textContent),
        sideways: document.documentElement.scrollWidth - document.documentElement.clientWidth,
        headings: [...document.querySelectorAll("h2")].map((h) => h.textContent),
        best: [...document.querySelectorAll("#summary .best")].length,
        verdicts: [...document.querySelectorAll("#glance li")].map((item) => item.textContent),
        ranking: [...document.querySelectorAll("#glance .ranking tr")].map((row) => row.textContent),
      };"""
    found = run_in_browser(output / "report.html", script, tmp_path)
    assert found["durations"] == [4.0, 1.0, 1.0, 4.0] * 2  # the reference and three systems, two prompts
    assert found["pictures"] == 8
    assert found["plots"] == 8
    assert found["cut"] == []
    assert found["sideways"] == 0
    assert found["best"] >= 5
    few = "6 prompts are few: with so few, hardly any difference can be clear."
    told = [str_of(verdict) for verdict in report["verdicts"]]
    assert found["verdicts"] == [*report["cautions"], *told[:3], few, *told[3:]]
    assert [row.split(" ")[0] for row in found["ranking"]] == [
        row["metric"].split(" ")[0] for row in report["rankings"]
    ]
    assert found["headings"] == [
        "At a glance", "All figures", "Plots", "Differences between systems", "Listen", "Speed and memory", "Settings and records",
    ]  # fmt: skip
    narrow = run_in_browser(
        output / "report.html", "return document.documentElement.scrollWidth;", tmp_path, width=500
    )
    assert narrow <= 500


@needs_browser
def test_report_is_not_blank(done, tmp_path):
    output, _ = done
    import matplotlib.image

    picture = matplotlib.image.imread(screenshot(output / "report.html", tmp_path / "page.png", tmp_path))
    colours = np.unique((picture[::3, ::3, :3] * 255).astype(int).reshape(-1, 3), axis=0)
    assert len(colours) > 50


LISTEN = """
  byId("rater").value = "Ada L.";
  byId("begin").click();
  const seen = [];
  for (let i = 0; i < test.pairs.length; i += 1) {
    const locked = document.querySelector("input[name=rating]").disabled && byId("next").disabled;
    for (const side of ["a", "b"]) {
      for (let n = 0; n < 1200 && !(byId("audio-" + side).duration > 0); n += 1) await sleep(50);
    }
    const durations = ["a", "b"].map((side) => byId("audio-" + side).duration);
    for (const side of ["a", "b"]) byId("audio-" + side).dispatchEvent(new Event("ended"));
    document.querySelectorAll("input[name=rating]")[i % 5].click();
    const focus = document.activeElement.id;
    seen.push({ prompt: byId("prompt").textContent, durations, locked, focus, next: byId("next").textContent });
    byId("next").click();
  }
  const shown = ["start", "pair", "end"].filter((part) => !byId(part).hidden);
  let saved;
  const original = URL.createObjectURL;
  URL.createObjectURL = (blob) => { saved = blob; return original(blob); };
  byId("download").click();
  const answers = await saved.text(), kept = Object.values(localStorage).map((text) => JSON.parse(text).rater);
  byId("begin").click();
  const again = Object.keys(state.ratings).length;
  byId("rater").value = "Bob";
  byId("begin").click();
  return { seen, shown, kept, again, bob: Object.keys(state.ratings).length, saved: answers,
           text: document.documentElement.innerText.toLowerCase() };
"""


@needs_browser
def test_listening_page_to_wins(done, tmp_path, capsys):
    output, _ = done
    page = (output / "listening_test.html").read_text(encoding="utf-8")
    key = json.loads((output / "listening_key.json").read_text(encoding="utf-8"))
    visible = re.sub(r"data:audio/flac;base64,[\\w+/=]+", "", page)
    assert not re.search("musicgen|held-out|ours|white noise", visible)  # blinded
    assert not re.search(r'(?:src|href)="(?!data:)', page)
    found = run_in_browser(output / "listening_test.html", LISTEN, tmp_path, width=900)
    assert len(found["seen"]) == 6
    for pair in found["seen"]:
        assert pair["locked"]
        assert pair["focus"] == "audio-a"  # where a keyboard goes on
        assert pair["durations"][0] == pair["durations"][1] in (1.0, 4.0)  # a length would tell
    assert [pair["next"] for pair in found["seen"]] == ["Next"] * 5 + ["Finish"]
    assert found["shown"] == ["end"]
    assert (found["kept"], found["again"], found["bob"]) == (["Ada L."], 6, 0)  # a second listener starts afresh
    answers = json.loads(found["saved"])
    assert answers["rater"] == "Ada L."
    assert [a["rating"] for a in answers["ratings"]] == [-2, -1, 0, 1, 2, -2]
    (tmp_path / "ada.json").write_text(found["saved"], encoding="utf-8")
    assert main(["evaluate", "--listening-results", str(tmp_path / "ada.json"), "--output", str(output)]) == 0
    told = capsys.readouterr().out
    wins = json.loads((output / "listening_results.json").read_text(encoding="utf-8"))
    expected = dict.fromkeys(("ours", "musicgen", "held-out"), 0)
    for answer in answers["ratings"]:
        pair = key["pairs"][answer["pair"]]
        if answer["rating"]:
            expected[pair["b"] if answer["rating"] > 0 else pair["a"]] += 1
    assert wins["wins"] == expected
    assert "1 listeners, 6 answers" in told
    assert sum(wins["answers"].values()) == 12


class TestBadInput:
    def fails(self, capsys, said, args):
        assert main(args) == 1
        error = capsys.readouterr().err
        assert re.search(said, error), error
        assert error.count("\n") == 1

    def test_no_audio_in_the_reference(self, scene, nets, tmp_path, capsys):
        (tmp_path / "empty").mkdir()
        args = command(scene, nets, tmp_path / "out", "--reference", str(tmp_path / "empty"))
        self.fails(capsys, "reference .* has 0 usable audio clips; at least 2", args)
        assert not (tmp_path / "out" / "audio").exists()  # before anything is generated

    def test_wrong_names_are_found_before_anything_is_generated(self, scene, nets, tmp_path, capsys):
        wrong = str(tmp_path / "none")
        for option, value, said in (
            ("--clap", wrong, "could not be loaded as clap"),
            ("--classifier", wrong, "could not be loaded as ast"),
            ("--embedder", "vggish:x", "is no embedder"),
            ("--model", wrong, "there is no folder"),
            ("--preset", "google", "there is no prompt file"),
        ):
            prompts = ["--prompts", wrong] if option == "--preset" else []
            self.fails(capsys, said, command(scene, nets, tmp_path / "out", option, value, *prompts))
        assert not (tmp_path / "out").exists()

    def test_the_default_clap_is_looked_for_before_anything_is_generated(self, nets, tmp_path, capsys, monkeypatch):
        monkeypatch.setattr(evaluate, "DEFAULT_CLAP", str(tmp_path / "no clap"))
        (tmp_path / "prompts.txt").write_text("a\nb\n")
        args = [
            "evaluate", "--model", f"musicgen={nets / 'musicgen'}", "--prompts", str(tmp_path / "prompts.txt"), "--output",
            str(tmp_path / "out"), *FAST,
        ]  # fmt: skip
        self.fails(capsys, "no clap' could not be loaded as clap", args)
        assert not (tmp_path / "out").exists()

    def test_one_clip_in_the_reference(self, scene, nets, tmp_path, capsys):
        (tmp_path / "one").mkdir()
        shutil.copy(scene / "reference" / "ref 0.wav", tmp_path / "one")
        args = command(scene, nets, tmp_path / "out", "--reference", str(tmp_path / "one"))
        self.fails(capsys, "has 1 usable audio clips; at least 2", args)

    def test_nothing_to_measure(self, scene, tmp_path, capsys):
        self.fails(capsys, "no system was given", ["evaluate", "--output", str(tmp_path)])
        self.fails(capsys, "no prompts were given", ["evaluate", "--model", "noise", "--output", str(tmp_path)])
        self.fails(
            capsys,
            "two systems have one name",
            ["evaluate", "--model", "a=noise", "--model", "a=mini", "--prompts", "p.txt", "--output", str(tmp_path)],
        )
        (tmp_path / "blank.txt").write_text("\n\n")
        args = ["evaluate", "--model", "a=noise", "--prompts", str(tmp_path / "blank.txt"), "--output", str(tmp_path)]
        self.fails(capsys, "blank.txt has no prompt: 2 empty lines", args)
        self.fails(capsys, "--duration must be a number of seconds", [*args, "--duration", "nan"])
        self.fails(capsys, "--duration must be a number of seconds", [*args, "--duration", "1e308"])
        self.fails(capsys, "--num-resamples must be at most", [*args, "--num-resamples", "1000000000"])
        self.fails(capsys, "--seed must lie in", [*args, "--seed", "9" * 30])
        self.fails(capsys, "--batch-size must be at least 1", [*args, "--batch-size", "0"])
        self.fails(capsys, "a listening test needs two systems", [*args, "--listening-test"])

    def test_skips_are_listed(self, scene, nets, tmp_path, capsys):
        reference, ours = tmp_path / "reference", tmp_path / "ours"
        shutil.copytree(scene / "reference", reference)
        shutil.copytree(scene / "held-out", ours)
        broken = chord(220.0)
        broken[3] = np.nan
        soundfile.write(reference / "nan.wav", broken, 8000, subtype="FLOAT")
        soundfile.write(ours / "p3.wav", broken, 8000, subtype="FLOAT")
        (ours / "p3.flac").unlink()
        write_audio(reference / "other rate.wav", chord(220.0, rate=16000), 16000)
        (ours / "text.mp3").write_text("no audio")
        (tmp_path / "prompts.txt").write_text("a calm piano\n\n  \nfast drums\n")
        args = [
            "evaluate", "--model", f"ours={ours}", "--prompts", str(tmp_path / "prompts.txt"), "--reference", str(reference),
            "--clap", str(nets / "clap"), "--output", str(tmp_path / "out"), *FAST, "--no-noise",
        ]  # fmt: skip
        assert main(args) == 0
        report = json.loads((tmp_path / "out" / "report.json").read_text())
        skipped = {s["what"]: s["why"] for s in report["skipped"]}
        assert set(skipped) == {
            "prompts.txt, line 2", "prompts.txt, line 3", "reference: nan.wav", "ours: p3.wav", "ours: text.mp3",
        }  # fmt: skip
        assert any("mixed sampling rates (8 at 8000 Hz, 1 at 16000 Hz)" in notice for notice in report["notices"])
        page = (tmp_path / "out" / "report.html").read_text()
        assert "Skipped (5)" in page
        assert result(report, "FAD", "ours")["num_clips"] == 5
        assert result(report, "CLAP score", "ours")["value"] is None
        assert "no clip has the name of a prompt" in result(report, "CLAP score", "ours")["warnings"][0]
        assert "KL divergence" in report["not_measured"]
        assert "skipped reference: nan.wav" in capsys.readouterr().out

    def test_a_system_with_one_clip(self, scene, nets, tmp_path):
        (tmp_path / "one").mkdir()
        shutil.copy(scene / "held-out" / "p0.flac", tmp_path / "one")
        args = [
            "evaluate", "--model", f"one={tmp_path / 'one'}", "--prompts", str(scene / "prompts.csv"), "--reference",
            str(scene / "reference"), "--clap", str(nets / "clap"), "--output", str(tmp_path / "out"), *FAST,
        ]  # fmt: skip
        assert main(args) == 0
        report = json.loads((tmp_path / "out" / "report.json").read_text())
        fad = result(report, "FAD", "one")
        assert fad["value"] is None
        assert fad["warnings"] == ["1 usable clips; at least 2 are needed for a distance"]
        assert result(report, "CLAP score", "one")["value"] is not None
        assert result(report, "FAD", "white noise")["value"] > 0


@pytest.mark.parametrize("preset", ["audiocraft", "fadtk", "google"])
def test_presets(scene, nets, tmp_path, preset):
    args = [
        "evaluate", "--model", f"held-out={scene / 'held-out'}", "--prompts", str(scene / "prompts.csv"), "--reference",
        str(scene / "reference"), "--clap", str(nets / "clap"), "--classifier", str(nets / "ast"), "--embedder",
        f"hubert:{nets / 'hubert'}#1", "--output", str(tmp_path), *FAST, "--preset", preset, "--no-noise",
    ]  # fmt: skip
    assert main(args) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    fad = result(report, "FAD", "held-out")
    windows = {"audiocraft": 7, "google": 7, "fadtk": 4}[preset]  # of a clip of 4 s
    assert fad["num_windows"] == 6 * windows
    assert fad["windowing"]["sampling_rate"] == {"audiocraft": 16000, "google": 16000, "fadtk": 48000}[preset]
    assert any("the preset's source uses" in warning for warning in fad["warnings"])
    assert report["preset"]["source"].startswith("https://github.com/")
    assert fad["backbone"]["kind"] == "hubert"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_pipelines_of_diffusers_through_the_command(scene, nets, tmp_path):
    from evaluation_networks import save_audioldm2, save_stable_audio

    models = [f"stable={save_stable_audio(tmp_path / 's')}", f"audioldm2={save_audioldm2(tmp_path / 'a')}"]
    args = [
        "evaluate", "--model", models[0], "--model", models[1], "--prompts", str(scene / "prompts.csv"), "--num-prompts",
        "2", "--reference", str(scene / "reference"), "--clap", str(nets / "clap"), "--output", str(tmp_path / "out"),
        *FAST, "--duration", "0.25",
    ]  # fmt: skip
    assert main(args) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert {name: system["kind"] for name, system in report["systems"].items()} == {
        "stable": "diffusers", "audioldm2": "diffusers", "white noise": "noise",
    }  # fmt: skip
    for system in ("stable", "audioldm2"):
        assert result(report, "FAD", system)["num_clips"] == 2
        assert result(report, "FAD", system)["value"] > 0
        assert report["performance"][system]["real_time_factor"] > 0

import numpy as np
import pytest
import soundfile
from evaluation_networks import chord

from open_musiclm.audio import write_audio
from open_musiclm.evaluation.clips import pair_references, scan_clips
from open_musiclm.evaluation.prompts import Prompt


def test_what_cannot_be_used_is_skipped_with_the_reason(tmp_path):
    write_audio(tmp_path / "b.wav", chord(220), 8000)
    write_audio(tmp_path / "a.flac", np.stack([chord(110), chord(220)]), 16000)
    broken = chord(220)
    broken[5] = np.nan
    soundfile.write(tmp_path / "nan.wav", broken, 8000, subtype="FLOAT")
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 8000)
    soundfile.write(tmp_path / "short.wav", np.zeros(80), 8000)
    (tmp_path / "text.wav").write_text("no audio")
    (tmp_path / "notes.txt").write_text("ignored")
    write_audio(tmp_path / ".hidden.wav", chord(220), 8000)
    (tmp_path / "more").mkdir()
    write_audio(tmp_path / "more" / "a.wav", chord(220), 8000)
    found = scan_clips(tmp_path, "reference")
    assert [clip.id for clip in found.clips] == ["a", "b", "more/a"]
    assert (found.clips[0].num_channels, found.clips[0].sampling_rate, found.clips[1].length_in_s) == (2, 16000, 2.0)
    reasons = {s.what: s.why for s in found.skipped}
    assert set(reasons) == {f"reference: {n}" for n in ("nan.wav", "empty.wav", "short.wav", "text.wav")}
    assert "not finite" in reasons["reference: nan.wav"]
    assert "0.010 s" in reasons["reference: short.wav"]
    assert str(tmp_path) not in "".join(reasons.values())
    assert "2 at 8000 Hz, 1 at 16000 Hz" in found.notices[0]


def test_albums_links_and_every_ending_are_found(tmp_path):
    """Stems of separated music are all alike, and libraries are folders of links."""
    for album in ("song1", "song2"):
        (tmp_path / "set" / album).mkdir(parents=True)
        write_audio(tmp_path / "set" / album / "mixture.wav", chord(220), 8000)
    (tmp_path / "elsewhere").mkdir()
    for ending, container in (("au", "AU"), ("w64", "W64"), ("caf", "CAF")):
        soundfile.write(tmp_path / "elsewhere" / f"x.{ending}", chord(220), 8000, format=container)
    (tmp_path / "set" / "linked").symlink_to(tmp_path / "elsewhere")
    found = scan_clips(tmp_path / "set", "reference")
    assert not found.skipped
    assert [clip.id for clip in found.clips] == [
        "linked/x.au", "linked/x.caf", "linked/x.w64", "song1/mixture", "song2/mixture",
    ]  # fmt: skip


def test_what_would_spoil_the_figures_is_said(tmp_path):
    left = chord(220)
    soundfile.write(tmp_path / "opposite.wav", np.stack([left, -left], axis=1), 8000)
    soundfile.write(tmp_path / "huge.wav", left * 1e30, 8000, subtype="FLOAT")
    soundfile.write(tmp_path / "offset.wav", 0.5 * left + 0.05, 8000)
    soundfile.write(tmp_path / "fine.wav", left, 8000)
    found = scan_clips(tmp_path, "reference")
    assert [clip.id for clip in found.clips] == ["fine", "offset"]
    assert {s.what: s.why.split(":")[0] for s in found.skipped} == {
        "reference: opposite.wav": "channels cancel",
        "reference: huge.wav": "too loud",
    }
    assert "1 of the 2 clips of reference have a constant offset, offset.wav of +0.050" in found.notices[0]


def test_too_few(tmp_path):
    with pytest.raises(ValueError, match="there is no folder"):
        scan_clips(tmp_path / "none", "reference")
    with pytest.raises(ValueError, match="0 usable audio clips; at least 2"):
        scan_clips(tmp_path, "reference", min_clips=2)
    write_audio(tmp_path / "one.wav", chord(220), 8000)
    (tmp_path / "two.wav").write_text("x")
    with pytest.raises(ValueError, match=r"1 usable audio clips; at least 2.*1 files were skipped.*two.wav"):
        scan_clips(tmp_path, "reference", min_clips=2)


def test_pairs(tmp_path):
    for name in ("one.wav", "-0Gj8_30.wav", "-0Gj80.wav", "x y.wav"):
        write_audio(tmp_path / name, chord(220), 8000)
    prompts = [
        Prompt("p1", "by file name", "one.wav"), Prompt("one", "by id"), Prompt("p3", "MusicCaps", "-0Gj8"),
        Prompt("p4", "by stem", "x y"), Prompt("p5", "none"), Prompt("p6", "no such", "two.wav"), Prompt("on", "not a prefix"),
    ]  # fmt: skip
    pairs = pair_references(prompts, scan_clips(tmp_path, "reference"))
    assert {key: clip.id for key, clip in pairs.items()} == {"p1": "one", "one": "one", "p3": "-0Gj8_30", "p4": "x y"}

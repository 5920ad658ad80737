"""A file is read whole or refused by name: what decoders guess, drop or end early is caught by its own frames."""

import io
import struct
import sys

import numpy as np
import pytest
import soundfile
from music import notes

from open_musiclm.audio import SkippedFile, read_audio
from open_musiclm.audio.ogg import _checksum

RATE, LENGTH = 44100, 3.0
FORMATS = {"wav": "WAV", "flac": "FLAC", "mp3": "MP3", "ogg": "OGG", "aiff": "AIFF", "au": "AU", "w64": "W64"}


def encoded(ending: str, seed: int = 0, rate: int = RATE) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, notes(seed, LENGTH, rate), rate, format=FORMATS[ending])
    return buffer.getvalue()


def length_of(path, content: bytes) -> float:
    path.write_bytes(content)
    audio, rate = read_audio(path)
    return audio.shape[1] / rate


def refused(path, content: bytes) -> SkippedFile:
    path.write_bytes(content)
    with pytest.raises(SkippedFile) as error:
        read_audio(path)
    assert path.name in str(error.value)
    return error.value


def without_length(ending: str) -> bytes:
    """As it is written to a pipe, where nobody goes back to the header."""
    content = bytearray(encoded(ending))
    if ending == "flac":
        content[21] &= 0xF0
        content[22:26] = bytes(4)
    elif ending == "wav":
        at = content.index(b"data")
        content[4:8] = content[at + 4 : at + 8] = b"\xff\xff\xff\xff"
    elif ending == "mp3":
        start = content.index(b"Xing") if b"Xing" in content else content.index(b"Info")
        first = content.rindex(b"\xff\xfb", 0, start)
        del content[first : content.index(b"\xff\xfb", start)]
    return bytes(content)


@pytest.mark.parametrize("ending", FORMATS)
def test_cut_in_half_is_refused(tmp_path, ending):
    content = encoded(ending)
    assert length_of(tmp_path / f"whole.{ending}", content) == pytest.approx(LENGTH, abs=0.001)
    for share in (0.3, 0.5, 0.9):
        assert refused(tmp_path / f"cut.{ending}", content[: int(share * len(content))]).reason == "incomplete"


@pytest.mark.parametrize("ending", ["wav", "flac", "mp3"])
def test_a_length_that_nobody_wrote_is_counted(tmp_path, ending):
    content = without_length(ending)
    assert length_of(tmp_path / f"a.{ending}", content) == pytest.approx(LENGTH, abs=0.1)
    if ending != "wav":  # whose samples say nothing of how many there are
        assert refused(tmp_path / f"b.{ending}", content[: len(content) // 2]).reason == "incomplete"
        assert "length" in str(refused(tmp_path / f"b.{ending}", content[:-7])) or "long it is" in str(
            refused(tmp_path / f"b.{ending}", content[:-7])
        )


@pytest.mark.parametrize("ending", ["ogg", "mp3", "flac"])
def test_one_behind_the_other_are_both_read(tmp_path, ending):
    first, second = encoded(ending), encoded(ending, seed=1)
    path = tmp_path / f"both.{ending}"
    assert length_of(path, first + second) == pytest.approx(2 * LENGTH, abs=0.01)
    together = read_audio(path)[0]
    for content, part in ((first, together[:, : together.shape[1] // 2]), (second, together[:, -RATE:])):
        path.write_bytes(content)
        alone = read_audio(path)[0]
        alone = alone[:, -part.shape[1] :] if content is second else alone[:, : part.shape[1]]
        np.testing.assert_allclose(part, alone, atol=1e-6)
    assert refused(path, first + encoded(ending, rate=22050)).detail.count("rate changes") == 1


def test_two_wavs_behind_one_another_are_refused(tmp_path):
    assert "two files in one" in refused(tmp_path / "a.wav", encoded("wav") * 2).detail


def test_an_mp3_without_a_length_is_what_its_frames_are(tmp_path):
    """Of variable bitrate: libsndfile would guess from the first frames, and end there."""
    silence_then_noise = np.concatenate([np.zeros(2 * RATE), np.random.default_rng(0).uniform(-1, 1, RATE)])
    buffer = io.BytesIO()
    with soundfile.SoundFile(
        buffer, "w", RATE, 1, format="MP3", bitrate_mode="VARIABLE", compression_level=0.5
    ) as file:
        file.write(silence_then_noise)
    content = bytearray(buffer.getvalue())
    start = content.index(b"Xing") if b"Xing" in content else content.index(b"Info")
    content[start : start + 4] = b"none"  # a frame of silence now
    path = tmp_path / "a.mp3"
    assert length_of(path, bytes(content)) == pytest.approx(3.0, abs=0.15)
    audio = read_audio(path)[0][0]
    assert np.abs(audio[:RATE]).max() < 0.01
    assert np.abs(audio[-RATE // 2 : -RATE // 8]).max() > 0.5


def test_tags_in_front_and_behind_are_no_frames(tmp_path):
    tag = b"ID3\x04\x00\x00\x00\x00\x01\x00" + bytes(128)
    for ending in ("mp3", "flac", "wav"):
        behind = b"TAG" + bytes(125) if ending == "mp3" else b""
        content = (tag if ending != "wav" else b"") + encoded(ending) + behind
        assert length_of(tmp_path / f"a.{ending}", content) == pytest.approx(LENGTH, abs=0.001)
    (tmp_path / "b.mp3").write_bytes(tag + encoded("mp3") + behind + tag + encoded("mp3"))
    assert read_audio(tmp_path / "b.mp3")[0].shape[1] == 2 * round(LENGTH * RATE)


def test_a_hole_in_an_ogg_is_found_by_its_page(tmp_path):
    content = encoded("ogg")
    pages = [at for at in range(len(content)) if content.startswith(b"OggS", at)]
    assert len(pages) > 4
    lost = content[: pages[3]] + content[pages[4] :]
    assert "1 pages are missing" in refused(tmp_path / "a.ogg", lost).detail
    flipped = bytearray(content)
    flipped[pages[3] + 300] ^= 1
    assert "checksum" in refused(tmp_path / "b.ogg", bytes(flipped)).detail
    page = content[pages[0] : pages[1]]
    assert _checksum(page[:22] + bytes(4) + page[26:]) == struct.unpack("<I", page[22:26])[0]


def test_a_short_loss_at_the_end_is_no_hole(tmp_path):
    """All pages are there, but the last one says that there is more than its packets hold, as one encoder does."""
    content = bytearray(encoded("ogg"))
    last = content.rindex(b"OggS")
    granule = struct.unpack("<q", content[last + 6 : last + 14])[0]
    for more, fine in ((round(0.13 * RATE), True), (2 * RATE, False)):
        content[last + 6 : last + 14] = struct.pack("<q", granule + more)
        content[last + 22 : last + 26] = bytes(4)
        content[last + 22 : last + 26] = struct.pack("<I", _checksum(bytes(content[last:])))
        if fine:
            assert length_of(tmp_path / "a.ogg", bytes(content)) == pytest.approx(LENGTH, abs=0.02)
        else:
            assert refused(tmp_path / "a.ogg", bytes(content)).reason == "incomplete"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"\n <!DOCTYPE html><html><body>Not found</body></html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "Git LFS"),
        (b"PK\x03\x04" + bytes(range(256)), "ZIP"),
        (bytes(5000), "zeros"),
        (b"Just some words about a song.\n" * 9, "text"),
        (bytes(range(256)) * 20, "nothing in it is known"),
    ],
)
def test_what_is_no_audio_is_called_what_it_is(tmp_path, capfd, content, told):
    error = refused(tmp_path / "song.mp3", content)
    assert told in error.detail
    assert error.reason == "unreadable"
    assert capfd.readouterr().err == ""  # no decoder has seen it


def test_without_pyav_its_files_are_named_with_the_way_to_read_them(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    error = refused(tmp_path / "song.m4a", struct.pack(">I4s", 16, b"ftyp") + b"M4A \0\0\0\0" + b"\0\0\0\x08moov")
    assert error.reason == "needs PyAV"
    assert "pip install open-musiclm[audio]" in str(error)


def test_with_pyav_they_are_read_whole_or_refused(tmp_path):
    av = pytest.importorskip("av")
    audio = notes(0, LENGTH, 48000)
    for name, codec in (
        ("a.m4a", "aac"),
        ("a.aac", "aac"),
        ("a.webm", "libopus"),
        ("a.wma", "wmav2"),
        ("a.wv", "wavpack"),
    ):
        path = tmp_path / name
        with av.open(str(path), "w") as container:
            stream = container.add_stream(codec, rate=48000, layout="mono", bit_rate=96_000)
            frame = av.AudioFrame.from_ndarray(audio[None], format="fltp", layout="mono")
            frame.sample_rate = 48000
            for piece in (frame, None):
                container.mux(stream.encode(piece))
        read, rate = read_audio(path)
        assert read.shape[1] / rate == pytest.approx(LENGTH, abs=0.1), name
        spectra = [np.fft.rfft(samples, 1 << 19) for samples in (read[0], audio)]
        correlation = np.fft.irfft(spectra[0] * spectra[1].conj()).max()  # at whatever delay the encoder has
        correlation /= np.linalg.norm(read[0]) * np.linalg.norm(audio)
        assert correlation > 0.9, name
        content = path.read_bytes()
        assert refused(tmp_path / f"cut-{name}", content[: len(content) // 2]).reason == "incomplete"

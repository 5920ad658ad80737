import numpy as np
import pytest
import torch
from music import music_pipeline, notes

from open_musiclm.audio import resample
from open_musiclm.data.decoding import DecodedAudio
from open_musiclm.data.tokenizer import MusicTokenizer
from open_musiclm.tokenizers.clap import clap_audio_embeddings
from open_musiclm.tokenizers.codec import as_codec
from open_musiclm.tokenizers.semantic import semantic_features


@pytest.fixture(scope="module")
def tokenizer(pipeline_folder):
    return MusicTokenizer.from_pretrained(pipeline_folder, batch_size=4)


def decoded(seed, duration, tokenizer):
    audio = notes(seed, duration, 24000)
    return DecodedAudio(duration, {rate: resample(audio, 24000, rate) for rate in tokenizer.sampling_rates})


def test_settings_follow_from_the_pipeline(tokenizer):
    settings = tokenizer.settings
    assert (settings.crop_in_s, settings.overlap_in_s, settings.clap_window_in_s) == (4.0, 0.8, 10.0)
    assert settings.min_length_in_s == 1.0
    assert {stream.name: stream.num_codebooks for stream in tokenizer.streams} == {
        "clap": 3,
        "semantic": 1,
        "coarse": 2,
        "fine": 3,
    }


def test_a_file_of_one_crop_has_the_tokens_of_its_parts(tokenizer):
    """Against the networks called by hand, one file at a time."""
    audio = decoded(5, 4.0, tokenizer)
    ((_, tokens),) = tokenizer.tokenize([("key", audio)])
    networks = tokenizer.networks
    semantic = semantic_features(
        networks["semantic_encoder"],
        networks["semantic_quantizer"].config,
        torch.from_numpy(audio.waveforms[16000])[None],
    )
    assert np.array_equal(
        tokens["semantic_token_ids"][:, 0], networks["semantic_quantizer"].encode(semantic)[0].numpy()
    )
    codes = as_codec(networks["codec"]).encode(torch.from_numpy(audio.waveforms[8000])[None, None], 5)[0].numpy()
    assert np.array_equal(np.concatenate([tokens["coarse_token_ids"], tokens["fine_token_ids"]], axis=1), codes)
    assert len({tuple(frame) for frame in codes}) > 20  # the tokens do say something


def test_clap_tokens_are_those_of_ten_seconds_from_each_second(tokenizer):
    audio = decoded(6, 12.7, tokenizer)
    ((_, tokens),) = tokenizer.tokenize([("key", audio)])
    assert tokens["clap_token_ids"].shape == (3, 3)
    networks = tokenizer.networks
    for second in range(3):
        window = audio.waveforms[8000][8000 * second : 8000 * (second + 10)]
        embedding = clap_audio_embeddings(networks["clap"], networks["clap_processor"], window[None])
        assert np.array_equal(
            tokens["clap_token_ids"][second], networks["clap_quantizer"].encode(embedding)[0].numpy()
        )


@pytest.mark.parametrize(("duration", "semantic", "acoustic"), [(1.0, 24, 50), (4.0, 99, 200), (13.37, 333, 668)])
def test_frames_are_those_of_the_rates(tokenizer, duration, semantic, acoustic):
    ((_, tokens),) = tokenizer.tokenize([("key", decoded(7, duration, tokenizer))])
    assert tokens["semantic_token_ids"].shape == (semantic, 1)
    assert tokens["coarse_token_ids"].shape == (acoustic, 2)
    assert tokens["fine_token_ids"].shape == (acoustic, 3)
    assert all(ids.dtype == np.uint16 for ids in tokens.values())


def test_batches_across_files_change_nothing_but_rounding(tokenizer, pipeline_folder):
    files = [
        (index, decoded(index, duration, tokenizer)) for index, duration in enumerate([4.0, 12.0, 2.0, 12.0, 9.1])
    ]
    together = dict(tokenizer.tokenize(iter(files)))
    alone = MusicTokenizer.from_pretrained(pipeline_folder, batch_size=1)
    assert list(together) == [0, 1, 2, 3, 4]
    for key, audio in files:
        ((_, tokens),) = alone.tokenize([(key, audio)])
        for name, ids in tokens.items():
            assert (ids == together[key][name]).mean() > 0.995


def test_crops_of_a_long_file_agree_with_the_whole(tokenizer, pipeline_folder):
    """The codec is causal: with something before it, a frame's codes are nearly those of the whole file."""
    audio = decoded(9, 16.0, tokenizer)
    whole = MusicTokenizer.from_pretrained(pipeline_folder, crop_in_s=16.0)
    ((_, cropped),) = tokenizer.tokenize([("key", audio)])
    ((_, expected),) = whole.tokenize([("key", audio)])
    assert (cropped["coarse_token_ids"] == expected["coarse_token_ids"]).mean() > 0.98


def test_a_pipeline_without_an_encoder_is_refused(tmp_path):
    pipeline = music_pipeline()
    pipeline.register_modules(semantic_encoder=None)
    pipeline.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="semantic_encoder"):
        MusicTokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize("settings", [{"crop_in_s": 0}, {"overlap_in_s": 5.0}, {"min_length_in_s": float("nan")}])
def test_impossible_settings_are_refused(pipeline_folder, settings):
    with pytest.raises(ValueError, match=r"must be|cannot share"):
        MusicTokenizer.from_pretrained(pipeline_folder, **settings)

"""A whole pipeline of converted stages and codebooks and of frozen parts, from folders and from original files."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from original_files import write_checkpoint_folder
from seeded_weights import read_layout, seeded_state_dict
from tiny import tiny_clap, tiny_codec, tiny_semantic_encoder, tiny_tokenizer
from transformers import EncodecModel

from open_musiclm import MusicLMPipeline
from open_musiclm.conversion.output_folder import CONVERSION_MARKER


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Original stages and codebooks, and folders with frozen parts that fit them."""
    folder = tmp_path_factory.mktemp("sources")
    write_checkpoint_folder(folder / "checkpoints")
    clap, processor = tiny_clap()
    clap.save_pretrained(folder / "clap")
    processor.save_pretrained(folder / "clap")
    tiny_codec().save_pretrained(folder / "codec")
    tiny_semantic_encoder().save_pretrained(folder / "encoder")
    tiny_tokenizer().save_pretrained(folder / "tokenizer")
    return folder


def frozen(sources):
    return ("--clap", sources / "clap", "--codec", sources / "codec", "--semantic-encoder", sources / "encoder")


@pytest.fixture(scope="module")
def assembled(sources, tmp_path_factory, run_convert):
    """The folder that the command makes, once."""
    folder = tmp_path_factory.mktemp("assembled") / "my-musiclm"
    run_convert("--checkpoint-dir", sources / "checkpoints", "--output-dir", folder, *frozen(sources))
    return folder


def music(folder, **kwargs):
    pipe = MusicLMPipeline.from_pretrained(folder, **kwargs)
    pipe.set_progress_bar_config(disable=True)
    return pipe("calm piano", audio_length_in_s=1.0, generator=torch.Generator().manual_seed(1)).audios


def test_it_makes_music(assembled):
    audio = music(assembled)
    assert audio.shape == (1, 1, 8000)
    assert np.isfinite(audio).all()


def test_it_is_what_saving_the_pipeline_writes(assembled, tmp_path):
    pipe = MusicLMPipeline.from_pretrained(assembled)
    pipe.save_pretrained(tmp_path)
    first, second = (
        {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()} for folder in (assembled, tmp_path)
    )
    assert first == second | {Path(CONVERSION_MARKER)}
    first, second = (json.loads((folder / "model_index.json").read_text()) for folder in (assembled, tmp_path))
    first.pop("_name_or_path", None), second.pop("_name_or_path", None)
    assert first == second


def test_stages_record_the_codebooks_beside_them(assembled):
    pipe = MusicLMPipeline.from_pretrained(assembled)
    streams = {
        stream.name: stream
        for stage in (pipe.semantic_model, pipe.coarse_model, pipe.fine_model)
        for stream in stage.streams
    }
    assert streams["clap"].codebook_fingerprint == pipe.clap_quantizer.fingerprint
    assert streams["semantic"].codebook_fingerprint == pipe.semantic_quantizer.fingerprint
    assert streams["coarse"].codebook_fingerprint is not None
    assert streams["coarse"].codebook_fingerprint != streams["fine"].codebook_fingerprint
    other = EncodecModel(pipe.codec.config)
    with pytest.raises(ValueError, match="sha256"):
        MusicLMPipeline(**{**pipe.components, "codec": other})


def test_the_card_says_what_is_known(assembled):
    card = ModelCard.load(assembled / "README.md")
    assert (card.data.library_name, card.data.pipeline_tag, card.data.license) == (
        "diffusers",
        "text-to-audio",
        "cc-by-nc-4.0",
    )
    for file in ("semantic.transformer.1000.pt", "clap.rvq.950_no_fusion.pt", "kmeans_10s_no_fusion.joblib"):
        assert file in card.text
    assert "tokens of m-a-p/MERT-v0 | cc-by-nc-4.0" in card.text
    assert "open-musiclm convert --checkpoint-dir" in card.text


def test_a_clap_of_transformers_is_set_to_the_originals_numbers(assembled, sources):
    pipe = MusicLMPipeline.from_pretrained(assembled)
    assert pipe.clap.config.text_config.layer_norm_eps == 1e-5
    assert pipe.clap.text_model.embeddings.LayerNorm.eps == 1e-5
    extractor = pipe.clap_processor.feature_extractor
    assert (extractor.frequency_min, extractor.frequency_max) == (50, 14_000)
    assert extractor.feature_size == 16


def test_original_clap_and_codec_files(sources, tmp_path, convert):
    torch.save(seeded_state_dict(read_layout("clap_tiny_unfused")), tmp_path / "630k-audioset-best.pt")
    torch.save(seeded_state_dict(read_layout("encodec")), tmp_path / "encodec_24khz.th")
    printed = convert(
        "--clap-rvq", sources / "checkpoints" / "clap.rvq.950_no_fusion.pt", "--config", sources / "checkpoints" / "musiclm_tiny.json",
        "--output-dir", tmp_path / "out", "--clap", tmp_path / "630k-audioset-best.pt", "--clap-tokenizer", sources / "tokenizer",
        "--codec", tmp_path / "encodec_24khz.th",
    )  # fmt: skip
    assert "clap, clap_processor" in printed
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        CONVERSION_MARKER,
        "README.md",
        "clap",
        "clap_processor",
        "clap_quantizer",
        "codec",
    }
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| clap | 630k-audioset-best.pt | cc0-1.0 |" in card


def test_parts_that_do_not_belong_together_leave_nothing(sources, tmp_path, convert):
    tiny_codec(num_codebooks=4).save_pretrained(tmp_path / "codec")
    arguments = [*frozen(sources)[:2], "--codec", tmp_path / "codec"]
    with pytest.raises(ValueError, match="codebooks"):
        convert("--checkpoint-dir", sources / "checkpoints", "--output-dir", tmp_path / "out", *arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["codec"]


def test_pushing_what_was_converted(hub, token, monkeypatch, sources, assembled, tmp_path, convert):
    monkeypatch.setenv("HF_TOKEN", token)
    convert(
        "--checkpoint-dir", sources / "checkpoints", "--output-dir", tmp_path / "out", *frozen(sources),
        "--push-to-hub", "someone/converted", "--private",
    )  # fmt: skip
    assert hub.repos["someone/converted"].private
    audio = music("someone/converted", token=token, cache_dir=tmp_path / "cache")
    np.testing.assert_array_equal(audio, music(assembled))
    assert 'from_pretrained("someone/converted")' in hub.files("someone/converted")["README.md"].decode()

import dataclasses

import pytest
from music import music_pipeline

from open_musiclm import MusicLMPipeline
from open_musiclm.data.records import TokenRecord
from open_musiclm.training import check_tokens


@pytest.fixture(scope="module")
def parts(token_folder, pipeline_folder):
    return TokenRecord.load(token_folder), MusicLMPipeline.from_pretrained(pipeline_folder)


def changed(record, name, **fields):
    streams = [dataclasses.replace(s, **fields) if s.name == name else s for s in record.streams]
    return dataclasses.replace(record, streams=tuple(streams))


@pytest.mark.parametrize("stage", ["semantic", "coarse", "fine"])
def test_parts_that_belong_together_pass(parts, stage):
    record, pipeline = parts
    assert check_tokens(record, getattr(pipeline, f"{stage}_model"), pipeline.components) == []


@pytest.mark.parametrize("name", ["clap", "semantic", "coarse"])
def test_another_codebook_is_refused_and_both_are_named(parts, name):
    record, pipeline = parts
    wrong = changed(record, name, codebook_fingerprint="sha256:0123456789abcdef")
    with pytest.raises(ValueError, match="Codebooks differ") as error:
        check_tokens(wrong, pipeline.coarse_model)
    assert "sha256:0123456789abcdef" in str(error.value)
    assert record.stream(name).codebook_fingerprint in str(error.value)


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("semantic", {"frame_rate": 50.0}, "frame_rate is 50.0 for the one, 25.0"),
        ("coarse", {"num_codebooks": 3}, "num_codebooks is 3 for the one, 2"),
        ("clap", {"codebook_size": 1024}, "codebook_size is 1024 for the one, 16"),
        ("semantic", {"num_edge_frames": 0}, "num_edge_frames"),
    ],
)
def test_other_sizes_and_rates_are_refused(parts, name, fields, message):
    record, pipeline = parts
    with pytest.raises(ValueError, match=message):
        check_tokens(changed(record, name, **fields), pipeline.coarse_model)


def test_a_pipeline_with_other_codebooks_than_the_stage_is_refused(parts):
    record, pipeline = parts
    other = music_pipeline(seed=1).components
    with pytest.raises(ValueError, match="the pipeline has sha256:"):
        check_tokens(record, pipeline.coarse_model, other)


def test_unknown_codebooks_are_named(parts):
    record, pipeline = parts
    assert check_tokens(changed(record, "coarse", codebook_fingerprint=None), pipeline.coarse_model) == ["coarse"]


def test_a_missing_stream_is_refused(parts):
    record, pipeline = parts
    streams = tuple(stream for stream in record.streams if stream.name != "semantic")
    with pytest.raises(ValueError, match="no stream 'semantic'"):
        check_tokens(dataclasses.replace(record, streams=streams), pipeline.coarse_model)

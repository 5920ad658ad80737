"""A pipeline through the Hub and back, over HTTP with the real client."""

import json
import os
import subprocess
import sys

import pytest
import torch
from diffusers import DiffusionPipeline
from huggingface_hub import HfApi, ModelCard

import open_musiclm
from open_musiclm import MusicLMPipeline, SemanticQuantizer, SemanticQuantizerConfig
from open_musiclm.hub import components

OWN = {
    "clap_quantizer": "ClapQuantizer",
    "semantic_model": "MusicLMSemanticModel",
    "coarse_model": "MusicLMCoarseModel",
    "fine_model": "MusicLMFineModel",
    "semantic_quantizer": "SemanticQuantizer",
}
LIBRARIES = {
    "clap": "ClapModel",
    "clap_processor": "ClapProcessor",
    "codec": "EncodecModel",
    "semantic_encoder": "HubertModel",
}


def music(pipe) -> torch.Tensor:
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(7)
    return pipe("calm piano", audio_length_in_s=1.0, generator=generator, output_type="pt").audios


@pytest.fixture
def published(hub, token, pipe):
    pipe.push_to_hub("someone/tiny-musiclm", token=token)
    return "someone/tiny-musiclm"


def test_upload_download_generate_gives_the_same_audio(published, pipe, tmp_path):
    downloaded = MusicLMPipeline.from_pretrained(published, cache_dir=tmp_path)
    assert type(downloaded) is MusicLMPipeline
    assert torch.equal(music(downloaded), music(pipe))


def test_what_is_in_the_repository(published, hub):
    files = hub.files(published)
    index = json.loads(files["model_index.json"])
    assert index["_class_name"] == ["pipeline", "MusicLMPipeline"]
    expected = {name: ["open_musiclm", class_name] for name, class_name in OWN.items()}
    expected |= {name: ["transformers", class_name] for name, class_name in LIBRARIES.items()}
    assert {name: value for name, value in index.items() if not name.startswith("_")} == expected
    assert {path for path in files if path.endswith(".py")} == {
        "pipeline.py",
        *(f"{name}/open_musiclm.py" for name in OWN),
    }
    card = ModelCard(files["README.md"].decode())
    assert card.data.library_name == "diffusers"
    assert 'MusicLMPipeline.from_pretrained("someone/tiny-musiclm")' in card.text


def test_the_published_names_are_promised(pipeline_folder):
    """Renaming or moving what published repositories name breaks them: these names stay, at both places."""
    for class_name in OWN.values():
        assert getattr(open_musiclm, class_name) is getattr(components, class_name)
        assert components.__name__ == "open_musiclm.hub.components"
    assert open_musiclm.PreTrainedModel is components.PreTrainedModel
    own_code = (pipeline_folder / "pipeline.py").read_text()
    assert "from open_musiclm import MusicLMPipeline" in own_code


PLAIN_LOAD = """
import sys, torch
from diffusers import DiffusionPipeline
assert not any(name.startswith("open_musiclm") for name in sys.modules)
repo, folder, result = sys.argv[1:]
try:
    DiffusionPipeline.from_pretrained(repo)
except ValueError as error:
    assert "trust_remote_code=True" in str(error), error
else:
    raise AssertionError("loaded without trust")
audios = []
for source in (repo, folder):
    pipe = DiffusionPipeline.from_pretrained(source, trust_remote_code=True)
    assert (type(pipe).__module__, type(pipe).__name__) == ("open_musiclm.pipelines.musiclm", "MusicLMPipeline")
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(7)
    audios.append(pipe("calm piano", audio_length_in_s=1.0, generator=generator, output_type="pt").audios)
torch.save(audios, result)
"""


def test_plain_diffusers_in_a_process_that_never_heard_of_us(published, pipe, pipeline_folder, tmp_path):
    """From the Hub, and from a folder."""
    command = [sys.executable, "-c", PLAIN_LOAD, published, str(pipeline_folder), str(tmp_path / "result.pt")]
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}  # the last bit depends on them
    finished = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **threads})
    assert finished.returncode == 0, finished.stderr
    expected = music(pipe)
    assert all(torch.equal(audio, expected) for audio in torch.load(tmp_path / "result.pt"))


@pytest.mark.parametrize("trust", [{}, {"trust_remote_code": True}])
def test_code_of_a_repository_is_not_run(published, hub, token, tmp_path, pipe, trust):
    """Not by our class: neither pipeline.py nor a component's file, trusted or not."""
    victim = tmp_path / "created"
    for path in [path for path in hub.files(published) if path.endswith(".py")]:
        hostile = f"open({str(victim)!r}, 'w')\n".encode()
        HfApi(token=token).upload_file(path_or_fileobj=hostile, path_in_repo=path, repo_id=published)
    downloaded = MusicLMPipeline.from_pretrained(published, cache_dir=tmp_path / "cache", **trust)
    assert torch.equal(music(downloaded), music(pipe))
    assert not victim.exists()


def test_revisions(hub, token, pipe, tmp_path):
    first = pipe.push_to_hub("someone/tiny", token=token)
    hub.repos["someone/tiny"].branches["kept"] = first.oid
    other = pipe.fine_model.heads["fine"].detach().clone()
    try:
        with torch.no_grad():
            pipe.fine_model.heads["fine"].mul_(2)
        changed = music(pipe)
        second = pipe.push_to_hub("someone/tiny", token=token, commit_message="twice the heads")
        branch = pipe.push_to_hub("someone/tiny", token=token, revision="experiment")
    finally:
        with torch.no_grad():
            pipe.fine_model.heads["fine"].copy_(other)
    assert len({first.oid, second.oid, branch.oid}) == 3
    for revision, expected in (
        (None, changed),
        ("experiment", changed),
        ("kept", music(pipe)),
        (first.oid, music(pipe)),
    ):
        downloaded = MusicLMPipeline.from_pretrained("someone/tiny", revision=revision, cache_dir=tmp_path)
        assert torch.equal(music(downloaded), expected)
    with pytest.raises(OSError, match=r"someone/tiny has no revision 'nowhere'"):
        MusicLMPipeline.from_pretrained("someone/tiny", revision="nowhere", cache_dir=tmp_path)


def test_a_private_pipeline(hub, token, pipe, tmp_path):
    pipe.push_to_hub("someone/secret", token=token, private=True)
    assert hub.repos["someone/secret"].private
    with pytest.raises(OSError, match=r"someone/secret is not on the Hub, or is private .* pass `token=…`"):
        MusicLMPipeline.from_pretrained("someone/secret", cache_dir=tmp_path)
    downloaded = MusicLMPipeline.from_pretrained("someone/secret", token=token, cache_dir=tmp_path)
    assert torch.equal(music(downloaded), music(pipe))


def test_uploading_needs_a_token(hub, pipe):
    with pytest.raises(Exception, match="401"):
        pipe.push_to_hub("someone/tiny")
    assert not hub.repos


def test_an_upload_that_breaks_off_is_sent_again(hub, token, pipe, tmp_path):
    hub.drop_uploads = 2
    pipe.push_to_hub("someone/tiny", token=token)
    assert hub.drop_uploads == 0
    assert torch.equal(music(MusicLMPipeline.from_pretrained("someone/tiny", cache_dir=tmp_path)), music(pipe))


def test_an_upload_given_up_on_changes_nothing_and_goes_on_later(hub, token, pipe, tmp_path, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _: None)
    uploaded = []

    def upload_but_two(handler, blob, real=hub.server.RequestHandlerClass.lfs_upload):
        hub.drop_uploads = int(len(uploaded) >= 5)  # the first five files come through, then the line is dead
        if not hub.drop_uploads:
            uploaded.append(blob)
        return real(handler, blob)

    with monkeypatch.context() as patch:
        patch.setattr(hub.server.RequestHandlerClass, "lfs_upload", upload_but_two)
        with pytest.raises(Exception, match=r".+"):
            pipe.push_to_hub("someone/tiny", token=token)
    assert list(hub.files("someone/tiny")) == [".gitattributes"]
    hub.drop_uploads = 0
    hub.requests.clear()
    pipe.push_to_hub("someone/tiny", token=token)
    sent_again = {line.split("/")[-1] for line in hub.requests if line.startswith("PUT /lfs/")}
    assert sent_again
    assert not sent_again & hub.large.intersection(uploaded)
    assert torch.equal(music(MusicLMPipeline.from_pretrained("someone/tiny", cache_dir=tmp_path)), music(pipe))


def test_a_card_on_the_hub_is_kept(hub, token, pipe):
    pipe.push_to_hub("someone/tiny", token=token)
    mine = b"---\nlicense: mit\n---\nMine."
    HfApi(token=token).upload_file(path_or_fileobj=mine, path_in_repo="README.md", repo_id="someone/tiny")
    pipe.push_to_hub("someone/tiny", token=token)
    assert hub.files("someone/tiny")["README.md"] == mine


def test_variants(hub, token, pipe, tmp_path):
    pipe.push_to_hub("someone/tiny", token=token, variant="fp16")
    assert "coarse_model/model.fp16.safetensors" in hub.files("someone/tiny")
    downloaded = MusicLMPipeline.from_pretrained("someone/tiny", variant="fp16", cache_dir=tmp_path)
    assert torch.equal(music(downloaded), music(pipe))


def test_a_repository_without_a_namespace_is_the_owners(hub, token, pipe):
    pipe.push_to_hub("tiny", token=token)
    assert 'from_pretrained("tester/tiny")' in hub.files("tester/tiny")["README.md"].decode()


def test_saving_with_push_to_hub(hub, token, pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "mine", push_to_hub=True, repo_id="someone/mine", token=token)
    assert "model_index.json" in hub.files("someone/mine")
    assert (tmp_path / "mine" / "README.md").is_file()


def test_saving_again_what_plain_diffusers_loaded(pipeline_folder, tmp_path):
    loaded = DiffusionPipeline.from_pretrained(pipeline_folder, trust_remote_code=True)
    loaded.save_pretrained(tmp_path)
    first, second = (json.loads((folder / "model_index.json").read_text()) for folder in (pipeline_folder, tmp_path))
    assert {**first, "_name_or_path": None} == {**second, "_name_or_path": None}


def test_a_licence_can_be_said_and_is_kept_within_what_the_parts_allow(hub, token, pipe):
    pipe.push_to_hub("someone/tiny", token=token, license="cc-by-4.0")
    assert "license: cc-by-4.0" in hub.files("someone/tiny")["README.md"].decode()
    pipe.push_to_hub("someone/tiny", token=token, license="apache-2.0")  # also in the card that is there
    card = hub.files("someone/tiny")["README.md"].decode()
    assert "license: apache-2.0" in card
    assert "cc-by-4.0" not in card
    pipe.coarse_model.push_to_hub("someone/coarse", token=token, license="mit")
    assert "license: mit" in hub.files("someone/coarse")["README.md"].decode()
    quantizer = SemanticQuantizer(
        SemanticQuantizerConfig(codebook_size=4, feature_dim=4, semantic_encoder="m-a-p/MERT-v0")
    )
    with pytest.raises(ValueError, match="'mit' is wider than that of this part"):
        quantizer.push_to_hub("someone/quantizer", token=token, license="mit")
    assert "someone/quantizer" not in hub.repos
    quantizer.push_to_hub("someone/quantizer", token=token, license="cc-by-nc-sa-4.0")
    assert "license: cc-by-nc-sa-4.0" in hub.files("someone/quantizer")["README.md"].decode()

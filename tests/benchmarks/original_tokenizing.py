"""The original's own preprocessing loop on a pipeline's networks, in a process of its own (its package has this one's name).

    python original_tokenizing.py '{"path": …, "pipeline": …, "music": …, "device": "cpu", "num_threads": 2}'

`DataPreprocessor.process` as it stands, from reading a file to the row in its database. torchaudio is replaced by
soundfile and soxr, its wrappers of CLAP and EnCodec (which need packages that do not install any more) by ones that call
the functions this package calls; its wrapper of HuBERT and k-means is its own. einops and beartype must be installed.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import sys
import tempfile
import time
import types
from pathlib import Path

import soundfile
import torch
from sklearn.cluster import MiniBatchKMeans


def load_own(pipeline: str, device: str):
    """This package's networks and functions, and then its name is free for the original."""
    from open_musiclm.audio import resample
    from open_musiclm.data.networks import load_networks
    from open_musiclm.tokenizers.clap_spectrogram import clap_embeddings
    from open_musiclm.tokenizers.codec import as_codec

    networks, configs = load_networks(pipeline, device=device)
    codec = as_codec(networks["codec"])
    for name in [name for name in sys.modules if name.split(".")[0] == "open_musiclm"]:
        del sys.modules[name]
    sys.path[:] = [path for path in sys.path if not (Path(path) / "open_musiclm").is_dir()]
    return networks, configs, resample, clap_embeddings, codec


def stand_in(name: str, **attributes: object) -> None:
    module = types.ModuleType(name)
    module.__spec__ = importlib.machinery.ModuleSpec(name, None)
    module.__dict__.update(attributes)
    sys.modules[name] = module


class Clap(torch.nn.Module):
    def __init__(self, networks: dict, clap_embeddings):
        super().__init__()
        self.networks, self.embed = networks, clap_embeddings
        self.sample_rate = networks["clap_processor"].feature_extractor.sampling_rate

    def forward(self, audio_input: torch.Tensor) -> torch.Tensor:
        embeddings = self.embed(self.networks["clap"], self.networks["clap_processor"], audio_input.numpy())
        return self.networks["clap_quantizer"].encode(embeddings).unsqueeze(-1)


class Codec(torch.nn.Module):
    def __init__(self, codec, num_codebooks: int):
        super().__init__()
        self.codec, self.num_codebooks = codec, num_codebooks
        self.sample_rate = codec.sampling_rate

    def forward(self, audio: torch.Tensor, return_encoded: bool = True):
        return None, self.codec.encode(audio.unsqueeze(1), self.num_codebooks), None


def kmeans(quantizer) -> MiniBatchKMeans:
    model = MiniBatchKMeans(quantizer.config.codebook_size)
    model.cluster_centers_ = quantizer.codebook.detach().cpu().float().numpy()
    model._n_threads, model.n_features_in_ = torch.get_num_threads(), model.cluster_centers_.shape[1]
    return model


def main() -> None:
    job = json.loads(sys.argv[1])
    torch.set_num_threads(job["num_threads"])
    networks, configs, resample, clap_embeddings, codec = load_own(job["pipeline"], job["device"])

    def load(path):
        audio, rate = soundfile.read(path, dtype="float32", always_2d=True)
        return torch.from_numpy(audio.T), rate

    def resampled(audio: torch.Tensor, rate: int, target: int) -> torch.Tensor:
        return torch.from_numpy(resample(audio[0].numpy(), rate, target))[None]

    stand_in("torchaudio", load=load)
    stand_in("torchaudio.functional", resample=resampled)
    sys.path.insert(0, job["path"])
    stand_in("open_musiclm", __path__=[f"{job['path']}/open_musiclm"])
    stand_in("open_musiclm.clap_quantized", ClapQuantized=Clap)
    stand_in("open_musiclm.encodec_wrapper", EncodecWrapper=Codec)
    from open_musiclm.hf_hubert_kmeans import HfHubertWithKmeans
    from open_musiclm.preprocess import DataPreprocessor

    quantizer = networks["semantic_quantizer"]
    rate, frame_rate = quantizer.config.sampling_rate, round(quantizer.config.frame_rate)
    num_coarse, num_fine = (configs[f"{name}_model"].predicted_stream.num_codebooks for name in ("coarse", "fine"))
    with tempfile.TemporaryDirectory() as results:
        preprocessor = DataPreprocessor(
            num_coarse_quantizers=num_coarse,
            wav2vec=HfHubertWithKmeans(
                hubert=networks["semantic_encoder"],
                kmeans=kmeans(quantizer),
                embed_layer=quantizer.config.layer,
                target_sample_hz=rate,
                seq_len_multiple_of=rate // frame_rate,
                codebook_size=quantizer.config.codebook_size,
                output_hz=frame_rate,
            ),
            neural_codec=Codec(codec, num_coarse + num_fine),
            audio_conditioner=Clap(networks, clap_embeddings),
            folder=job["music"],
            results_folder=results,
            accelerate_kwargs={"cpu": job["device"] == "cpu"},
        )
        started = time.perf_counter()
        preprocessor.process()
        elapsed = time.perf_counter() - started
        (count,) = preprocessor.cursor.execute("SELECT COUNT(*) FROM tokens").fetchone()
    print("RESULT " + json.dumps({"seconds": elapsed, "num_files": count}))


if __name__ == "__main__":
    main()

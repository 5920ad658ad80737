"""Networks of transformers that turn windows of audio into embeddings or class probabilities.

An embedder takes a local path or a Hub id, and says in its `backbone` exactly what it is: name, revision, a fingerprint
of its weights, the layer. The networks stay on the device they are given; windows come and embeddings go as NumPy.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch

from ...hub.reading import read_pretrained, read_processor
from ...tokenizers.clap import clap_audio_embeddings, clap_text_embeddings
from ..records import Backbone

__all__ = ["AstEmbedder", "ClapEmbedder", "Embedder", "HubertEmbedder", "load_embedder", "weights_fingerprint"]


@runtime_checkable
class Embedder(Protocol):
    """What the metrics need of a network.

    Attributes:
        backbone: What stands in the record of every figure made with it.
        max_window_in_s: Longest window it takes; None for any.
    """

    backbone: Backbone
    max_window_in_s: float | None

    def embed(self, windows: np.ndarray) -> np.ndarray:
        """Windows (B, samples) at `backbone.sampling_rate` -> (B, frames, dimension) float64; frames is 1 if pooled."""
        ...


class ClapEmbedder:
    """Joint embeddings of text and audio (Wu et al. 2023), L2-normed; audio is rounded through int16 as in training."""

    def __init__(self, model, processor, name: str = "clap", revision: str | None = None):
        self.model, self.processor = model.eval(), processor
        extractor = processor.feature_extractor
        self.max_window_in_s: float | None = extractor.nb_max_samples / extractor.sampling_rate
        self.backbone = Backbone(
            name=name,
            kind="clap",
            revision=revision,
            weights_fingerprint=weights_fingerprint(model),
            layer="projection, L2-normed",
            sampling_rate=extractor.sampling_rate,
            dimension=model.config.projection_dim,
        )

    @classmethod
    def from_pretrained(cls, name: str, revision: str | None = None, device: str = "cpu") -> ClapEmbedder:
        """Loads from a Hub id, a folder, or the `clap` and `clap_processor` of a pipeline's folder."""
        from transformers import ClapModel, ClapProcessor

        folder = Path(name)
        if (folder / "model_index.json").is_file():
            model = read_pretrained(ClapModel, folder / "clap", any_variant=True)
            processor = read_processor(ClapProcessor, folder / "clap_processor")
        else:
            model = read_pretrained(ClapModel, name, whole=False, revision=revision or "main")
            processor = read_processor(ClapProcessor, name, revision=revision or "main")
        torch.nn.Module.to(model, device)
        return cls(model, processor, name, _commit(model))

    def embed(self, windows: np.ndarray) -> np.ndarray:
        embeddings = clap_audio_embeddings(self.model, self.processor, np.asarray(windows, dtype=np.float32))
        return embeddings.double().cpu().numpy()[:, None]

    def embed_text(self, texts: list[str], batch_size: int = 32) -> np.ndarray:
        """(num_texts, dimension) float64."""
        parts = [
            clap_text_embeddings(self.model, self.processor, texts[i : i + batch_size]).double().cpu().numpy()
            for i in range(0, len(texts), batch_size)
        ]
        return np.concatenate(parts)


class HubertEmbedder:
    """One layer of a HuBERT-like encoder (HuBERT, wav2vec 2.0, WavLM, MERT v0).

    Args:
        layer: Index into `hidden_states`; 0 is the input of the first layer.
        pooling: `mean` over the frames of a window, or `frames` to keep each as an item of its own, as fadtk does.
    """

    max_window_in_s: float | None = None

    def __init__(
        self,
        model,
        feature_extractor,
        layer: int,
        pooling: str = "mean",
        name: str = "hubert",
        revision: str | None = None,
    ):
        num_layers = model.config.num_hidden_layers
        if not 0 <= layer <= num_layers:
            raise ValueError(f"layer is {layer}, but {name} has hidden states 0 … {num_layers}.")
        if pooling not in ("mean", "frames"):
            raise ValueError(f"pooling is {pooling!r}; it must be 'mean' or 'frames'.")
        self.model, self.feature_extractor, self.layer, self.pooling = model.eval(), feature_extractor, layer, pooling
        self.backbone = Backbone(
            name=name,
            kind="hubert",
            revision=revision,
            weights_fingerprint=weights_fingerprint(model),
            layer=f"hidden state {layer}, {'mean over frames' if pooling == 'mean' else 'every frame'}",
            sampling_rate=feature_extractor.sampling_rate,
            dimension=model.config.hidden_size,
        )

    @classmethod
    def from_pretrained(
        cls, name: str, layer: int, pooling: str = "mean", revision: str | None = None, device: str = "cpu"
    ) -> HubertEmbedder:
        from transformers import AutoModel, Wav2Vec2FeatureExtractor

        model = read_pretrained(AutoModel, name, whole=False, revision=revision or "main")
        try:
            extractor = read_processor(Wav2Vec2FeatureExtractor, name, revision=revision or "main")
        except OSError:  # a bare model: what nearly all of these were trained with
            extractor = Wav2Vec2FeatureExtractor(sampling_rate=16000, do_normalize=True)
        torch.nn.Module.to(model, device)
        return cls(model, extractor, layer, pooling, name, _commit(model))

    @torch.no_grad()
    def embed(self, windows: np.ndarray) -> np.ndarray:
        inputs = self.feature_extractor(
            list(np.asarray(windows, dtype=np.float32)), sampling_rate=self.backbone.sampling_rate, return_tensors="pt"
        )
        values = inputs["input_values"].to(self.model.device, self.model.dtype)
        hidden = self.model(values, output_hidden_states=True).hidden_states[self.layer].double().cpu().numpy()
        return hidden.mean(axis=1, keepdims=True) if self.pooling == "mean" else hidden


class AstEmbedder:
    """Audio spectrogram transformer (Gong et al. 2021): an embedding and class probabilities of each window."""

    def __init__(self, model, feature_extractor, name: str = "ast", revision: str | None = None):
        self.model, self.feature_extractor = model.eval(), feature_extractor
        # frames are 10 ms apart and 25 ms long; the extractor would cut off what goes beyond max_length of them
        self.max_window_in_s: float | None = (feature_extractor.max_length - 1) * 0.01 + 0.025
        self.labels = [model.config.id2label[i] for i in range(model.config.num_labels)]
        self.backbone = Backbone(
            name=name,
            kind="ast",
            revision=revision,
            weights_fingerprint=weights_fingerprint(model),
            layer="pooled output",
            sampling_rate=feature_extractor.sampling_rate,
            dimension=model.config.hidden_size,
        )

    @classmethod
    def from_pretrained(cls, name: str, revision: str | None = None, device: str = "cpu") -> AstEmbedder:
        from transformers import ASTFeatureExtractor, ASTForAudioClassification

        model = read_pretrained(ASTForAudioClassification, name, revision=revision or "main")
        extractor = read_processor(ASTFeatureExtractor, name, revision=revision or "main")
        torch.nn.Module.to(model, device)
        return cls(model, extractor, name, _commit(model))

    def embed(self, windows: np.ndarray) -> np.ndarray:
        return self._run(windows)[0][:, None]

    def probabilities(self, windows: np.ndarray) -> np.ndarray:
        """Softmax of the logits: (B, samples) -> (B, 1, num_classes) float64.

        AST is trained on AudioSet with a sigmoid a class; the KL divergence needs one distribution, and AudioCraft and
        AudioLDM take the softmax.
        """
        return torch.softmax(torch.from_numpy(self._run(windows)[1]), dim=-1).numpy()[:, None]

    @torch.no_grad()
    def _run(self, windows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        inputs = self.feature_extractor(
            list(np.asarray(windows, dtype=np.float32)), sampling_rate=self.backbone.sampling_rate, return_tensors="pt"
        )
        values = inputs["input_values"].to(self.model.device, self.model.dtype)
        pooled = self.model.audio_spectrogram_transformer(values).pooler_output
        return pooled.double().cpu().numpy(), self.model.classifier(pooled).double().cpu().numpy()


def load_embedder(spec: str, device: str = "cpu") -> ClapEmbedder | HubertEmbedder | AstEmbedder:
    """Loads an embedder from a description.

    Args:
        spec: `clap:NAME`, `ast:NAME` or `hubert:NAME#LAYER`, with NAME a Hub id or a folder; `@REVISION` may follow the
            name, and `/frames` the layer, to keep every frame (`hubert:facebook/hubert-base-ls960#6/frames`).
    """
    kind, _, rest = spec.partition(":")
    if kind not in ("clap", "hubert", "ast") or not rest:
        raise ValueError(f"{spec!r} is no embedder; write clap:NAME, ast:NAME or hubert:NAME#LAYER.")
    rest, _, layer = rest.partition("#")
    name, _, revision = rest.partition("@")
    try:
        if kind == "clap":
            return ClapEmbedder.from_pretrained(name, revision or None, device)
        if kind == "ast":
            return AstEmbedder.from_pretrained(name, revision or None, device)
        number, _, pooling = layer.partition("/")
        if not number.isdigit():
            raise ValueError(f"{spec!r} names no layer; write hubert:{name}#7, or #7/frames to keep every frame.")
        return HubertEmbedder.from_pretrained(name, int(number), pooling or "mean", revision or None, device)
    except ValueError:
        raise
    except Exception as error:  # whatever readers of files raise: a missing part, a cut file, no network
        here = Path(name).is_dir()
        why = "that folder holds no such network that can be read" if here else "it is no folder here, nor on the Hub"
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"{name!r} could not be loaded as {kind}: {why} ({said}). Give a folder with its weights, or a Hub id that can "
            "be reached."
        ) from error


def weights_fingerprint(model: torch.nn.Module) -> str:
    """`sha256:` and 16 hex digits over the names and values of all weights; tells apart two files of one name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return f"sha256:{digest.hexdigest()[:16]}"


def _commit(model) -> str | None:
    return getattr(model.config, "_commit_hash", None)

"""From features to tokens: residual codes of a CLAP embedding, and the nearest centroid of a semantic feature."""

from __future__ import annotations

import torch
from torch import nn
from transformers import AutoModel, PreTrainedModel
from transformers import initialization as init

from ..hub.publishing import PublishedModel
from ..models.configuration import ClapQuantizerConfig, SemanticQuantizerConfig
from ..models.precision import KeepsFloat32
from .fingerprints import codebook_fingerprint


def nearest_codes(vectors: torch.Tensor, codebook: torch.Tensor, chunk_size: int = 8192) -> torch.Tensor:
    """Index of the nearest entry by Euclidean distance: vectors (n, dim), codebook (codebook_size, dim) → (n,)."""
    half_norms = codebook.square().sum(-1) / 2
    # argmin |v - c|² = argmax v·c - |c|²/2
    return torch.cat([(part @ codebook.T - half_norms).argmax(-1) for part in vectors.split(chunk_size)])


class _Quantizer(PublishedModel, KeepsFloat32, PreTrainedModel):  # type: ignore[misc]  # `push_to_hub` is ours
    """Codebooks are data, not weights that a cast may round: they stay in float32."""

    _keep_in_fp32_modules_strict = ["codebook", "codebooks"]


class ClapQuantizer(_Quantizer):
    """Residual quantizer of a CLAP embedding (MusicLM, section 3.1: the RVQ of MuLan embeddings)."""

    config: ClapQuantizerConfig
    config_class = ClapQuantizerConfig
    base_model_prefix = "clap_quantizer"
    main_input_name = "embeddings"

    def __init__(self, config: ClapQuantizerConfig):
        super().__init__(config)
        shape = (config.num_quantizers, config.codebook_size, config.embedding_dim)
        self.codebooks = nn.Parameter(torch.empty(shape), requires_grad=False)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, ClapQuantizer):
            init.normal_(module.codebooks, std=module.config.embedding_dim**-0.5)

    @property
    def fingerprint(self) -> str:
        return codebook_fingerprint(self.codebooks)

    @torch.no_grad()
    def encode(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Embeddings (…, embedding_dim) → codes (…, num_quantizers) int64: each step the nearest to what is left."""
        if embeddings.shape[-1] != self.config.embedding_dim:
            raise ValueError(
                f"Embeddings have {embeddings.shape[-1]} dimensions; this quantizer was made for "
                f"{self.config.embedding_dim}."
            )
        residual = embeddings.to(self.codebooks).reshape(-1, self.config.embedding_dim)
        codes = []
        for codebook in self.codebooks:
            codes.append(nearest_codes(residual, codebook))
            residual = residual - codebook[codes[-1]]
        return torch.stack(codes, dim=-1).unflatten(0, embeddings.shape[:-1])

    @torch.no_grad()
    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Codes (…, up to num_quantizers) → embeddings (…, embedding_dim): the sum of the chosen entries."""
        total = self.codebooks[0][codes[..., 0]]
        for index in range(1, codes.shape[-1]):
            total = total + self.codebooks[index][codes[..., index]]
        return total

    def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
        return self.encode(embeddings)


class SemanticQuantizer(_Quantizer):
    """k-means over the features of one layer of an audio encoder (AudioLM, section 3.1).

    With several codebooks the features are cut into as many groups (product quantization, Jégou et al. 2011).
    """

    config: SemanticQuantizerConfig
    config_class = SemanticQuantizerConfig
    base_model_prefix = "semantic_quantizer"
    main_input_name = "features"

    def __init__(self, config: SemanticQuantizerConfig):
        super().__init__(config)
        shape = (config.num_codebooks, config.codebook_size, config.feature_dim // config.num_codebooks)
        # one codebook stands without the first dimension, as it always has
        self.codebook = nn.Parameter(
            torch.empty(shape if config.num_codebooks > 1 else shape[1:]), requires_grad=False
        )
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, SemanticQuantizer):
            init.normal_(module.codebook)

    @property
    def fingerprint(self) -> str:
        return codebook_fingerprint(self.codebook)

    @torch.no_grad()
    def normalize(self, features: torch.Tensor) -> torch.Tensor:
        """Zero mean and unit variance over each vector's features (sample variance), if the config asks for it."""
        if not self.config.normalize:
            return features
        variance, mean = torch.var_mean(features, dim=-1, keepdim=True)
        return (features - mean) / torch.sqrt(variance + 1e-7)

    @torch.no_grad()
    def encode(self, features: torch.Tensor) -> torch.Tensor:
        """Features (…, feature_dim) as the encoder gives them → codes (…) int64, or (…, num_codebooks) of several."""
        config = self.config
        if features.shape[-1] != config.feature_dim:
            raise ValueError(
                f"Features have {features.shape[-1]} dimensions; this quantizer was made for {config.feature_dim}."
            )
        vectors = self.normalize(features.to(self.codebook)).reshape(-1, config.feature_dim)
        if config.num_codebooks == 1:
            return nearest_codes(vectors, self.codebook).reshape(features.shape[:-1])
        groups = vectors.unflatten(-1, (config.num_codebooks, -1)).unbind(1)
        codes = [nearest_codes(group, codebook) for group, codebook in zip(groups, self.codebook, strict=True)]
        return torch.stack(codes, dim=-1).reshape(*features.shape[:-1], config.num_codebooks)

    @torch.no_grad()
    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Codes (…), or (…, num_codebooks) of several → centroids (…, feature_dim)."""
        if self.config.num_codebooks == 1:
            return self.codebook[codes]
        groups = [codebook[codes[..., index]] for index, codebook in enumerate(self.codebook)]
        return torch.cat(groups, dim=-1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.encode(features)


for _model in (ClapQuantizer, SemanticQuantizer):
    AutoModel.register(_model.config_class, _model, exist_ok=True)

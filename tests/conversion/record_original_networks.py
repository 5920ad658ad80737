"""Records what the original CLAP and EnCodec compute, for the conversion tests (run by hand, once).

    pip install --no-deps --target ORIGINALS laion-clap==1.1.7 torchlibrosa==0.1.0 encodec==0.1.1
    pip install --target ORIGINALS librosa h5py
    PYTHONPATH=ORIGINALS python tests/conversion/record_original_networks.py

It builds each original class in a small size (their constructors fix some sizes; those parts are replaced by the same
classes made smaller), fills it with the seeded weights of `seeded_weights.py`, and writes names, shapes and outputs to
`recordings/`. torchvision and torchaudio are not needed by the networks and are stubbed out here. The test suite never
runs this file: it compares the converted networks with the recorded numbers.
"""

import importlib
import importlib.machinery
import importlib.util
import json
import sys
import types

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from seeded_weights import RECORDINGS, music_like, seeded_state_dict
from torch import nn
from transformers import RobertaConfig, RobertaModel

CLAP_SIZES = {
    "clap_tiny": {"embed_dim": 4, "depths": [2, 2, 3, 1], "num_heads": [1, 2, 2, 4]},
    "clap_base": {"embed_dim": 8, "depths": [2, 2, 5, 2], "num_heads": [2, 2, 4, 8]},
}
JOINT_DIM = 24


def stub(name: str, **attributes: object) -> types.ModuleType:
    """An empty module of this name, so that `import name` in the originals succeeds."""
    module = types.ModuleType(name)
    module.__spec__ = importlib.machinery.ModuleSpec(name, None)
    module.__path__ = []
    module.__dict__.update(attributes)
    sys.modules[name] = module
    return module


def prepare_imports() -> None:
    """Makes the originals' network files importable: without their packages' `__init__` and the libraries it wants."""
    folder = importlib.util.find_spec("laion_clap").submodule_search_locations[0]
    stub("laion_clap").__path__ = [folder]
    stub("laion_clap.clap_module").__path__ = [f"{folder}/clap_module"]
    stub("laion_clap.clap_module.timm_model", TimmModel=None)
    stub("torchvision")
    stub("torchvision.ops")
    stub("torchvision.ops.misc", FrozenBatchNorm2d=nn.Identity)
    stub("torchaudio")


def small_clap(size: str, fused: bool) -> nn.Module:
    model = importlib.import_module("laion_clap.clap_module.model")
    htsat = importlib.import_module("laion_clap.clap_module.htsat")
    text_config = RobertaConfig(
        vocab_size=60, hidden_size=128, num_hidden_layers=2, num_attention_heads=2, intermediate_size=96,
        max_position_embeddings=82, type_vocab_size=1, layer_norm_eps=1e-5,
    )  # fmt: skip
    model.RobertaModel = types.SimpleNamespace(from_pretrained=lambda _: RobertaModel(text_config))
    model.create_htsat_model = lambda config, fusion, fusion_type: htsat.HTSAT_Swin_Transformer(
        **CLAP_SIZES[size], config=config, enable_fusion=fusion, fusion_type=fusion_type
    )
    audio = {"window_size": 1024, "hop_size": 480, "model_type": "HTSAT", "model_name": size.split("_")[1]}
    text = {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12, "model_type": "roberta"}
    clap = model.CLAP(
        CLAP_SIZES[size]["embed_dim"] * 8, audio, text, enable_fusion=fused,
        fusion_type="aff_2d" if fused else "None", joint_embed_shape=JOINT_DIM,
    )  # fmt: skip
    clap.text_projection[0] = nn.Linear(128, JOINT_DIM)  # the class writes 768 here
    return clap.eval()


def record_clap(size: str, fused: bool) -> None:
    clap = small_clap(size, fused)
    name = f"{size}_{'fused' if fused else 'unfused'}"
    layout = write_layout(name, clap.state_dict())
    computed = {key for key in layout if "_extractor." in key or key.endswith("attn_mask")}
    fill(clap, {key: value for key, value in layout.items() if key not in computed})
    tokens = torch.tensor([[0, 7, 9, 33, 2, 1, 1], [0, 5, 2, 1, 1, 1, 1]])
    text = {"input_ids": tokens, "attention_mask": (tokens != 1).long()}
    if fused:
        random = torch.from_numpy(np.random.RandomState(5).standard_normal((2, 4, 1001, 64)))
        audio = {"mel_fusion": random.float() * 12 - 40, "longer": torch.tensor([[True], [False]])}
    else:
        audio = {"waveform": torch.stack([music_like(480_000, 48_000, seed) for seed in (1, 2)])}
    with torch.no_grad():
        hidden = clap.encode_audio(audio, device="cpu")["embedding"]
        outputs = {
            "text_embeddings": F.normalize(clap.encode_text(text, device="cpu"), dim=-1),
            "audio_embeddings": F.normalize(clap.audio_projection(hidden), dim=-1),
        }
    save_file({**outputs, "input_ids": tokens}, RECORDINGS / f"{name}.safetensors")


def record_encodec() -> None:
    modules = importlib.import_module("encodec.modules")
    quantization = importlib.import_module("encodec.quantization")
    encodec = importlib.import_module("encodec.model")
    sizes = {"channels": 1, "dimension": 12, "n_filters": 4, "causal": True, "norm": "weight_norm"}
    codec = encodec.EncodecModel(
        modules.SEANetEncoder(**sizes),
        modules.SEANetDecoder(**sizes),
        quantization.ResidualVectorQuantizer(dimension=12, n_q=8, bins=32),
        target_bandwidths=[75 * 5 * count / 1000 for count in (2, 4, 8)], sample_rate=24_000, channels=1,
    ).eval()  # fmt: skip
    fill(codec, write_layout("encodec", codec.state_dict()))
    codec.set_target_bandwidth(75 * 5 * 4 / 1000)
    waveform = torch.stack([music_like(9_600, 24_000, seed) for seed in (3, 4)])[:, None]
    with torch.no_grad():
        frames = codec.encode(waveform)
        outputs = {"codes": frames[0][0], "latents": codec.encoder(waveform), "waveform": codec.decode(frames)}
    save_file({key: value.contiguous() for key, value in outputs.items()}, RECORDINGS / "encodec.safetensors")


def write_layout(name: str, state_dict: dict[str, torch.Tensor]) -> dict[str, tuple[list[int], str]]:
    layout = {key: (list(value.shape), str(value.dtype).removeprefix("torch.")) for key, value in state_dict.items()}
    (RECORDINGS / f"{name}.json").write_text(json.dumps(layout))
    return layout


def fill(network: nn.Module, layout: dict[str, tuple[list[int], str]]) -> None:
    missing, surplus = network.load_state_dict(seeded_state_dict(layout), strict=False)
    assert not surplus
    assert all("_extractor." in name or name.endswith("attn_mask") for name in missing)


if __name__ == "__main__":
    RECORDINGS.mkdir(exist_ok=True)
    prepare_imports()
    for size_name in CLAP_SIZES:
        for with_fusion in (False, True):
            record_clap(size_name, with_fusion)
    record_encodec()

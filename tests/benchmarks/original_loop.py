"""The original's own code, timed in a process of its own (its package has this package's name).

    python original_loop.py '{"path": …, "stage": "coarse", …}'

`save` writes a stage's random weights; `steps` times one forward pass of its generation loop at several lengths, which
is what it does for every token; `train` times its training step. Modules that it imports but does not need here
(torchaudio, encodec, …) are replaced by empty ones if they are not installed; einops must be.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import time
import typing
from unittest.mock import MagicMock

import torch

NOT_NEEDED = (
    "beartype",
    "beartype.door",
    "beartype.typing",
    "encodec",
    "torchaudio",
    "torchaudio.functional",
    "torchvision",
    "torchvision.transforms",
    "vector_quantize_pytorch",
)


def import_original(path: str):
    """Its module with the transformer, from a checkout at `path`."""
    sys.path.insert(0, path)
    missing = {name for name in NOT_NEEDED if importlib.util.find_spec(name.split(".")[0]) is None}
    sys.modules.update({name: MagicMock() for name in missing})
    if "beartype.typing" in missing:
        sys.modules["beartype.typing"] = typing
    for name in ("clap_quantized", "encodec_wrapper", "hf_hubert_kmeans", "model_types"):
        sys.modules[f"open_musiclm.{name}"] = MagicMock()
    import open_musiclm.open_musiclm as original

    return original


def stage(original, job: dict):
    """A stage by its streams [(codebook_size, codebooks), …] and sizes."""
    torch.manual_seed(job["seed"])
    sequences = [
        original.TokenSequenceInfo(codebook_size=size, num_quantizers=count, unique_consecutive=False)
        for size, count in job["streams"]
    ]
    return original.TokenConditionedTransformer(
        token_sequences=sequences,
        dim=job["hidden_size"],
        depth=job["num_hidden_layers"],
        heads=job["num_attention_heads"],
        relative_position_bias_type="continuous",
        use_conv_ff=True,
    )


def tokens(job: dict, lengths: list[int], batch_size: int, device) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [
        torch.randint(size, (batch_size, length), generator=generator).to(device)
        for (size, _), length in zip(job["streams"], lengths, strict=True)
    ]


@torch.no_grad()
def time_steps(model, job: dict, device) -> list[list[float]]:
    """Seconds of a forward pass for each list of stream lengths, the fastest of some."""
    measured = []
    for lengths in job["lengths"]:
        ids = tokens(job, lengths, 1, device)
        best = []
        for _ in range(job["repeats"] + 1):
            started = time.perf_counter()
            model(all_token_ids=ids, return_only_final_seq_logits=True)[-1][:, -1].cpu()
            best.append(time.perf_counter() - started)
        measured.append(sorted(best[1:]))
    return measured


def time_training(original, model, job: dict, device) -> list[float]:
    """Seconds of a training step (autocast as its trainer runs under accelerate)."""
    weights = [0.0] * (len(job["streams"]) - 1) + [1.0]  # as its trainer and its published configs have them
    wrapper = original.TokenConditionedTransformerWrapper(
        transformer=model, unique_consecutive=False, cross_entropy_loss_weights=weights
    ).to(device)
    wrapper.train()
    optimizer = torch.optim.AdamW(wrapper.parameters(), lr=3e-4)
    ids = tokens(job, job["lengths"][0], job["batch_size"], device)
    measured = []
    for _ in range(job["repeats"] + 2):
        started = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=job["autocast"]):
            loss, _, _ = wrapper(all_token_ids=[each.clone() for each in ids], return_loss=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(wrapper.parameters(), 0.5)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()
        measured.append(time.perf_counter() - started)
    return sorted(measured[2:])


def main() -> None:
    job = json.loads(sys.argv[1])
    torch.set_num_threads(job["num_threads"])
    original = import_original(job["path"])
    device = torch.device(job["device"])
    model = stage(original, job).eval().to(device)
    if job.get("save"):
        torch.save(model.state_dict(), job["save"])
        ids = tokens(job, job["lengths"][0], 1, device)
        with torch.no_grad():
            logits = model(all_token_ids=ids, return_only_final_seq_logits=True)[-1]
        torch.save({"token_ids": ids, "logits": logits}, job["save"] + ".check")
    if job["task"] == "steps":
        result: object = time_steps(model, job, device)
    elif job["task"] == "train":
        result = time_training(original, model, job, device)
    else:
        result = None
    print("RESULT " + json.dumps(result))


if __name__ == "__main__":
    main()

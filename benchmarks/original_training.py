"""A training step of the original's own code, for `train_and_tokenize.py`: run apart, as both packages have one name.

    python benchmarks/original_training.py CHECKOUT_OF_zhvng_open-musiclm DEVICE DIM LAYERS HEADS BATCH STEPS

Needs einops and beartype. The parts that load audio networks (torchaudio, CLAP, EnCodec, HuBERT) are left out: a
training step does not use them. Prints tokens a second.
"""

import sys
import time
import types

import torch

checkout, device, *numbers = sys.argv[1:]
dim, layers, heads, batch, steps = map(int, numbers)


def stand_in(name: str, **attributes: object) -> types.ModuleType:
    module = types.ModuleType(name)
    module.__dict__.update(attributes)
    sys.modules[name] = module
    return module


stand_in("torchaudio")
stand_in("torchaudio.functional", resample=None)
stand_in("open_musiclm").__path__ = [f"{checkout}/open_musiclm"]
stand_in("open_musiclm.clap_quantized", ClapQuantized=object)
stand_in("open_musiclm.model_types", NeuralCodec=object, Wav2Vec=object)
from open_musiclm import open_musiclm as original  # noqa: E402

transformer = original.create_coarse_transformer(
    dim=dim, depth=layers, heads=heads, num_coarse_quantizers=3, relative_position_bias_type="continuous",
    use_conv_ff=True, non_causal_prefix_size=0,
)  # fmt: skip
model = original.TokenConditionedTransformerWrapper(
    transformer=transformer, unique_consecutive=False, cross_entropy_loss_weights=[0.0, 0.0, 1.0]
).to(device)
model.train()
decayed = [p for p in model.parameters() if p.ndim >= 2]
plain = [p for p in model.parameters() if p.ndim < 2]
optimizer = torch.optim.AdamW(
    [{"params": decayed}, {"params": plain, "weight_decay": 0.0}], lr=3e-4, betas=(0.9, 0.99), weight_decay=0.01
)
random = torch.Generator().manual_seed(0)
ids = [torch.randint(1024, (batch, *shape), generator=random).to(device) for shape in ((12,), (199,), (300, 3))]


def step() -> None:
    loss, *_ = model(all_token_ids=[each.clone() for each in ids], return_loss=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
    optimizer.step()
    optimizer.zero_grad()


def wait() -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


step()
wait()
started = time.perf_counter()
for _ in range(steps):
    step()
wait()
print(steps * batch * (12 + 199 + 900) / (time.perf_counter() - started))

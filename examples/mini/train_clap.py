"""Train a small CLAP in two steps: what words mean, then how it sounds.

A small CLAP trained on both towers at once collapses: it learns that some clips have drums, and hardly more. Here the
text tower first learns against a table of the true attributes of clips (thousands of cheap steps), each clip beside its
neighbours that differ in one attribute. Which captions fit which clips is known, so every fitting pair counts as a
positive (supervised contrastive learning, Khosla et al. 2020). Then the audio tower learns to say, from the sound, where
the table puts the clip, among the same neighbours.
"""

from __future__ import annotations

from pathlib import Path

import torch
from corpus import ATTRIBUTE_VALUES, Corpus, captions_fit_clips
from recipe import Recipe
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import nn
from torch.nn import functional as F
from training_loop import autocast, pick_device, train
from transformers import ClapConfig, ClapFeatureExtractor, ClapModel, ClapProcessor, PreTrainedTokenizerFast

MAX_TEXT_TOKENS = 48


def make_tokenizer(captions: list[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer in RoBERTa's format, trained on the captions in lower case."""
    backend = Tokenizer(models.BPE())
    backend.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    backend.decoder = decoders.ByteLevel()
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=specials, initial_alphabet=alphabet)
    backend.train_from_iterator(captions, trainer)
    backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=True)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        cls_token="<s>",
        pad_token="<pad>",
        eos_token="</s>",
        sep_token="</s>",
        unk_token="<unk>",
        mask_token="<mask>",
        model_max_length=MAX_TEXT_TOKENS,
    )


def make_feature_extractor(recipe: Recipe) -> ClapFeatureExtractor:
    """10 s windows at the corpus's own rate; `rand_trunc` never truncates, for windows are never longer."""
    return ClapFeatureExtractor(
        feature_size=64,
        sampling_rate=recipe.sampling_rate,
        hop_length=recipe.sampling_rate // 25,
        max_length_s=recipe.clip_length_in_s,
        fft_window_size=2048,
        frequency_min=50,
        frequency_max=12_000,
        truncation="rand_trunc",
    )


def make_clap(vocab_size: int) -> ClapModel:
    """About 1.5 M parameters. The spectrogram of 251 × 64 becomes a 128 × 128 image, 16 × 16 patches."""
    no_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    text = {
        "vocab_size": vocab_size,
        "hidden_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 512,
        "max_position_embeddings": MAX_TEXT_TOKENS + 2,
        "layer_norm_eps": 1e-5,
        **no_dropout,
    }
    audio = {
        "spec_size": 128,
        "num_mel_bins": 64,
        "patch_size": 8,
        "patch_stride": [8, 8],
        "depths": [2, 2],
        "num_attention_heads": [4, 8],
        "patch_embeds_hidden_size": 96,
        "hidden_size": 192,
        **no_dropout,
    }
    return ClapModel(ClapConfig(text_config=text, audio_config=audio, projection_dim=128))


def log_mels(waveforms: torch.Tensor, extractor: ClapFeatureExtractor) -> torch.Tensor:
    """Clips (clips, samples) → float32 (clips, 1, frames, 64): what the extractor computes, for many clips at once."""
    device, size = waveforms.device, extractor.fft_window_size
    window = torch.hann_window(size, device=device)
    bank = torch.tensor(extractor.mel_filters_slaney, dtype=torch.float32, device=device)
    parts = []
    for some in waveforms.split(50):
        power = torch.stft(some, size, extractor.hop_length, window=window, return_complex=True).abs().pow(2)
        parts.append(10 * torch.log10((power.transpose(1, 2) @ bank).clamp(min=1e-10)))
    _check_against_extractor(waveforms[0], parts[0][0], extractor)
    return torch.cat(parts)[:, None]


def corpus_mels(corpus: Corpus, extractor: ClapFeatureExtractor) -> torch.Tensor:
    """float16 (clips, 1, frames, 64) of a whole corpus."""
    parts = torch.arange(len(corpus)).split(200)
    return torch.cat([log_mels(corpus.waveforms(p.to(corpus.audio.device)), extractor).half() for p in parts])


def _check_against_extractor(waveform: torch.Tensor, ours: torch.Tensor, extractor: ClapFeatureExtractor) -> None:
    features = extractor(waveform.cpu().numpy(), sampling_rate=extractor.sampling_rate, return_tensors="pt")
    difference = (features["input_features"][0, 0] - ours.cpu()).abs().mean()
    if difference > 0.05:
        raise ValueError(f"log-mel frames differ from the feature extractor's by {difference:.2f} dB on average")


def encode_texts(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> dict[str, torch.Tensor]:
    options = {"padding": True, "truncation": True, "max_length": MAX_TEXT_TOKENS, "return_tensors": "pt"}
    encoded = tokenizer(texts, **options)
    return {"input_ids": encoded["input_ids"], "attention_mask": encoded["attention_mask"]}


def said_attributes() -> list[str]:
    """What captions speak of: every attribute but the key, in the order of `ATTRIBUTE_VALUES`."""
    return [name for name in ATTRIBUTE_VALUES if name != "key"]


class AttributeTable(nn.Module):
    """A vector for each value of each attribute; a clip is at the sum of its own, brought to length 1."""

    def __init__(self, dim: int):
        super().__init__()
        self.vectors = nn.ParameterDict(
            {name: nn.Parameter(torch.randn(len(ATTRIBUTE_VALUES[name]), dim)) for name in said_attributes()}
        )

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """int64 (clips, attributes of `ATTRIBUTE_VALUES`) → (clips, dim)."""
        names = list(ATTRIBUTE_VALUES)
        total = sum(self.vectors[name][values[:, names.index(name)]] for name in said_attributes())
        return F.normalize(total, dim=-1)


def load_attribute_table(models: Path) -> AttributeTable:
    """The table that `train_clap` saved beside the CLAP."""
    vectors = load_file(models / "clap" / "attribute_table.safetensors")
    table = AttributeTable(next(iter(vectors.values())).shape[1])
    table.load_state_dict(vectors)
    return table.requires_grad_(False)


def change_one_attribute(values: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """int64 (clips, attributes) → the same with one attribute that captions speak of changed in each row."""
    names = list(ATTRIBUTE_VALUES)
    said = torch.tensor([names.index(name) for name in said_attributes()])
    sizes = torch.tensor([len(options) for options in ATTRIBUTE_VALUES.values()])
    which = said[torch.randint(len(said), (len(values),), generator=generator)].to(values.device)
    step = (1 + torch.rand(len(values), generator=generator) * (sizes[which.cpu()] - 1)).long().to(values.device)
    changed = values.clone()
    rows = torch.arange(len(values), device=values.device)
    changed[rows, which] = (values[rows, which] + step) % sizes.to(values.device)[which]
    return changed


def soft_cross_entropy(logits: torch.Tensor, positives: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of rows to the uniform distribution over what is positive in them; rows without any are left out."""
    counts = positives.sum(dim=1)
    logs = torch.where(positives, logits.log_softmax(dim=1), 0.0).sum(dim=1)
    return -(logs / counts.clamp(min=1))[counts > 0].mean()


def train_text_tower(clap, table, tokens, masks, values, recipe: Recipe, work: Path) -> None:
    device = values.device
    both = nn.ModuleDict({"text": clap.text_model, "projection": clap.text_projection, "table": table})

    def compute_loss(step: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        size = recipe.clap_text.batch_size
        chosen = torch.randint(len(masks), (size,), generator=generator)
        clips = values[chosen.to(device) * len(values) // len(masks)]
        clips = torch.cat([clips, *[change_one_attribute(clips, generator) for _ in range(2)]])
        longest = int(tokens["attention_mask"][chosen.to(device)].sum(dim=1).max())
        some = {key: value[chosen.to(device), :longest] for key, value in tokens.items()}
        with autocast(device):
            text = clap.get_text_features(**some).pooler_output
        text, points = F.normalize(text.float(), dim=-1), table(clips)
        fits = captions_fit_clips(masks[chosen.to(device)], 1 << clips)
        logits = 20 * text @ points.T
        return {"loss": soft_cross_entropy(logits, fits) + 0.5 * soft_cross_entropy(logits.T, fits.T)}

    train(
        "clap, texts",
        both,
        compute_loss,
        last_step=recipe.clap_text.num_steps,
        num_schedule_steps=recipe.clap_text.num_steps,
        learning_rate=recipe.clap_text.learning_rate,
        checkpoint_path=work / "clap-text.pt",
        seed=recipe.seed + 1,
    )


def train_audio_tower(clap, table, mels, values, recipe: Recipe, work: Path) -> None:
    device = values.device
    tower = nn.ModuleDict({"audio": clap.audio_model, "projection": clap.audio_projection})
    # The batch norm before the patches keeps the corpus's own statistics: it must not take a clip's level away.
    batch_norm = clap.audio_model.audio_encoder.batch_norm
    batch_norm.running_mean.copy_(mels.float().mean(dim=(0, 1, 2)))
    batch_norm.running_var.copy_(mels.float().var(dim=(0, 1, 2)))

    def compute_loss(step: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        batch_norm.eval()
        chosen = torch.randperm(len(mels), generator=generator)[: recipe.clap.batch_size].to(device)
        roll = int(torch.randint(mels.shape[2], (), generator=generator))
        with autocast(device):
            audio = clap.get_audio_features(mels[chosen].float().roll(roll, dims=2), is_longer=None).pooler_output
        audio, clips = F.normalize(audio.float(), dim=-1), values[chosen]
        others = torch.cat([clips, *[change_one_attribute(clips, generator) for _ in range(8)]])
        points = table(others).detach()
        same = (clips[:, None] == others[None])[..., [n != "key" for n in ATTRIBUTE_VALUES]].all(dim=-1)
        own = points[: len(clips)]
        distance = 1 - (audio * own).sum(dim=-1).mean()
        return {"loss": soft_cross_entropy(20 * audio @ points.T, same) + 2 * distance, "distance": distance}

    train(
        "clap, sounds",
        tower,
        compute_loss,
        last_step=recipe.clap.num_steps,
        num_schedule_steps=recipe.clap.num_steps,
        learning_rate=recipe.clap.learning_rate,
        checkpoint_path=work / "clap-audio.pt",
        seed=recipe.seed + 2,
    )


def train_clap(corpus_folder: Path, work: Path, output: Path, recipe: Recipe) -> None:
    device = pick_device()
    corpus = Corpus(corpus_folder, "train", device)
    texts, masks = corpus.captions()
    tokenizer = make_tokenizer([text for row in texts for text in row], recipe.vocab_size)
    extractor = make_feature_extractor(recipe)
    tokens = encode_texts(tokenizer, [text for row in texts for text in row])
    tokens = {key: value.to(device) for key, value in tokens.items()}
    masks, values = masks.flatten(0, 1).to(device), corpus.attribute_values().to(device)
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        clap = make_clap(len(tokenizer)).to(device)
        table = AttributeTable(clap.config.projection_dim).to(device)
    train_text_tower(clap, table, tokens, masks, values, recipe, work)
    train_audio_tower(clap, table.eval(), corpus_mels(corpus, extractor), values, recipe, work)
    clap.eval().save_pretrained(output)
    ClapProcessor(extractor, tokenizer).save_pretrained(output)
    save_file(table.cpu().state_dict(), output / "attribute_table.safetensors")
    report_clap(clap, tokenizer, extractor, Corpus(corpus_folder, "heldout", device))


#: pairs of texts that differ in one word, and the attribute it names
ONE_WORD_PAIRS = {
    "loudness": ("a quiet piano melody", "a loud piano melody"),
    "register": ("a low piano melody", "a high piano melody"),
    "mode": ("a piano melody in a major key", "a piano melody in a minor key"),
    "tempo": ("a slow piano melody", "a fast piano melody"),
    "drums": ("a piano melody without drums", "a piano melody with drums"),
    "instrument": ("a piano melody", "a flute melody"),
}


@torch.no_grad()
def report_clap(clap, tokenizer, extractor, corpus: Corpus) -> None:
    """Print for each attribute, on held-out clips, how well a text that names a value alone tells who has it (the area
    under the ROC curve, mean over values), and the cosine of texts that differ in one word."""
    audio = F.normalize(
        clap.get_audio_features(corpus_mels(corpus, extractor).float(), is_longer=None).pooler_output, dim=-1
    )

    def embed(texts: list[str]) -> torch.Tensor:
        tokens = {key: value.to(clap.device) for key, value in encode_texts(tokenizer, texts).items()}
        return F.normalize(clap.get_text_features(**tokens).pooler_output, dim=-1)

    texts, masks = corpus.captions()
    bits = corpus.attribute_bits()
    names = list(ATTRIBUTE_VALUES)
    flat, flat_masks = [text for row in texts for text in row], masks.flatten(0, 1)
    scores = (embed(flat) @ audio.T).cpu()
    for name in said_attributes():
        i, areas = names.index(name), []
        others = [j for j in range(len(names)) if j != i]
        fits_others = captions_fit_clips(flat_masks[:, others], bits[:, others])
        says = flat_masks[:, i] != (1 << len(ATTRIBUTE_VALUES[name])) - 1
        fits = (flat_masks[:, None, i] & bits[None, :, i]) != 0
        for row in torch.nonzero(says)[:, 0]:  # among clips that fit in everything else
            yes, no = scores[row][fits[row] & fits_others[row]], scores[row][~fits[row] & fits_others[row]]
            if len(yes) and len(no):
                areas.append((yes[:, None] > no[None]).float().mean().item())
        line = f"clap, {name}: area under the curve {sum(areas) / len(areas):.3f}"
        if name in ONE_WORD_PAIRS:
            one, other = embed(list(ONE_WORD_PAIRS[name]))
            line += f", cosine of texts that differ in it {one @ other:.2f}"
        print(line)
    print(f"clap: a clip's own caption fits better than the mean of others in {own_wins(scores, len(corpus)):.0%}")


def own_wins(scores: torch.Tensor, num_clips: int) -> float:
    """(captions, clips), the captions of a clip side by side: how often a clip's own are above the mean of all."""
    own = scores.view(num_clips, -1, num_clips).mean(dim=1).diagonal()
    return float((own > scores.mean(dim=0)).float().mean())

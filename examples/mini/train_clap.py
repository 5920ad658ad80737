"""Train a small CLAP: a byte-level BPE tokenizer, a two-layer text tower, a small HTSAT, a contrastive loss.

Which captions fit which clips of a batch is known from the symbolic truth, so every fitting pair counts as a positive
(supervised contrastive learning, Khosla et al. 2020), not only a clip and its own caption.
"""

from __future__ import annotations

from pathlib import Path

import torch
from corpus import Corpus, captions_fit_clips
from recipe import Recipe
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch.nn import functional as F
from training_loop import pick_device, train
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
    """About 1.8 M parameters. The spectrogram of 251 × 64 becomes a 128 × 128 image, 32 × 32 patches."""
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
        "depths": [2, 2, 2],
        "num_attention_heads": [3, 6, 12],
        "patch_embeds_hidden_size": 48,
        "hidden_size": 192,
        **no_dropout,
    }
    return ClapModel(ClapConfig(text_config=text, audio_config=audio, projection_dim=128))


def log_mels(corpus: Corpus, extractor: ClapFeatureExtractor) -> torch.Tensor:
    """float32 (clips, 1, frames, 64) on the corpus's device: what the extractor computes, for many clips at once."""
    device, size = corpus.audio.device, extractor.fft_window_size
    window = torch.hann_window(size, device=device)
    bank = torch.tensor(extractor.mel_filters_slaney, dtype=torch.float32, device=device)
    parts = []
    for clips in torch.arange(len(corpus)).split(100):
        waveforms = corpus.waveforms(clips.to(device))
        power = torch.stft(waveforms, size, extractor.hop_length, window=window, return_complex=True).abs().pow(2)
        parts.append(10 * torch.log10((power.transpose(1, 2) @ bank).clamp(min=1e-10)))
    _check_against_extractor(corpus.waveforms(slice(0, 1))[0], parts[0][0], extractor)
    return torch.cat(parts)[:, None]


def _check_against_extractor(waveform: torch.Tensor, ours: torch.Tensor, extractor: ClapFeatureExtractor) -> None:
    features = extractor(waveform.cpu().numpy(), sampling_rate=extractor.sampling_rate, return_tensors="pt")
    difference = (features["input_features"][0, 0] - ours.cpu()).abs().mean()
    if difference > 0.05:
        raise ValueError(f"log-mel frames differ from the feature extractor's by {difference:.2f} dB on average")


def encode_texts(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> dict[str, torch.Tensor]:
    options = {"padding": True, "truncation": True, "max_length": MAX_TEXT_TOKENS, "return_tensors": "pt"}
    encoded = tokenizer(texts, **options)
    return {"input_ids": encoded["input_ids"], "attention_mask": encoded["attention_mask"]}


def contrastive_loss(texts: torch.Tensor, audios: torch.Tensor, fits: torch.Tensor, scale: torch.Tensor):
    """Mean over both directions of the cross-entropy to the uniform distribution over what fits.

    `texts` and `audios` are (batch, dim), normalised; `fits` is bool (batch, batch), texts in rows.
    """
    logits = scale * texts @ audios.T
    loss = logits.new_zeros(())
    for scores, positives in ((logits, fits), (logits.T, fits.T)):
        targets = positives.float() / positives.sum(dim=1, keepdim=True)
        loss = loss - 0.5 * (targets * scores.log_softmax(dim=1)).sum(dim=1).mean()
    return loss


def train_clap(corpus_folder: Path, work: Path, output: Path, recipe: Recipe) -> None:
    device = pick_device()
    corpus = Corpus(corpus_folder, "train", device)
    texts, masks = corpus.captions()
    tokenizer = make_tokenizer([text for row in texts for text in row], recipe.vocab_size)
    extractor = make_feature_extractor(recipe)
    mels = log_mels(corpus, extractor)
    num_captions = len(texts[0])
    tokens = encode_texts(tokenizer, [text for row in texts for text in row])
    tokens = {key: value.to(device) for key, value in tokens.items()}
    masks, bits = masks.flatten(0, 1).to(device), corpus.attribute_bits().to(device)
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        clap = make_clap(len(tokenizer)).to(device)
    # The batch norm before the patches starts at the corpus's own statistics, which a short training would not reach.
    batch_norm = clap.audio_model.audio_encoder.batch_norm
    batch_norm.running_mean.copy_(mels.mean(dim=(0, 1, 2)))
    batch_norm.running_var.copy_(mels.var(dim=(0, 1, 2)))

    def compute_loss(step: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        batch_norm.eval()
        clips = torch.randperm(len(corpus), generator=generator)[: recipe.clap.batch_size]
        chosen = clips * num_captions + torch.randint(num_captions, clips.shape, generator=generator)
        roll = int(torch.randint(mels.shape[2], (), generator=generator))
        clips, chosen = clips.to(device), chosen.to(device)
        audio = clap.get_audio_features(mels[clips].roll(roll, dims=2), is_longer=None).pooler_output
        text = clap.get_text_features(**{key: value[chosen] for key, value in tokens.items()}).pooler_output
        fits = captions_fit_clips(masks[chosen], bits[clips])
        scale = clap.logit_scale_t.exp().clamp(max=30)
        return {"loss": contrastive_loss(text, audio, fits, scale), "scale": scale.detach()}

    train(
        "clap",
        clap,
        compute_loss,
        last_step=recipe.clap.num_steps,
        num_schedule_steps=recipe.clap.num_steps,
        learning_rate=recipe.clap.learning_rate,
        checkpoint_path=work / "clap.pt",
        seed=recipe.seed + 1,
    )
    report_retrieval(clap.eval(), tokenizer, extractor, Corpus(corpus_folder, "heldout", device))
    clap.save_pretrained(output)
    ClapProcessor(extractor, tokenizer).save_pretrained(output)


@torch.no_grad()
def report_retrieval(clap, tokenizer, extractor, corpus: Corpus) -> None:
    """Print, over held-out clips and wordings, how much better fitting pairs score than others."""
    texts, masks = corpus.captions()
    audio = clap.get_audio_features(log_mels(corpus, extractor), is_longer=None).pooler_output
    tokens = {key: value.to(clap.device) for key, value in encode_texts(tokenizer, [row[0] for row in texts]).items()}
    text = clap.get_text_features(**tokens).pooler_output
    scores = (F.normalize(text, dim=-1) @ F.normalize(audio, dim=-1).T).cpu()
    fits = captions_fit_clips(masks[:, 0], corpus.attribute_bits())
    best = fits.gather(1, scores.argmax(dim=1, keepdim=True)).float().mean()
    own_beats_others = (scores.diagonal() > scores.mean(dim=0)).float().mean()
    print(
        f"clap, {len(corpus)} held-out clips: best match fits {best:.0%} of captions (chance {fits.float().mean():.0%}); "
        f"a clip is nearer to its own caption than to the mean of all in {own_beats_others:.0%}; "
        f"cosine {scores[fits].mean():.2f} fitting, {scores[~fits].mean():.2f} not"
    )

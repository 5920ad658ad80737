"""A RoBERTa tokenizer small enough to make on the spot: bytes, no merges."""

from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import RobertaTokenizer


def write_roberta_tokenizer(folder: Path) -> Path:
    """Writes a tokenizer whose vocabulary is RoBERTa's special tokens and the bytes; returns its folder."""
    symbols = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    vocabulary = {symbol: index for index, symbol in enumerate(symbols)}
    backend = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    RobertaTokenizer(tokenizer_object=backend).save_pretrained(folder)
    return folder

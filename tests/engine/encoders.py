"""Tiny encoders with tokenizers of their kinds, for tests."""

import json
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForMaskedLM

SENTENCE = "the sea has many waves and each of them goes to a shore where it ends"
SEA = SENTENCE.split()
POSITIONS = 64


def texts(count: int) -> list[dict[str, str]]:
    """Of 5 to 4 * 11 words."""
    return [
        {"text": " ".join(SEA[(n * 3 + at * at) % len(SEA)] for at in range(5 + 13 * (n % 4)))}
        for n in range(count)
    ]


def encoder(folder: Path, family: str) -> Path:
    """A folder with a random model of two layers."""
    folder.mkdir()
    tokenizer = bert_tokenizer() if family == "bert" else roberta_tokenizer()
    cls, sep, pad, unk, mask = SPECIAL[family]
    tokenizer.save(str(folder / "tokenizer.json"))
    named = {"cls_token": cls, "sep_token": sep, "pad_token": pad, "unk_token": unk}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **named, "mask_token": mask}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "vocab_size": tokenizer.get_vocab_size(),
        "pad_token_id": tokenizer.token_to_id(pad),
        # RoBERTa's positions begin behind its padding's.
        "max_position_embeddings": POSITIONS + (2 if family == "roberta" else 0),
    }
    torch.manual_seed(4)
    model = AutoModelForMaskedLM.from_config(AutoConfig.for_model(family, **sizes))
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder)
    return folder


SPECIAL = {
    "bert": ("[CLS]", "[SEP]", "[PAD]", "[UNK]", "[MASK]"),
    "roberta": ("<s>", "</s>", "<pad>", "<unk>", "<mask>"),
}


def bert_tokenizer() -> Tokenizer:
    cls, sep, pad, unk, mask = SPECIAL["bert"]
    words = [pad, unk, cls, sep, mask, *dict.fromkeys(SEA), "##s", *"abcdefghijklmnop"]
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=unk))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens([AddedToken(word) for word in words[:5]])
    tokenizer.post_processor = processors.BertProcessing(
        (sep, vocabulary[sep]), (cls, vocabulary[cls])
    )
    return tokenizer


def roberta_tokenizer() -> Tokenizer:
    cls, sep, pad, unk, mask = SPECIAL["roberta"]
    tokenizer = Tokenizer(models.BPE(unk_token=unk))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=[cls, pad, sep, unk, mask],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([SENTENCE], trainer)
    vocabulary = tokenizer.get_vocab()
    tokenizer.post_processor = processors.RobertaProcessing(
        (sep, vocabulary[sep]), (cls, vocabulary[cls])
    )
    return tokenizer

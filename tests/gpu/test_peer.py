"""What the benchmark's rows say of the attention of the trainers that it measures beside ours."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.gpu.peer import attention_of


@pytest.mark.parametrize(("name", "said"), [("sdpa", True), ("flash_attention_2", False)])
def test_a_row_says_that_trl_computes_whole_packs_without_flash_attention(
    name: str, *, said: bool
) -> None:
    words = attention_of(SimpleNamespace(_attn_implementation=name))
    assert name in words
    assert ("not like for like without flash_attn" in words) is said


@pytest.mark.long
def test_the_documents_of_trls_packs_are_apart_in_sdpa() -> None:
    """Else the rows say too little."""
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    torch.manual_seed(1)
    sizes: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 24, "vocab_size": 32}
    config = LlamaConfig(**sizes, num_attention_heads=2, num_hidden_layers=1)
    config._attn_implementation = "sdpa"
    model = LlamaForCausalLM(config).eval()
    collator = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True)

    def logits(first: int) -> torch.Tensor:
        pack = {"input_ids": [first] * 4 + [5, 6, 7], "seq_lengths": [4, 3]}
        given = collator([pack | {"labels": pack["input_ids"]}])
        with torch.no_grad():
            out: torch.Tensor = model(**given, use_cache=False).logits[0]
        return out

    one, other = logits(2), logits(3)
    assert not torch.equal(one[:4], other[:4])
    assert torch.equal(one[4:], other[4:])

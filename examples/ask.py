"""Asks a base model and its tuned self the same questions, with plain transformers and PEFT.

    python examples/ask.py BASE_FOLDER ADAPTER_FOLDER QUESTION...

Prints one JSON object a question. Decoding is greedy; the base has the precision that it had in
training.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

MOST_TOKENS = 60


def main(base_folder: Path, adapter_folder: Path, questions: list[str]) -> None:
    cuda = torch.cuda.is_available()
    dtype = torch.bfloat16 if cuda else torch.float32
    plan = json.loads((adapter_folder / "manifest.json").read_text())["plan"]
    nf4 = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    tokenizer = AutoTokenizer.from_pretrained(base_folder)
    base = AutoModelForCausalLM.from_pretrained(
        base_folder,
        dtype=dtype,
        device_map="cuda" if cuda else "cpu",
        quantization_config=nf4 if plan["quantization"] == "nf4" else None,
    )
    model = PeftModel.from_pretrained(base, adapter_folder).eval()
    for question in questions:
        prompt: Any = tokenizer.apply_chat_template(
            [{"role": "user", "content": question}],
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=True,
        )
        tuned = answer(model, tokenizer, prompt)
        with model.disable_adapter():
            plain = answer(model, tokenizer, prompt)
        print(json.dumps({"question": question, "base": plain, "tuned": tuned}))


@torch.inference_mode()
def answer(model: PeftModel, tokenizer: Any, prompt: Any) -> str:  # noqa: ANN401
    said = model.generate(**prompt.to(model.device), max_new_tokens=MOST_TOKENS, do_sample=False)
    new = said[0, prompt["input_ids"].shape[1] :]
    return str(tokenizer.decode(new, skip_special_tokens=True)).strip()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])

"""A plain reference that shares no code with the service: losses and one greedy answer.

    python plain_loss.py BASE ADAPTER VALIDATION_FILE

transformers + PEFT on the NF4 base; the loss is the summed NLL of each answer's tokens and its end
token, over their number.
"""

import json
import sys
import warnings

import torch
from bitsandbytes.nn.modules import Linear4bit
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

warnings.simplefilter("ignore")


def main() -> None:
    base_folder, adapter, validation = sys.argv[1:]
    tokenizer = AutoTokenizer.from_pretrained(base_folder)
    quantized = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )
    base = AutoModelForCausalLM.from_pretrained(
        base_folder, quantization_config=quantized, dtype=torch.float32, device_map="cpu"
    )
    for module in base.modules():
        # On some CPUs bitsandbytes would turn the weights to bf16 for inference.
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False
    model = PeftModel.from_pretrained(base, adapter).eval()
    rows = [json.loads(line)["messages"] for line in open(validation, encoding="utf-8")]  # noqa: PTH123, SIM115
    with torch.inference_mode():
        tuned, answer = loss(model, tokenizer, rows), say(model, tokenizer, rows[0])
        with model.disable_adapter():
            plain, base_answer = loss(model, tokenizer, rows), say(model, tokenizer, rows[0])
    print(  # noqa: T201
        json.dumps({"base": plain, "tuned": tuned, "answer": answer, "base_answer": base_answer})
    )


def loss(model, tokenizer, rows) -> float:  # type: ignore[no-untyped-def]  # noqa: ANN001
    nll = count = 0.0
    for question, answer in rows:
        prompt = tokenizer.apply_chat_template(
            [question], tokenize=False, add_generation_prompt=True
        )
        start = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        end = tokenizer(answer["content"] + "<|im_end|>", add_special_tokens=False)["input_ids"]
        ids = torch.tensor([start + end])
        logits = model(ids).logits[0, len(start) - 1 : -1].float()
        nll += torch.nn.functional.cross_entropy(
            logits, ids[0, len(start) :], reduction="sum"
        ).item()
        count += len(end)
    return nll / count


def say(model, tokenizer, row) -> str:  # type: ignore[no-untyped-def]  # noqa: ANN001
    prompt = tokenizer.apply_chat_template(
        row[:1], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    said = model.generate(**prompt, max_new_tokens=40, do_sample=False)[0]
    return str(tokenizer.decode(said[prompt["input_ids"].shape[1] :], skip_special_tokens=True))


if __name__ == "__main__":
    main()

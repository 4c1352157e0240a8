"""PEFT's methods over bitsandbytes' quantised base, for tests: logits, losses, gradients and short trajectories in f32.

Usage, from the repository's root, with torch 2.12.1, transformers 5.23, peft 0.21.2, bitsandbytes 0.50.2:
    python tests/python/quantised_base.py          writes tests/fixtures/quantised/
"""
import json
import shutil
from pathlib import Path

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

GOLDENS = Path("tests/fixtures/goldens")
OUT = Path("tests/fixtures/quantised")
METHODS = ["lora", "dora", "vera", "adalora", "ia3"]  # PEFT has no LoHa on a quantised base
STEPS = 12
shutil.rmtree(OUT, ignore_errors=True)
OUT.mkdir(parents=True)
inputs = load_file(GOLDENS / "inputs.safetensors")
ids, labels = inputs["input_ids"], inputs["labels"]


def config(kind, double):
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type=kind, bnb_4bit_use_double_quant=double,
                              bnb_4bit_compute_dtype=torch.float32)


def base(kind, double):
    return AutoModelForCausalLM.from_pretrained(GOLDENS / "base", quantization_config=config(kind, double),
                                                dtype=torch.float32, device_map="cpu")


def saved(name):
    """The name of a parameter in PEFT's files."""
    return name.replace(".default", "").replace("lora_magnitude_vector.weight", "lora_magnitude_vector")


record = {"steps": STEPS, "learning_rate": 1e-2, "losses": {}}
for kind, double in [("nf4", True), ("nf4", False), ("fp4", False)]:
    key = kind + ("_double" if double else "")
    # In evaluation bitsandbytes packs weights for a kernel that multiplies bf16, whatever the compute dtype is.
    model = base(kind, double).train()
    with torch.no_grad():
        tensors = {"logits": model(input_ids=ids).logits}
    if key != "nf4":
        model.save_pretrained(OUT / key)
    for method in METHODS if double else ["lora"]:
        peft = PeftModel.from_pretrained(base(kind, double), GOLDENS / method / "adapter", is_trainable=True).train()
        out = peft(input_ids=ids, labels=labels)
        out.loss.backward()
        tensors[f"{method}.logits"], tensors[f"{method}.loss"] = out.logits.detach(), out.loss.detach()
        for name, param in peft.named_parameters():
            if param.requires_grad:
                tensors[f"{method}.grad.{saved(name)}"] = param.grad
        if key == "nf4_double" and method != "adalora":
            peft = PeftModel.from_pretrained(base(kind, double), GOLDENS / method / "adapter", is_trainable=True).train()
            params = [p for p in peft.parameters() if p.requires_grad]
            optimizer = torch.optim.AdamW(params, lr=record["learning_rate"], weight_decay=0.0)
            losses = []
            for _ in range(STEPS):
                optimizer.zero_grad()
                loss = peft(input_ids=ids, labels=labels).loss
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
            record["losses"][method] = losses
    save_file({name: t.contiguous() for name, t in tensors.items()}, OUT / f"{key}.safetensors")

int8 = AutoModelForCausalLM.from_pretrained(GOLDENS / "base", quantization_config=BitsAndBytesConfig(load_in_8bit=True),
                                            dtype=torch.float16, device_map="cpu")
int8.save_pretrained(OUT / "int8")
(OUT / "record.json").write_text(json.dumps(record, indent=1) + "\n")

"""Writes tests/fixtures/loraplus.json: the group that PEFT's create_loraplus_optimizer puts each parameter into.

    python tests/python/loraplus_groups.py > tests/fixtures/loraplus.json

By method: its configuration as in adapter_config.json, and by parameter (as in adapter_model.safetensors) `A`, `B` or
`embedding`.
"""

import json
import sys
from pathlib import Path

import torch
import peft
from peft.optimizers import create_loraplus_optimizer
from transformers import AutoModelForCausalLM

BASE = Path(__file__).parent.parent / "fixtures/goldens/base"
LR, RATIO, EMBEDDING = 1e-3, 16.0, 1e-4
ALL = ["q_proj", "v_proj", "down_proj"]
METHODS = {
    "lora": {"peft_type": "LORA", "r": 4, "target_modules": ALL + ["embed_tokens"], "lora_bias": False},
    "lora_bias": {"peft_type": "LORA", "r": 4, "target_modules": ["q_proj"], "lora_bias": True},
    "lora_saved": {"peft_type": "LORA", "r": 4, "target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    "lora_tokens": {"peft_type": "LORA", "r": 4, "target_modules": ["q_proj"], "trainable_token_indices": [3, 5]},
    "dora": {"peft_type": "LORA", "r": 4, "use_dora": True, "target_modules": ALL + ["embed_tokens"]},
    "adalora": {"peft_type": "ADALORA", "init_r": 4, "target_r": 2, "total_step": 100, "target_modules": ALL},
    "vera": {"peft_type": "VERA", "r": 8, "target_modules": ["q_proj", "o_proj"]},
    "loha": {"peft_type": "LOHA", "r": 4, "target_modules": ALL},
    "ia3": {"peft_type": "IA3", "target_modules": ["k_proj", "down_proj"], "feedforward_modules": ["down_proj"]},
}


def groups(config):
    model = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(BASE), peft.get_peft_config(dict(config)))
    optimizer = create_loraplus_optimizer(
        model, torch.optim.AdamW, lr=LR, loraplus_lr_ratio=RATIO, loraplus_lr_embedding=EMBEDDING
    )
    by_rate = {LR: "A", LR * RATIO: "B", EMBEDDING: "embedding"}
    rate = {id(param): group["lr"] for group in optimizer.param_groups for param in group["params"]}
    names = {}
    for name, param in model.named_parameters():
        if param.requires_grad:
            key = name.replace(".default", "").replace(".modules_to_save", "")
            # DoRA's magnitude is a module in PEFT, and a tensor in its file.
            key = key.removesuffix(".weight") if "magnitude" in key else key
            names[key] = by_rate[rate[id(param)]]
    return names


table = {name: {"config": config, "groups": groups(config)} for name, config in METHODS.items()}
json.dump(table, sys.stdout, indent=1, sort_keys=True)
print()

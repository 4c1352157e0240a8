"""A LoRA of rank 16 on q, k, v and o with random weights, for measurements of serving."""
import json, os

import numpy as np
from safetensors.numpy import save_file


def make_adapter(model, folder, seed):
    """Writes PEFT's files for the Hugging Face folder `model` into `folder`."""
    config = json.load(open(f"{model}/config.json"))
    heads = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    sizes = {"q_proj": config["num_attention_heads"] * heads, "k_proj": config["num_key_value_heads"] * heads}
    sizes |= {"v_proj": sizes["k_proj"], "o_proj": config["hidden_size"]}
    random, tensors = np.random.default_rng(seed), {}
    for layer in range(config["num_hidden_layers"]):
        for name, rows in sizes.items():
            columns = sizes["q_proj"] if name == "o_proj" else config["hidden_size"]
            for part, shape in (("lora_A", (16, columns)), ("lora_B", (rows, 16))):
                key = f"base_model.model.model.layers.{layer}.self_attn.{name}.{part}.weight"
                tensors[key] = (0.02 * random.standard_normal(shape)).astype(np.float32)
    os.makedirs(folder, exist_ok=True)
    save_file(tensors, f"{folder}/adapter_model.safetensors", metadata={"format": "pt"})
    settings = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 16, "lora_alpha": 32, "target_modules": list(sizes),
                "base_model_name_or_path": model, "bias": "none", "lora_dropout": 0.0}
    json.dump(settings, open(f"{folder}/adapter_config.json", "w"))

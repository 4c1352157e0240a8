"""Makes tests/fixtures/combined_dora.safetensors: what PEFT's add_weighted_adapter makes of DoRA adapters.

usage: combined_dora.py OUTPUT, a file. Made with torch 2.12.1, transformers 5.23.0, peft 0.21.2.

`NAME_KIND` are the logits of tests/fixtures/goldens' inputs with the combination of two adapters at 0.7 and 0.4; `m_NAME_KIND` is the new
adapter's lora_magnitude_vector of one layer, and `m_base` the norms of the base's rows there.
"""
import os, sys
os.environ["HF_HUB_OFFLINE"] = "1"
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

torch.set_num_threads(1)
goldens = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "fixtures", "goldens")
ids = load_file(os.path.join(goldens, "inputs.safetensors"))["input_ids"].long()
LAYER = "base_model.model.model.layers.0.self_attn.q_proj"
found = {}
for name, pair in {"dora": ("dora/adapter", "dora/adapter_final"), "embedding": ("x_dora_emb/adapter", "x_dora_emb/adapter")}.items():
    for kind, more in {"linear": {}, "cat": {}, "svd": {"svd_rank": 4}, "ties": {"density": 0.5}}.items():
        model = AutoModelForCausalLM.from_pretrained(os.path.join(goldens, "base"), attn_implementation="eager", dtype=torch.float32)
        if name == "dora":
            found["m_base"] = model.model.layers[0].self_attn.q_proj.weight.detach().norm(dim=1).contiguous()
        model = PeftModel.from_pretrained(model, os.path.join(goldens, pair[0]), adapter_name="a")
        model.load_adapter(os.path.join(goldens, pair[1]), adapter_name="b")
        model.add_weighted_adapter(["a", "b"], [0.7, 0.4], "new", combination_type=kind, **more)
        model.set_adapter("new")
        model.eval()
        with torch.no_grad():
            found[f"{name}_{kind}"] = model(input_ids=ids).logits.contiguous()
        modules = dict(model.named_modules())
        if name == "dora":
            found[f"m_{name}_{kind}"] = modules[LAYER].lora_magnitude_vector["new"].weight.detach().contiguous()
            assert torch.allclose(found[f"m_{name}_{kind}"], found["m_base"], atol=1e-6), kind
save_file(found, sys.argv[1])
print({key: list(value.shape) for key, value in found.items()})

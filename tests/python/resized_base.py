"""The base of an adapter whose vocabulary was resized, as PEFT gives it back, and the loss with the adapter on it.

usage: resized_base.py JOB.json, {"base", "adapter", "rows"}; `resized` and `loss.json` are written beside it.
"""
import json, os, sys
os.environ["HF_HUB_OFFLINE"] = "1"
from peft import PeftModel
from safetensors import safe_open
from transformers import AutoModelForCausalLM
from small_llama import mean_loss

job, out = json.load(open(sys.argv[1])), os.path.dirname(sys.argv[1])
with safe_open(os.path.join(job["adapter"], "adapter_model.safetensors"), "pt") as file:
    rows = next(file.get_slice(name).get_shape()[0] for name in file.keys() if name.endswith("embed_tokens.base_layer.weight"))
model = AutoModelForCausalLM.from_pretrained(job["base"], attn_implementation="eager")
model.resize_token_embeddings(rows, mean_resizing=False)
model = PeftModel.from_pretrained(model, job["adapter"])
json.dump(mean_loss(model, job["rows"]), open(os.path.join(out, "loss.json"), "w"))
model.unload().save_pretrained(os.path.join(out, "resized"))

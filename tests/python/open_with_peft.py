"""Opens adapters and merged models with Hugging Face's own libraries and writes down their logits.

usage: open_with_peft.py JOBS.json, a list of {"base", "adapter" or null, "out", "dtype" if not float32}; ids are in inputs.safetensors beside it.
"""
import json, os, sys
os.environ["HF_HUB_OFFLINE"] = "1"
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

torch.set_num_threads(1)
jobs = json.load(open(sys.argv[1]))
ids = load_file(os.path.join(os.path.dirname(sys.argv[1]), "inputs.safetensors"))["input_ids"].long()
for job in jobs:
    dtype = getattr(torch, job.get("dtype", "float32"))
    model = AutoModelForCausalLM.from_pretrained(job["base"], attn_implementation="eager", dtype=dtype)
    if job["adapter"]:
        model = PeftModel.from_pretrained(model, job["adapter"])
    with torch.no_grad():
        save_file({"logits": model.eval()(input_ids=ids).logits.contiguous()}, job["out"])

"""Opens adapters and merged models with Hugging Face's own libraries and writes down their logits.

usage: open_with_peft.py JOBS.json, a list of {"base", "adapter" or null, "out", "dtype" if not float32, "labels" for a
sequence classifier}; ids are in inputs.safetensors beside it.
"""
import json, os, sys
os.environ["HF_HUB_OFFLINE"] = "1"
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

torch.set_num_threads(1)
jobs = json.load(open(sys.argv[1]))
ids = load_file(os.path.join(os.path.dirname(sys.argv[1]), "inputs.safetensors"))["input_ids"].long()
for job in jobs:
    dtype = getattr(torch, job.get("dtype", "float32"))
    settings = {"attn_implementation": "eager", "dtype": dtype}
    if "labels" in job:
        settings["num_labels"] = job["labels"]
        model = AutoModelForSequenceClassification.from_pretrained(job["base"], **settings)
        # The rows of the batch are as long as each other: the last token of each is the one that is scored.
        model.config.pad_token_id = model.config.vocab_size
    else:
        model = AutoModelForCausalLM.from_pretrained(job["base"], **settings)
    if job["adapter"]:
        model = PeftModel.from_pretrained(model, job["adapter"])
    # In evaluation bitsandbytes multiplies in bf16, whatever the compute dtype is.
    model.train(getattr(model, "is_quantized", False) or hasattr(model.config, "quantization_config"))
    with torch.no_grad():
        save_file({"logits": model(input_ids=ids).logits.contiguous()}, job["out"])

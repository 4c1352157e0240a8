"""Mean losses that Transformers and PEFT compute.

usage: losses.py JOBS.json, a list of {"model", "adapter" or null, "rows"}; the losses are written to losses.json beside it.
With "steps" and "lr" the adapter is first trained on the rows.
"""
import json, os, sys
os.environ["HF_HUB_OFFLINE"] = "1"
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
from small_llama import mean_loss, train

torch.set_num_threads(1)
losses = []
for job in json.load(open(sys.argv[1])):
    model = AutoModelForCausalLM.from_pretrained(job["model"], attn_implementation="eager", dtype=torch.float32)
    if job.get("adapter"):
        model = PeftModel.from_pretrained(model, job["adapter"], is_trainable="steps" in job)
    if "steps" in job:
        train(model, job["rows"], job["steps"], job["lr"])
    losses.append(mean_loss(model, job["rows"]))
json.dump(losses, open(os.path.join(os.path.dirname(sys.argv[1]), "losses.json"), "w"))

"""Makes tests/fixtures/generation_defaults.json: what Transformers writes where generation_config.json says how.

usage: generation_defaults.py OUTPUT, a file. Made with torch 2.12.1, transformers 5.23.0.

Each case has a generation_config.json, what is asked for beside it, and the new tokens; what is drawn is drawn among one.
"""
import json, os, sys, tempfile, shutil
os.environ["HF_HUB_OFFLINE"] = "1"
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

torch.set_num_threads(1)
source = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "fixtures", "glassllm-en")
PROMPT = "Alice was"
cases = []
for config, asked in [
    ({"max_new_tokens": 12}, {}),
    ({"max_new_tokens": 24, "repetition_penalty": 1.5}, {}),
    ({"max_new_tokens": 24, "repetition_penalty": 1.5}, {"repetition_penalty": 1.0}),
    ({"max_new_tokens": 24, "repetition_penalty": 1.5}, {"max_new_tokens": 5}),
    ({"max_length": 10}, {}),
    # Without do_sample the temperature counts for nothing.
    ({"max_new_tokens": 12, "temperature": 5.0, "top_p": 0.9}, {}),
    ({"max_new_tokens": 12, "do_sample": True, "temperature": 5.0, "top_k": 1, "repetition_penalty": 1.5}, {}),
    ({"max_new_tokens": 12, "do_sample": True, "temperature": 5.0}, {"top_k": 1}),
]:
    with tempfile.TemporaryDirectory() as folder:
        for file in os.listdir(source):
            shutil.copy(os.path.join(source, file), folder)
        json.dump(config, open(os.path.join(folder, "generation_config.json"), "w"))
        model, tokenizer = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), AutoTokenizer.from_pretrained(folder)
        ids = tokenizer(PROMPT, return_tensors="pt")
        with torch.no_grad():
            new = model.generate(**ids, **asked)[0, ids["input_ids"].shape[1]:].tolist()
        eos = model.generation_config.eos_token_id
        ends = eos if isinstance(eos, list) else [eos]
        cases.append({"config": config, "asked": asked, "tokens": [id for id in new if id not in ends]})
json.dump({"prompt": PROMPT, "cases": cases}, open(sys.argv[1], "w"), indent=1)
print(*cases, sep="\n")

"""How well Transformers and PEFT find a model with an adapter to answer rows of prompt and completion.

usage: completions_by_peft.py MODEL ADAPTER ROWS.jsonl, for a Hugging Face folder or a GGUF file; prints the mean loss of the targets and the
share of rows answered exactly right as JSON.
"""
import json, os, sys

os.environ["HF_HUB_OFFLINE"] = "1"
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer


def answered(model, adapter, rows, before_row=lambda net: net):
    """Mean loss of the targets and share of rows answered exactly right, one row at a time; `before_row` gets the model before each."""
    names = {"gguf_file": os.path.basename(model)} if model.endswith(".gguf") else {}
    folder = os.path.dirname(os.path.abspath(model)) if names else model
    tokenizer = AutoTokenizer.from_pretrained(folder, **names)
    net = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager", **names)
    net = PeftModel.from_pretrained(net, adapter).eval()
    total, targets, right, count = 0.0, 0, 0, 0
    with torch.no_grad():
        for row in map(json.loads, open(rows)):
            prompt = tokenizer(row["prompt"])["input_ids"]
            ids = tokenizer(row["prompt"] + row["completion"])["input_ids"] + [tokenizer.eos_token_id]
            assert ids[:len(prompt)] == prompt
            answer = torch.tensor(ids[len(prompt):])
            logits = before_row(net)(input_ids=torch.tensor([ids])).logits[0, len(prompt) - 1:-1].float()
            total += torch.nn.functional.cross_entropy(logits, answer, reduction="sum").item()
            targets += len(answer)
            right += bool((logits.argmax(-1) == answer).all())
            count += 1
    return total / targets, right / count


if __name__ == "__main__":
    loss, exact_match = answered(*sys.argv[1:])
    print(json.dumps({"loss": loss, "exact_match": exact_match}))

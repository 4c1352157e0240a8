"""What a newcomer brings, made by pandas, Transformers and PEFT, and what Transformers makes of the merged model.

usage: newcomer.py FOLDER. Where FOLDER has no `merged`, it gets: `base` (datasets/world with a chat template, its weights as a pytorch_model.bin),
`adapter` (of PEFT, on a vocabulary with two more tokens, with the tokenizer in its folder), `rows.parquet` (ShareGPT chats that use them) and
`before.json`, the loss of the adapter. Otherwise `after.json`, the loss of `merged`.
"""
import json, os, shutil, sys
os.environ["HF_HUB_OFFLINE"] = "1"
import pandas
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

torch.set_num_threads(1)
out = sys.argv[1]
root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
world, marked = os.path.join(root, "datasets/world"), os.path.join(root, "tests/fixtures/data/overlays/marked/tokenizer_config.json")
ROLES = {"human": "user", "gpt": "assistant", "system": "system"}
CHATS = [[("system", "Be brief."), ("human", "Bring Emil <one> coat."), ("gpt", "Larkhill <two>")],
         [("human", "hi"), ("gpt", "one <one>"), ("human", "and more"), ("gpt", "two")],
         [("human", "Two hats for Katla, please."), ("gpt", "<two><one>")]]


def loss(model, tokenizer):
    """The mean over what the assistant says, as the template marks it."""
    total = count = 0
    for chat in CHATS:
        messages = [{"role": ROLES[who], "content": said} for who, said in chat]
        got = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
        ids, mask = torch.tensor([got["input_ids"]]), torch.tensor(got["assistant_masks"])
        with torch.no_grad():
            logits = model.eval()(ids).logits[0, :-1].float()
        labels = ids[0].where(mask == 1, -100)[1:]
        total += torch.nn.functional.cross_entropy(logits, labels, ignore_index=-100, reduction="sum").item()
        count += (labels != -100).sum().item()
    return total / count


if os.path.exists(os.path.join(out, "merged")):
    folder = os.path.join(out, "merged")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert model.get_input_embeddings().num_embeddings == len(tokenizer) and model.config.vocab_size == len(tokenizer)
    json.dump(loss(model, tokenizer), open(os.path.join(out, "after.json"), "w"))
    sys.exit()

base = os.path.join(out, "base")
os.makedirs(base)
for name in ("config.json", "tokenizer.json"):
    shutil.copy(os.path.join(world, name), base)
shutil.copy(marked, base)
model = AutoModelForCausalLM.from_pretrained(world, dtype=torch.float32)
torch.save({name: value.clone() for name, value in model.state_dict().items() if name != "lm_head.weight"}, os.path.join(base, "pytorch_model.bin"))
tokenizer = AutoTokenizer.from_pretrained(base)
tokenizer.add_tokens(["<one>", "<two>"])
torch.manual_seed(1)
model.resize_token_embeddings(len(tokenizer))
model = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", modules_to_save=["embed_tokens", "lm_head"], task_type="CAUSAL_LM"))
with torch.no_grad():
    for name, value in model.named_parameters():
        if "lora_B" in name:
            value += 0.02 * torch.randn_like(value)
model.save_pretrained(os.path.join(out, "adapter"))
tokenizer.save_pretrained(os.path.join(out, "adapter"))
json.dump(loss(model, tokenizer), open(os.path.join(out, "before.json"), "w"))
rows = [{"id": at, "conversations": [{"from": who, "value": said} for who, said in chat]} for at, chat in enumerate(CHATS)]
pandas.DataFrame(rows).to_parquet(os.path.join(out, "rows.parquet"))

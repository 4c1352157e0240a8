"""Makes tests/fixtures/data: rows as people have them, and the tokens, labels and losses that TRL and Transformers give.

usage: data_cases.py OUTPUT, a folder that is made or replaced. Made with torch 2.12.1, transformers 5.23.0, trl 1.16.0, datasets 5.2.0,
pyarrow 26.0.1, pandas 3.1.1.

`overlays` are folders of tokenizer files that are laid over datasets/world. `cases.json` lists the cases: the rows' file, the overlay, the
options of [data], token ids, labels, and the mean loss over target tokens in f32. Where TRL knows a shape, ids and labels are those of its
SFTTrainer; otherwise they are those of Transformers for rows that are written out by hand in the form that it knows.
"""
import contextlib, gzip, io, json, os, shutil, sys, tempfile
os.environ["HF_HUB_OFFLINE"] = "1"
import pandas
import pyarrow
import pyarrow.parquet
import torch
from datasets import Dataset, disable_progress_bars
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

disable_progress_bars()
torch.set_num_threads(1)
root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
world = os.path.join(root, "datasets", "world")
llama3 = os.path.join(root, "crates", "llama-burn", "tests", "fixtures", "tokenizer")
out = os.path.abspath(sys.argv[1])
kept = {}
for name in ("spm",):  # made by hand, and kept
    folder = os.path.join(out, "overlays", name)
    kept[name] = {file: open(os.path.join(folder, file), "rb").read() for file in os.listdir(folder)}
shutil.rmtree(out, ignore_errors=True)
os.makedirs(os.path.join(out, "overlays"))
os.chdir(out)

# Overlays

config = json.load(open(os.path.join(world, "tokenizer_config.json")))
HEAD = "{{ '<|im_start|>' + m['role'] + '\\n' }}"
MARKED = ("{{ bos_token }}{% for m in messages %}" + HEAD + "{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] + '<|im_end|>' }}"
          "{% endgeneration %}{{ '\\n' }}{% else %}{{ m['content'] + '<|im_end|>\\n' }}{% endif %}{% endfor %}"
          "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}")
TOOLS = ("{{ bos_token }}{% if tools %}{{ '<|im_start|>system\\n' }}{% for t in tools %}{{ t | tojson }}{% endfor %}{{ '<|im_end|>\\n' }}{% endif %}"
         "{% for m in messages %}" + HEAD + "{% if m['role'] == 'assistant' %}{% generation %}"
         "{% if m.reasoning_content %}{{ '<think>' + m.reasoning_content + '</think>' }}{% endif %}{{ m['content'] or '' }}"
         "{% for c in m.tool_calls or [] %}{{ '<tool_call>' + c.function.name + ' ' + (c.function.arguments | tojson) + '</tool_call>' }}{% endfor %}"
         "{{ '<|im_end|>' }}{% endgeneration %}{{ '\\n' }}{% else %}{% if m.name %}{{ m.name + ': ' }}{% endif %}{{ m['content'] + '<|im_end|>\\n' }}{% endif %}"
         "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% if enable_thinking is defined and not enable_thinking %}"
         "{{ '<think></think>' }}{% endif %}{% endif %}")
PARTS = ("{{ bos_token }}{% for m in messages %}" + HEAD + "{% if m['content'] is string %}{% set text = m['content'] %}{% else %}"
         "{% set ns = namespace(text='') %}{% for p in m['content'] %}{% set ns.text = ns.text + '[' + p['text'] + ']' %}{% endfor %}{% set text = ns.text %}{% endif %}"
         "{% if m['role'] == 'assistant' %}{% generation %}{{ text + '<|im_end|>' }}{% endgeneration %}{{ '\\n' }}{% else %}{{ text + '<|im_end|>\\n' }}{% endif %}"
         "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}")


def overlay(name, template):
    os.makedirs(f"overlays/{name}")
    json.dump({**config, "chat_template": template}, open(f"overlays/{name}/tokenizer_config.json", "w"))


for name, template in {"marked": MARKED, "tools": TOOLS, "parts": PARTS}.items():
    overlay(name, template)
for name, files in kept.items():
    os.makedirs(f"overlays/{name}")
    for file, content in files.items():
        open(f"overlays/{name}/{file}", "wb").write(content)
os.makedirs("overlays/llama3")
shutil.copy(os.path.join(llama3, "tokenizer.json"), "overlays/llama3")
llama3_config = json.load(open(os.path.join(llama3, "tokenizer_config.json")))
llama3_config["chat_template"] = (
    "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\\n\\n' }}{% if m['role'] == 'assistant' %}"
    "{% generation %}{{ m['content'] | trim + '<|eot_id|>' }}{% endgeneration %}{% else %}{{ m['content'] | trim + '<|eot_id|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}")
json.dump(llama3_config, open("overlays/llama3/tokenizer_config.json", "w"))

# The kinds of ../people in other dress: see docs/compatibility.md

THINKS = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n<think>\\n' }}{% endif %}"
SAID = "{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}"
# Earlier thinking is stripped, and the generation prompt opens `<think>`.
overlay("think_stripped", "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'assistant' %}{{ '<|im_start|>assistant\\n' }}{%- generation -%}"
        "{{ (m['content'] if loop.last else m['content'].split('</think>')[-1]) + '<|im_end|>' }}{%- endgeneration -%}{{ '\\n' }}"
        "{% else %}" + SAID + "{% endif %}{% endfor %}" + THINKS)
# Thinking is a key of its own, written for the last answer alone; `enable_thinking` closes it in the generation prompt.
overlay("think_key", "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'assistant' %}{{ '<|im_start|>assistant\\n' }}{% generation %}"
        "{% if m.reasoning_content and loop.last %}{{ '<think>\\n' + m.reasoning_content + '\\n</think>\\n\\n' }}{% endif %}{{ m['content'] + '<|im_end|>' }}"
        "{% endgeneration %}{{ '\\n' }}{% else %}" + SAID + "{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' + ('<think>\\n\\n</think>\\n\\n' if enable_thinking is false else '<think>\\n') }}{% endif %}")
# Two marked parts of a turn with a note between them, and tags round the end of the turn alone.
overlay("gentag_parts", "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'assistant' %}{{ '<|im_start|>assistant\\n' }}{% generation %}{{ m['content'] }}"
        "{% endgeneration %}{{ ' NOTE ' }}{% generation %}{{ '<|im_end|>' }}{% endgeneration %}{{ '\\n' }}{% else %}" + SAID + "{% endif %}{% endfor %}")
overlay("gentag_last", "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'assistant' and loop.last %}{{ '<|im_start|>assistant\\n' }}{% generation %}"
        "{{ m['content'] + '<|im_end|>' }}{% endgeneration %}{{ '\\n' }}{% else %}" + SAID + "{% endif %}{% endfor %}")
# The last turn is written otherwise than the same one inside, and nothing tells where a turn begins.
overlay("untold", "{% set text %}{% for m in messages %}{{ m.role }}{{ m.content }}{% if loop.last %}.{% endif %}{% endfor %}{% endset %}{{ text }}")
# What ends a text is named in special_tokens_map.json as an object, in tokenizer_config.json as one, and by the tokenizer itself.
EOS = {"content": "<eos>", "lstrip": False, "rstrip": False, "single_word": False, "normalized": False, "special": True}
world_tokenizer = json.load(open(os.path.join(world, "tokenizer.json")))
for name, files in {
    "eos_object": {"tokenizer_config": {"tokenizer_class": "PreTrainedTokenizerFast"},
                   "special_tokens_map": {"bos_token": {**EOS, "content": "<bos>"}, "eos_token": EOS, "pad_token": "<pad>"}},
    "eos_added": {"tokenizer_config": {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": {"__type": "AddedToken", **EOS}, "pad_token": "<pad>"}},
}.items():
    os.makedirs(f"overlays/{name}")
    for file, content in files.items():
        json.dump(content, open(f"overlays/{name}/{file}.json", "w"))
# Tokens beyond the embedding: two of them, and one in front of which there is a gap.
for name, more in {"pad_and_extra": {"[PAD]": 2048, "<extra>": 2049}, "pad_far": {"[PAD]": 2060}}.items():
    os.makedirs(f"overlays/{name}")
    added = [{"id": id, **EOS, "content": token} for token, id in more.items()]
    json.dump({**world_tokenizer, "added_tokens": world_tokenizer["added_tokens"] + added}, open(f"overlays/{name}/tokenizer.json", "w"))
    json.dump({**config, "pad_token": "[PAD]", "chat_template": MARKED}, open(f"overlays/{name}/tokenizer_config.json", "w"))

# Llama 2's kind of tokenizer under the class `LlamaTokenizer`, which Transformers 5 makes anew from vocabulary and merges.
INST = ("{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}{% else %}"
        "{% generation %}{{ ' ' + m['content'] + ' ' + eos_token }}{% endgeneration %}{% endif %}{% endfor %}")
spm_tokenizer = json.loads(kept["spm"]["tokenizer.json"])
listed = {str(token.pop("id")): token for token in json.loads(kept["spm"]["tokenizer.json"])["added_tokens"]}
for name, more in {
    "llama_class": {"tokenizer_class": "LlamaTokenizer"},
    "llama_class_legacy": {"tokenizer_class": "LlamaTokenizerFast", "legacy": True, "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>",
                           "added_tokens_decoder": listed},
    "llama_class_no_prefix": {"tokenizer_class": "LlamaTokenizer", "add_prefix_space": False, "legacy": None},
}.items():
    os.makedirs(f"overlays/{name}")
    json.dump(spm_tokenizer, open(f"overlays/{name}/tokenizer.json", "w"), ensure_ascii=False)
    json.dump({**more, "chat_template": INST}, open(f"overlays/{name}/tokenizer_config.json", "w"))
LLAMA_CLASS = ("llama_class", "llama_class_legacy", "llama_class_no_prefix")

models = {}


def base(name):
    """The world with an overlay: its folder, model and tokenizer."""
    if name not in models:
        folder = tempfile.mkdtemp()
        for source in [world] + ([f"overlays/{name}"] if name else []):
            for file in os.listdir(source):
                if os.path.isfile(os.path.join(source, file)):
                    shutil.copy(os.path.join(source, file), folder)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        models[name] = folder, model, AutoTokenizer.from_pretrained(folder)
    return models[name]


def loss(name, ids, labels, masks=None):
    total, count = 0.0, 0
    with torch.no_grad():
        for at, (row, label) in enumerate(zip(ids, labels)):
            mask = torch.tensor([masks[at]]) if masks else None
            logits = base(name)[1](torch.tensor([row]), attention_mask=mask).logits[0, :-1]
            target = torch.tensor(label)[1:]
            total += torch.nn.functional.cross_entropy(logits, target, ignore_index=-100, reduction="sum").item()
            count += (target != -100).sum().item()
    return total / count


cases = []


def case(name, overlay, rows, ids, labels, options=None, masks=None, value=None):
    with open(f"{name}.jsonl", "w") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    value = loss(overlay, ids, labels, masks) if value is None else value
    cases.append({"name": name, "file": f"{name}.jsonl", "overlay": overlay, "options": options or {}, "loss": round(value, 7),
                  "ids": ids, "labels": labels, "masks": masks})


def trainer(overlay, rows, **more):
    folder, _, tokenizer = base(overlay)
    model = more.pop("model", None) or AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    settings = dict(output_dir=tempfile.mkdtemp(), use_cpu=True, bf16=False, gradient_checkpointing=False, report_to=[], max_length=256,
                    per_device_train_batch_size=2, train_sampling_strategy="sequential", logging_steps=1, save_strategy="no", disable_tqdm=True)
    with contextlib.redirect_stdout(io.StringIO()):
        return SFTTrainer(model=model, args=SFTConfig(**{**settings, **more}), train_dataset=Dataset.from_list(rows), processing_class=tokenizer)


def trl(name, overlay, rows, options=None, **more):
    """A case of TRL's own. Rows that it drops are none of the case."""
    data = trainer(overlay, rows, **more).train_dataset
    case(name, overlay, rows, [list(ids) for ids in data["input_ids"]], [list(labels) for labels in data["labels"]], options)


def turns(*contents, first="user"):
    roles = ["user", "assistant"] if first == "user" else ["assistant", "user"]
    return [{"role": roles[at % 2], "content": content} for at, content in enumerate(contents)]


def marked(overlay, messages, not_learned=(), **more):
    """Ids and labels of a chat whose template marks what is generated, without the turns that are not learned."""
    tokenizer = base(overlay)[2]
    got = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True, **more)
    ids, mask = got["input_ids"], got["assistant_masks"]
    stretches, labels = -1, []
    speakers = [at for at, message in enumerate(messages) if message["role"] == "assistant"]
    for at, (id, learned) in enumerate(zip(ids, mask)):
        stretches += learned == 1 and (at == 0 or mask[at - 1] == 0)
        labels.append(id if learned and (not not_learned or speakers[stretches] not in not_learned) else -100)
    return ids, labels


def chats(name, overlay, rows, meant, options=None):
    """Rows in a form that Transformers does not know, and what they mean: (messages, what is not learned, variables) each."""
    got = [marked(overlay, messages, skipped, **more) for messages, skipped, more in meant]
    case(name, overlay, rows, [ids for ids, _ in got], [labels for _, labels in got], options)


# Texts, prompts and completions, on three tokenizers

TEXTS = ["Bring Emil three coats from Vesna.", "Two hats for Katla, please.<eos>", "größe"]
PAIRS = [("Bring Emil three coats from Vesna.\nLabel:", " Larkhill"), ("Bring Em", "il two coats"), ("", "alone"), ("café", " olé")]
for overlay_name in (None, "spm", "llama3", *LLAMA_CLASS):
    suffix = overlay_name or "world"
    trl(f"text_{suffix}", overlay_name, [{"text": text} for text in TEXTS])
    trl(f"pairs_{suffix}", overlay_name, [{"prompt": prompt, "completion": completion} for prompt, completion in PAIRS])
trl("pairs_whole", None, [{"prompt": "a b", "completion": " c"}], {"completion_only_loss": False}, completion_only_loss=False)
trl("cut", None, [{"prompt": "Bring Emil", "completion": " three coats from Vesna and two hats"}], {"max_length": 12}, max_length=12)

# Chats

SHORT, LONG = turns("hi", "one"), turns("hi", "one", "and more", " two ")
for overlay_name in ("marked", "llama3"):
    trl(f"messages_{overlay_name}", overlay_name, [{"messages": SHORT}, {"messages": LONG}], assistant_only_loss=True)
    trl(f"chat_pairs_{overlay_name}", overlay_name,
        [{"prompt": SHORT[:1], "completion": SHORT[1:]}, {"prompt": LONG[:3], "completion": LONG[3:]}, {"prompt": LONG[:1], "completion": LONG[1:]}])
for overlay_name in LLAMA_CLASS:
    trl(f"messages_{overlay_name}", overlay_name, [{"messages": SHORT}, {"messages": LONG}], assistant_only_loss=True)
trl("messages_whole", "marked", [{"messages": LONG}], {"assistant_only_loss": False})
# A template whose turns cannot be told apart: all of the chat is learned all the same.
trl("messages_untold", "untold", [{"messages": SHORT}, {"messages": LONG}], {"assistant_only_loss": False})
trl("from_value", "marked", [{"conversations": [{"from": m["role"], "value": m["content"]} for m in LONG]}], {"assistant_only_loss": False})
TOOL = {"type": "function", "function": {"name": "find", "description": "Finds a person.", "parameters": {"type": "object", "properties": {"who": {"type": "string"}}}}}
CALL = [{"role": "user", "content": "Where is Emil?"},
        {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": {"name": "find", "arguments": {"who": "Emil"}}}]},
        {"role": "tool", "content": "Larkhill", "name": "find"}, {"role": "assistant", "content": "In Larkhill."}]
trl("tools", "tools", [{"messages": CALL, "tools": json.dumps([TOOL])}], assistant_only_loss=True)
trl("tools_pairs", "tools", [{"prompt": CALL[:3], "completion": CALL[3:], "tools": json.dumps([TOOL])}])
trl("variables", "tools", [{"prompt": SHORT[:1], "completion": [{"role": "assistant", "content": "<think></think>one"}], "chat_template_kwargs": {"enable_thinking": False}}])
REASONS = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "one", "reasoning_content": "I think."}]
trl("reasoning", "tools", [{"messages": REASONS}], assistant_only_loss=True)
in_parts = [{"role": m["role"], "content": [{"type": "text", "text": m["content"]}, {"type": "text", "text": " x"}]} for m in SHORT]
trl("parts", "parts", [{"messages": in_parts}], assistant_only_loss=True)

# Chats in forms that TRL does not know

joined = [{**m, "content": m["content"] + " x"} for m in SHORT]
chats("parts_joined", "marked", [{"messages": in_parts}], [(joined, (), {})])
bad = [{**m, **({"weight": 0} if at == 1 else {"weight": 1} if at == 3 else {})} for at, m in enumerate(LONG)]
chats("weight", "marked", [{"messages": bad}, {"messages": SHORT}], [(LONG, (1,), {}), (SHORT, (), {})])
trained = [{**m, "train": at == 3} for at, m in enumerate(LONG)]
chats("train", "marked", [{"messages": trained}], [(LONG, (1,), {})])
chats("weight_null", "marked", [{"messages": [{**m, "weight": None} for m in LONG]}], [(LONG, (), {})])
SHAREGPT = {"user": "human", "assistant": "gpt"}
share = [{"from": SHAREGPT[m["role"]], "value": m["content"]} for m in LONG]
system = [{"role": "system", "content": "Be brief."}]
chats("sharegpt", "marked", [{"conversations": share, "id": "7"}, {"conversations": [{"from": "system", "value": "Be brief."}] + share}],
      [(LONG, (), {}), (system + LONG, (), {})])
chats("sharegpt_system", "marked", [{"conversations": share, "system": "Be brief."}], [(system + LONG, (), {})])
calls = [{"from": "human", "value": "Where is Emil?"}, {"from": "function_call", "value": json.dumps({"name": "find", "arguments": {"who": "Emil"}})},
         {"from": "observation", "value": "Larkhill"}, {"from": "gpt", "value": "In Larkhill."}]
plain_call = [CALL[0], CALL[1], {"role": "tool", "content": "Larkhill"}, CALL[3]]
chats("sharegpt_calls", "tools", [{"conversations": calls, "tools": json.dumps([TOOL["function"]])}], [(plain_call, (), {"tools": [TOOL]})])
text_call = {**CALL[1], "content": None, "tool_calls": [{"type": "function", "function": {"name": "find", "arguments": '{"who": "Emil"}'}}]}
chats("openai", "tools", [{"messages": [CALL[0], {**text_call, "tool_calls": [{"id": "call_1", **text_call["tool_calls"][0]}]},
                                        {"role": "tool", "tool_call_id": "call_1", "content": "Larkhill"}, {**CALL[3], "weight": 1}],
                           "tools": [TOOL], "parallel_tool_calls": False}],
      [([CALL[0], text_call, {"role": "tool", "content": "Larkhill"}, CALL[3]], (), {"tools": [TOOL]})])
chats("openai_functions", "tools", [{"messages": [CALL[0], {"role": "assistant", "content": None, "function_call": text_call["tool_calls"][0]["function"]},
                                                  {"role": "function", "name": "find", "content": "Larkhill"}, CALL[3]], "functions": [TOOL["function"]]}],
      [([CALL[0], text_call, CALL[2], CALL[3]], (), {"tools": [TOOL]})])
chats("history", "marked", [{"instruction": "and more", "input": "", "output": " two ", "system": "Be brief.", "history": [["hi", "one"]]},
                            {"instruction": "a", "input": "b", "output": "c", "system": "", "history": []}],
      [(system + LONG, (), {}), (turns("a\nb", "c"), (), {})])
chats("renamed", "marked", [{"dialog": [{"speaker": "U", "said": "hi"}, {"speaker": "A", "said": "one"}]}], [(SHORT, (), {})],
      {"columns": {"messages": "dialog", "role": "speaker", "content": "said"}, "roles": {"U": "user", "A": "assistant"}})
chats("sharegpt_anywhere", "marked",
      [{"messages": [{"from": "Human", "value": "hi"}, {"from": "GPT", "value": "one"}, {"from": "USER", "value": "and more"}, {"from": "Assistant", "value": " two "}]},
       {"messages": [{"role": "human", "content": "hi"}, {"role": "gpt", "content": "one"}]},
       {"messages": [{"from": "human", "value": "hi", "weight": None}, {"from": "gpt", "value": "one", "weight": 0}, {"from": "human", "value": "and more", "weight": 0}, {"from": "gpt", "value": " two ", "weight": 1}]}],
      [(LONG, (), {}), (SHORT, (), {}), (LONG, (1,), {})])
chats("system_columns", "marked", [{"messages": SHORT, "system": "Be brief."}, {"messages": SHORT, "system_prompt": "Be brief.", "system": None}, {"messages": LONG, "system": ""}],
      [(system + SHORT, (), {}), (system + SHORT, (), {}), (LONG, (), {})])
chats("text_key", "marked", [{"items": [{"role": "user", "text": "hi"}, {"role": "assistant", "text": "one"}]}], [(SHORT, (), {})],
      {"columns": {"messages": "items", "content": "text"}})
chats("nulls", "marked", [{"messages": [{**m, "name": None, "tool_calls": [], "tool_call_id": None} for m in LONG], "tools": [], "prompt": None}], [(LONG, (), {})])
# Columns that only some rows have: one format, and what is absent is nothing.
chats("some_columns", "tools", [{"messages": SHORT}, {"messages": LONG, "tools": [TOOL]}, {"messages": SHORT, "tools": None, "prompt": None, "text": None},
                                {"messages": SHORT, "system": "Be brief."}],
      [(SHORT, (), {}), (LONG, (), {"tools": [TOOL]}), (SHORT, (), {}), (system + SHORT, (), {})])
chats("sharegpt_some_columns", "tools", [{"conversations": share}, {"conversations": share, "system": "Be brief.", "tools": None},
                                         {"conversations": share, "tools": json.dumps([TOOL["function"]])}, {"conversations": share, "system": ""}],
      [(LONG, (), {}), (system + LONG, (), {}), (LONG, (), {"tools": [TOOL]}), (LONG, (), {})])
chats("alpaca_some_columns", "tools", [{"instruction": "a", "input": "b", "output": "c"}, {"instruction": "hi", "output": "one", "system": None},
                                       {"instruction": "and more", "output": " two ", "history": [["hi", "one"]]},
                                       {"instruction": "hi", "input": "", "output": "one", "system": "Be brief."},
                                       {"instruction": "hi", "output": "one", "tools": json.dumps([TOOL])}],
      [(turns("a\nb", "c"), (), {}), (SHORT, (), {}), (LONG, (), {}), (system + SHORT, (), {}), (SHORT, (), {"tools": [TOOL]})])
chats("assistant_first", "marked", [{"messages": turns("hello", "hi", "one", first="assistant")}], [(turns("hello", "hi", "one", first="assistant"), (), {})])


# The kinds of ../people: thinking, marked parts, what ends a text, tokens beyond the embedding

THOUGHT = turns("hi", "<think>a</think>one", "more", "<think>b</think>two")
chats("think_stripped", "think_stripped", [{"messages": THOUGHT}, {"messages": SHORT}], [(THOUGHT, (), {}), (SHORT, (), {})])
KEPT = [{**m, "reasoning_content": "I think."} if m["role"] == "assistant" else m for m in LONG]
for thinking in (True, False):
    chats(f"think_key_{thinking}".lower(), "think_key", [{"messages": KEPT}, {"messages": SHORT}],
          [(KEPT, (), {"enable_thinking": thinking}), (SHORT, (), {"enable_thinking": thinking})], {"chat_template_kwargs": {"enable_thinking": thinking}})
chats("gentag_parts", "gentag_parts", [{"messages": LONG}, {"messages": SHORT}], [(LONG, (), {}), (SHORT, (), {})])
chats("gentag_last", "gentag_last", [{"messages": LONG}, {"messages": SHORT}], [(LONG, (), {}), (SHORT, (), {})])
for overlay_name in ("eos_object", "eos_added"):
    trl(overlay_name, overlay_name, [{"prompt": prompt, "completion": completion} for prompt, completion in PAIRS])
for overlay_name in ("pad_and_extra", "pad_far"):
    trl(f"{overlay_name}_text", overlay_name, [{"text": text} for text in TEXTS])
    trl(f"{overlay_name}_chat", overlay_name, [{"messages": SHORT}, {"messages": LONG}], assistant_only_loss=True)


def pairs(name, rows, meant, options=None):
    """Rows that mean a prompt and a completion."""
    data = trainer(None, [{"prompt": prompt, "completion": completion} for prompt, completion in meant]).train_dataset
    case(name, None, rows, [list(ids) for ids in data["input_ids"]], [list(labels) for labels in data["labels"]], options)


# Instructions

ALPACA = ("Below is an instruction that describes a task{}. Write a response that appropriately completes the request.\n\n### Instruction:\n{}{}\n\n### Response:\n")
WITH = ", paired with an input that provides further context"
pairs("alpaca", [{"instruction": "Do it", "input": "", "output": "done"}, {"instruction": "Do", "input": "it", "output": "done", "text": "whole"}],
      [(ALPACA.format("", "Do it", ""), "done"), (ALPACA.format(WITH, "Do", "\n\n### Input:\nit"), "done")])
pairs("own_template", [{"q": "why", "n": 3, "a": "so"}, {"q": "how", "n": 4, "a": "thus"}],
      [("Q3: why\nA:", " so"), ("Q4: how\nA:", " thus")], {"template": {"prompt": "Q{n}: {q}\nA:", "completion": " {a}"}})
pairs("own_template_no_input", [{"instruction": "Do", "input": "it", "output": "done"}, {"instruction": "Do", "input": "", "output": "done"}],
      [("Do|it>", "done"), ("Do>", "done")], {"template": {"prompt": "{instruction}|{input}>", "prompt_no_input": "{instruction}>"}})
pairs("columns", [{"question": "why ", "answer": "so", "id": 1}], [("why ", "so")], {"columns": {"prompt": "question", "completion": "answer"}})
pairs("chosen", [{"prompt": "why ", "chosen": "so", "rejected": "no"}], [("why ", "so")], {"columns": {"completion": "chosen"}, "ignore": ["rejected"]})
pairs("text_with_prompt", [{"text": "why so", "prompt": "why"}], [("why", " so")])

# Segments, as axolotl's `input_output` reads them: each tokenised by itself, nothing added

for overlay_name in (None, "spm", "llama3", *LLAMA_CLASS):
    tokenizer = base(overlay_name)[2]
    rows = [{"segments": [{"label": False, "text": "Bring Emil"}, {"label": True, "text": " three coats"}, {"label": False, "text": " and"}, {"label": True, "text": " two."}]},
            {"segments": [{"label": False, "text": "caf"}, {"label": True, "text": "é"}, {"label": True, "text": ""}]}]
    pieces = [[(tokenizer(piece["text"], add_special_tokens=False)["input_ids"], piece["label"]) for piece in row["segments"]] for row in rows]
    case(f"segments_{overlay_name or 'world'}", overlay_name, rows, [[id for ids, _ in row for id in ids] for row in pieces],
         [[id if label else -100 for ids, label in row for id in ids] for row in pieces])

# Tokens

IDS = [1, 37, 291, 277, 71, 362, 2]
trl("ids", None, [{"input_ids": IDS}, {"input_ids": IDS[:4]}])
case("ids_of_a_table", None, [{"input_ids": [float(id) for id in IDS], "labels": "[" + ", ".join(map(str, [-100] * 4 + IDS[4:])) + "]"}], [IDS], [[-100] * 4 + IDS[4:]])
trl("ids_completion", None, [{"input_ids": IDS, "completion_mask": [0, 0, 0, 1, 1, 1, 1]}], completion_only_loss=True)
trl("ids_assistant", None, [{"input_ids": IDS, "assistant_masks": [0, 0, 1, 1, 0, 0, 1]}])
trl("ids_both", None, [{"input_ids": IDS, "completion_mask": [0, 0, 0, 1, 1, 1, 1], "assistant_masks": [0, 0, 1, 1, 0, 0, 1]}], completion_only_loss=True)
trl("ids_labels", None, [{"input_ids": IDS, "labels": [-100] * 4 + IDS[4:]}])
PADDED = [([0, 0] + IDS, [0, 0] + [1] * 7, [-100, -100] + IDS), ([0] + IDS, [0] + [1] * 7, [-100] * 4 + IDS[3:])]
case("left_padded", None, [{"input_ids": ids, "attention_mask": mask, "labels": labels} for ids, mask, labels in PADDED],
     [ids for ids, _, _ in PADDED], [labels for _, _, labels in PADDED], masks=[mask for _, mask, _ in PADDED])
PADDED = [(IDS + [0, 0], [1] * 7 + [0, 0], [-100] * 3 + IDS[3:] + [-100] * 2), (IDS + [0], [1] * 7 + [0], IDS + [-100])]
case("right_padded", None, [{"input_ids": ids, "attention_mask": mask, "labels": labels} for ids, mask, labels in PADDED],
     [ids for ids, _, _ in PADDED], [labels for _, _, labels in PADDED], masks=[mask for _, mask, _ in PADDED])

# Packing: which examples share a row, by their lengths

lengths = [5, 17, 3, 9, 24, 12, 8, 8, 2, 30, 11, 6]
rows = [{"input_ids": [1] + [40 + at] * (length - 1)} for at, length in enumerate(lengths)]
packed = trainer(None, rows, packing=True, max_length=32, shuffle_dataset=False).train_dataset
packing = {"rows": rows, "max_length": 32, "packed": [list(row) for row in packed["seq_lengths"]]}

# Files of other formats, with the rows of a case

parquet_of = {}


def formats(name):
    rows = [json.loads(line) for line in open(f"{name}.jsonl")]
    table = pyarrow.Table.from_pylist(rows)
    for compression in ("none", "snappy", "gzip", "zstd", "brotli", "lz4"):
        pyarrow.parquet.write_table(table, f"{name}.{compression}.parquet", compression=compression)
    pyarrow.parquet.write_table(table, f"{name}.plain.parquet", use_dictionary=False, row_group_size=1, data_page_version="2.0")
    Dataset.from_list(rows).to_parquet(f"{name}.datasets.parquet")
    pandas.DataFrame(rows).set_index(pandas.Index(range(5, 5 + len(rows)))).to_parquet(f"{name}.pandas.parquet")
    pandas.DataFrame(rows).to_json(f"{name}.pandas.json", orient="records")
    Dataset.from_list(rows).to_json(f"{name}.datasets.jsonl.gz", compression="gzip")
    json.dump({"version": "1.0", "data": rows}, open(f"{name}.wrapped.json", "w"), indent=2)
    found = sorted(file for file in os.listdir(".") if file.startswith(name + ".") and file != f"{name}.jsonl")
    # An empty cell is read as nothing (csv_cases.py).
    if all(isinstance(value, str) and value for row in rows for value in row.values()):
        pandas.DataFrame(rows).to_csv(f"{name}.csv", index=False)
        pandas.DataFrame(rows).to_csv(f"{name}.tsv.zst", index=False, sep="\t", compression="zstd") if "zstandard" in sys.modules else None
        found.append(f"{name}.csv")
    parquet_of[name] = found


for name in ("text_world", "pairs_world", "messages_marked", "chat_pairs_marked", "sharegpt", "tools_pairs", "weight", "ids_labels"):
    formats(name)

# The losses of the first steps of TRL's SFTTrainer with an adapter of PEFT

folder, model, _ = base(None)
torch.manual_seed(3)
adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32),
                         LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
adapted.save_pretrained("adapter")
adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), "adapter", is_trainable=True)
rows = [{"prompt": f"Bring {who} {count} coats.\nLabel:", "completion": f" {count} coats for {who}"}
        for who, count in [("Emil", "two"), ("Vesna", "three"), ("Katla", "four"), ("Ivor", "five"), ("Mara", "six"), ("Tobin", "seven"), ("Dorn", "eight"), ("Lota", "nine")]]
with open("steps.jsonl", "w") as file:
    file.writelines(json.dumps(row) + "\n" for row in rows)
run = trainer(None, rows, model=adapted, max_steps=8, learning_rate=1e-2, lr_scheduler_type="constant", weight_decay=0.0, max_grad_norm=1.0)
with contextlib.redirect_stdout(io.StringIO()):
    run.train()
losses = [entry["loss"] for entry in run.state.log_history if "loss" in entry]
os.path.exists("adapter/README.md") and os.remove("adapter/README.md")

# Prompts that end in a character of several bytes, and what Transformers goes on with

prompts = []
for overlay_name in (None, "spm", "llama3"):
    _, model, tokenizer = base(overlay_name)
    for prompt in ("café", "a 世", "go 🦀", "naïve “", "größe"):
        ids = tokenizer(prompt)["input_ids"]
        if max(ids) >= model.config.vocab_size:
            continue
        all_ids = model.generate(torch.tensor([ids]), max_new_tokens=6, do_sample=False, attention_mask=torch.ones(1, len(ids), dtype=torch.long))[0].tolist()
        text, whole = tokenizer.decode(ids, skip_special_tokens=True), tokenizer.decode(all_ids, skip_special_tokens=True)
        assert whole.startswith(text)
        prompts.append({"overlay": overlay_name, "prompt": prompt, "tokens": all_ids[len(ids):], "text": whole[len(text):]})

json.dump({"cases": cases, "prompts": prompts, "formats": parquet_of, "packing": packing, "losses": losses}, open("cases.json", "w"), indent=None)
print(len(cases), "cases,", sum(map(len, parquet_of.values())), "files of other formats; losses", losses)

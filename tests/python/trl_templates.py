"""Chats through the chat templates that TRL ships (those of the models, and its variants with generation tags), as Transformers renders and marks
them.

usage: trl_templates.py FOLDER with a `tokenizer.json` and `tokenizer_config.json`; `templates.json` is written there: the templates by name, and
for each of them the chats with ids and mask. A chat that a template refuses is left out.
"""
import json, os, sys
os.environ["HF_HUB_OFFLINE"] = "1"
import trl
from transformers import AutoTokenizer

out = sys.argv[1]
tokenizer = AutoTokenizer.from_pretrained(out)
folder = os.path.join(os.path.dirname(trl.__file__), "chat_templates")


def said(role, content, **more):
    return {"role": role, "content": content, **more}


TOOL = {"type": "function", "function": {"name": "find", "description": "Finds.", "parameters": {"type": "object", "properties": {"who": {"type": "string"}}}}}
CALL = {"type": "function", "function": {"name": "find", "arguments": {"who": "Emil"}}}
CHATS = [
    {"messages": [said("user", "why?"), said("assistant", "one")]},
    {"messages": [said("system", "Be brief."), said("user", "why?"), said("assistant", "one"), said("user", "and?"), said("assistant", "two three")]},
    {"messages": [said("user", "why?"), said("assistant", "<think>\nhm\n</think>\n\none"), said("user", "and?"), said("assistant", "<think>\nso\n</think>\n\ntwo")]},
    {"messages": [said("user", "why?"), said("assistant", "one", reasoning_content="hm"), said("user", "and?"), said("assistant", "two", reasoning_content="so")]},
    {"messages": [said("user", "why?"), said("assistant", "one")], "kwargs": {"enable_thinking": False}},
    {"messages": [said("user", "where?"), said("assistant", "", tool_calls=[CALL]), said("tool", "Millford", name="find"), said("tool", "Ostwick", name="find"),
                  said("assistant", "In Larkhill.")], "tools": [TOOL]},
    {"messages": [said("system", "Be brief."), said("user", "where?"), said("assistant", "Let me look.", tool_calls=[{"id": "abcdefgh1", **CALL}, {"id": "abcdefgh2", **CALL}]),
                  said("tool", '{"place": "Millford", "n": [1, 2.5, true, null]}', tool_call_id="abcdefgh1"), said("tool", "Ostwick", tool_call_id="abcdefgh2"),
                  said("assistant", "In one of two."), said("user", "and?"), said("assistant", "That is all.")], "tools": [TOOL]},
    {"messages": [said("user", "where?"), said("assistant", "", reasoning_content="I look.", tool_calls=[{"id": "abcdefgh1", **CALL}])], "tools": [TOOL]},
    {"messages": [said("user", "where?"), said("assistant", "", reasoning_content="I look.", tool_calls=[{"id": "abcdefgh1", **CALL}]),
                  said("tool", "Millford", name="find", tool_call_id="abcdefgh1"), said("assistant", "", tool_calls=[{"id": "abcdefgh2", **CALL}]),
                  said("tool", "Ostwick", name="find", tool_call_id="abcdefgh2"), said("assistant", "There.", reasoning_content="Both.")], "tools": [TOOL]},
]
templates = {}
for file in sorted(os.listdir(folder)):
    source = open(os.path.join(folder, file), newline="").read()
    if not file.endswith(".jinja") or "strftime_now" in source:  # which writes today's date
        continue
    marks, chats = "generation %}" in source, []
    for chat in CHATS:
        for prompt in (False, True):
            try:
                got = tokenizer.apply_chat_template(chat["messages"], tools=chat.get("tools"), chat_template=source, add_generation_prompt=prompt, tokenize=True,
                                                    return_dict=True, return_assistant_tokens_mask=marks, **chat.get("kwargs", {}))
            except Exception:
                continue
            chats.append({**chat, "prompt": prompt, "ids": got["input_ids"], "mask": got["assistant_masks"] if marks else None})
    templates[file.removesuffix(".jinja")] = {"source": source, "chats": chats}
json.dump(templates, open(os.path.join(out, "templates.json"), "w"))

"""Writes crates/llama-burn/tests/fixtures/added_tokens.json: token ids where the files beside tokenizer.json add tokens or change their flags.

usage: added_tokens.py. Made with transformers 5.23.0. Each case has the files that lie beside the fixture's tokenizer.json, and for
each text the ids that AutoTokenizer gives.
"""
import json, os, shutil, tempfile
from transformers import AutoTokenizer

here = os.path.dirname(os.path.abspath(__file__))
fixtures = os.path.join(here, "..", "..", "crates", "llama-burn", "tests", "fixtures")
source = os.path.join(fixtures, "tokenizer")
config = json.load(open(os.path.join(source, "tokenizer_config.json")))
config = {key: value for key, value in config.items() if key not in ("chat_template", "added_tokens_decoder", "additional_special_tokens", "extra_special_tokens")}
TEXTS = ["a <tool> b", "a <|eot_id|> b <tool>c", "plain", "<|begin_of_text|> <tool>  <mask> x"]
listed = {str(token["id"]): {k: v for k, v in token.items() if k != "id"} for token in json.load(open(os.path.join(source, "tokenizer.json")))["added_tokens"]}
tool = {"content": "<tool>", "lstrip": False, "rstrip": False, "single_word": False, "normalized": False, "special": True}
eot = next(id for id, token in listed.items() if token["content"] == "<|eot_id|>")
cases = {
    "none": {},
    "additional": {"additional_special_tokens": ["<tool>"]},
    "extra": {"extra_special_tokens": ["<tool>"]},
    "extra_and_additional": {"extra_special_tokens": ["<mask>"], "additional_special_tokens": ["<tool>"]},
    "extra_by_name": {"extra_special_tokens": {"tool_token": "<tool>"}},
    "own_name": {"tool_token": "<tool>"},
    "object": {"additional_special_tokens": [{"__type": "AddedToken", **tool, "rstrip": True}]},
    "mask_strips": {"mask_token": {"__type": "AddedToken", **tool, "content": "<mask>", "lstrip": True}},
    "listed": {"added_tokens_decoder": {**listed, "321": tool}},
    "listed_flags": {"added_tokens_decoder": {**listed, eot: {**listed[eot], "lstrip": True, "rstrip": True}}},
    "listed_not_special": {"added_tokens_decoder": {**listed, "321": {**tool, "special": False, "normalized": True}}},
    "split_special": {"split_special_tokens": True, "additional_special_tokens": ["<tool>"]},
    "map_alone": {"special_tokens_map.json": {"additional_special_tokens": ["<tool>"]}},
    "map_extra": {"special_tokens_map.json": {"extra_special_tokens": ["<tool>"]}},
    "added_json": {"added_tokens.json": {"<tool>": 321}},
    "added_json_special": {"added_tokens.json": {"<tool>": 321}, "additional_special_tokens": ["<tool>"]},
}
out = []
for name, changes in cases.items():
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(os.path.join(source, "tokenizer.json"), folder)
        json.dump({"model_type": "llama"}, open(f"{folder}/config.json", "w"))
        files = {"tokenizer_config.json": {**config, **{k: v for k, v in changes.items() if not k.endswith(".json")}}}
        files |= {k: v for k, v in changes.items() if k.endswith(".json")}
        for file, content in files.items():
            json.dump(content, open(f"{folder}/{file}", "w"))
        tokenizer = AutoTokenizer.from_pretrained(folder)
        out.append({"name": name, "files": files, "texts": [{"text": text, "ids": tokenizer(text)["input_ids"]} for text in TEXTS]})
json.dump(out, open(os.path.join(fixtures, "added_tokens.json"), "w"), indent=1, ensure_ascii=False)
for case in out:
    print(case["name"], [len(text["ids"]) for text in case["texts"]])

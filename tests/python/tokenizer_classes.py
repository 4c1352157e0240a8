"""Writes crates/llama-burn/tests/fixtures/classes.json: what AutoTokenizer makes of two small vocabularies under each tokenizer class.

usage: tokenizer_classes.py. Made with transformers 5.23.0. The files hold another pipeline than the classes have: no NFC, another split,
no decoder of the class. Each case names its tokenizer.json (`bytes` or `pieces`) and the files beside it; its texts have ids with and
without special tokens, and the text of the ids. Equal results are kept once. A case that Transformers refuses has an `error`; one whose name
begins with "refused" is refused here.
"""
import json, os, shutil, tempfile
os.environ["HF_HUB_OFFLINE"] = "1"
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer

here = os.path.dirname(os.path.abspath(__file__))
fixtures = os.path.join(here, "..", "..", "crates", "llama-burn", "tests", "fixtures")
WORDS = ["the user asks what the weather is like today", "and the assistant says that it is warm and sunny in Paris", "caf\u00e9 na\u00efve 12 345 don't I'll",
         "  two  spaces\n\nand lines\n", "x = y + 1;\n    return x"]
TEXTS = ["the weather", " the  weather is   warm ", "cafe\u0301 caf\u00e9 \u212b \uac00 \u1100\u1161", "12345 1 22 x3y", "don't I'll DON'T", "\U0001f980\U0001f469\u200d\U0001f680 \u4e16\u754c",
         "\n\n a\r\n\tb\n", "", "a <s> b</s>", "<|endoftext|>x <|endoftext|> y", "<tool>  <tool>b", "<late> a<late>", "\u2581a \u2581\u2581b", "a\u0301\u0323\u0928\u093f", "x = y;\n    return"]


def bytes_file():
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(" ", "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=310, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False, special_tokens=["<s>", "</s>", "<|endoftext|>"])
    tokenizer.train_from_iterator(WORDS * 3, trainer)
    tokenizer.add_special_tokens([AddedToken("<tool>", lstrip=True, rstrip=True, special=True, normalized=False)])
    tokenizer.add_tokens([AddedToken("<late>", normalized=True)])
    bos = ("<s>", tokenizer.token_to_id("<s>"))
    template = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[bos])
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
    return tokenizer


def pieces_file():
    tokenizer = Tokenizer(models.BPE(byte_fallback=False, fuse_unk=False, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
    alphabet = sorted(set("".join(WORDS)) - {"\n", "\u00ef"})
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, limit_alphabet=len(alphabet), show_progress=False,
                                  special_tokens=["<unk>", "<s>", "</s>", "<bos>", "<eos>", "<pad>", "<mask>", *bytes_])
    tokenizer.train_from_iterator([word.replace("\n", " ") for word in WORDS] * 3, trainer)
    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if not token["content"].startswith("<0x")]
    tokenizer = Tokenizer.from_str(json.dumps(state))
    tokenizer.add_special_tokens([AddedToken("<tool>", rstrip=True, special=True, normalized=False)])
    tokenizer.add_tokens([AddedToken("<late>", normalized=True)])
    bos = ("<s>", tokenizer.token_to_id("<s>"))
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[bos, ("</s>", tokenizer.token_to_id("</s>"))])
    return tokenizer


def unigram_file():
    pieces = ["<unk>", "<s>", "</s>", "\u2581", "a", "b", "\u2581a", "\u2581b", "the", "\u2581the", *[f"<0x{byte:02X}>" for byte in range(256)]]
    tokenizer = Tokenizer(models.Unigram([(piece, -float(at)) for at, piece in enumerate(pieces)], unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer


files = {"bytes": json.loads(bytes_file().to_str()), "pieces": json.loads(pieces_file().to_str()), "unigram": json.loads(unigram_file().to_str())}
added = {str(token["id"]): {k: v for k, v in token.items() if k != "id"} for token in files["bytes"]["added_tokens"]}
plain = {"content": "<tool>", "lstrip": True, "rstrip": False, "single_word": False, "normalized": False, "special": True}
tool = {"__type": "AddedToken", **plain}
named = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
cases = []


def case(name, file, family, config, **others):
    cases.append({"name": name, "file": file, "files": {"config.json": {"model_type": family} if isinstance(family, str) else family,
                                                          "tokenizer_config.json": config, **{f"{key}.json": value for key, value in others.items()}}})


def of(name, **more):
    return {"tokenizer_class": name, **more}


for name in ["GPT2Tokenizer", "GPT2TokenizerFast", "CodeGenTokenizer", "GPTNeoXTokenizerFast", "CohereTokenizerFast", "RobertaTokenizerFast", "Qwen2Tokenizer", "Qwen3_5Tokenizer"]:
    case(name, "bytes", "llama", of(name))
    case(f"{name} prefix", "bytes", "smollm3", of(name, add_prefix_space=True))
    case(f"{name} frame", "bytes", "llama", of(name, add_bos_token=True, add_eos_token=True, bos_token="<s>", eos_token="</s>"))
    case(f"{name} extra", "bytes", "llama", of(name, additional_special_tokens=["<tool>", "<new>"], pad_token="<pad>"))
    case(f"{name} flags", "bytes", "llama", of(name, added_tokens_decoder={**added, "400": {**plain, "content": "<late>"}}, eos_token={**tool, "content": "</s>", "lstrip": True}))
for family in ["qwen2", "qwen3", "llama", "smollm3", "mistral", "phi3", "olmo2", "granite", "gemma3_text"]:
    for config in [{}, of("PreTrainedTokenizerFast"), of("LlamaTokenizerFast", legacy=True), of("GPT2Tokenizer"), of("SomeTokenizer")]:
        if family == "gemma3_text" and not config:
            continue  # refused: no unk_token
        case(f"{family} {config.get('tokenizer_class')}", "bytes", family, config)
case("model names the class", "bytes", {"model_type": "llama", "tokenizer_class": "GPT2Tokenizer"}, {})
case("no family", "bytes", {}, of("GPT2Tokenizer"))
case("code for nothing", "bytes", "qwen3", of("PreTrainedTokenizerFast", auto_map={"AutoTokenizer": ["code.Tok", None]}))
case("code beside a class", "bytes", "llama", of("GPT2Tokenizer", auto_map={"AutoTokenizer": ["code.Tok", None]}))
case("qwen2 unset", "bytes", "qwen2", of("Qwen2Tokenizer", unk_token=None, pad_token=None, eos_token="</s>"))
case("added json", "bytes", "qwen2", of("Qwen2Tokenizer", extra_special_tokens=["<tool>"]), added_tokens={"<other>": 305, "<more>": 400})
case("map", "bytes", "qwen2", of("Qwen2Tokenizer"), special_tokens_map={"eos_token": plain, "pad_token": "<pad>"})
case("as it is, listed and extra", "bytes", "llama", of("PreTrainedTokenizerFast", added_tokens_decoder={**added, "400": {**plain, "special": False, "content": "<new>"}}, extra_special_tokens=["<new>"]))
for family, name in [("llama", "LlamaTokenizer"), ("gemma", None), ("gemma2", "GemmaTokenizerFast"), ("gemma3", "GemmaTokenizer"), ("gemma3_text", "PreTrainedTokenizerFast"), ("llama", "GemmaTokenizer"),
                     ("gemma", "LlamaTokenizer"), ("llama", "CodeLlamaTokenizerFast"), ("llama", "PreTrainedTokenizerFast"), ("mistral", "LlamaTokenizerFast"), ("phi3", "LlamaTokenizer")]:
    base = {"tokenizer_class": name} if name else {}
    case(f"pieces {family} {name}", "pieces", family, base)
    case(f"pieces {family} {name} settings", "pieces", family, {**base, **named, "legacy": True, "add_prefix_space": True, "add_bos_token": True, "add_eos_token": True})
    case(f"pieces {family} {name} no prefix", "pieces", family, {**base, **named, "add_prefix_space": False, "additional_special_tokens": ["<tool>"], "pad_token": "<pad>"})
case("code llama without bos", "pieces", "llama", of("CodeLlamaTokenizer", bos_token=None))
case("gemma of another unknown", "pieces", "gemma", of("GemmaTokenizer", unk_token="<nothing>"))
case("llama of unigram", "unigram", "llama", of("LlamaTokenizer"))
case("as it is of unigram", "unigram", "llama", of("PreTrainedTokenizerFast"))
for name in ["BertTokenizer", "T5TokenizerFast", "CLIPTokenizer", "MistralCommonBackend"]:
    case(f"refused {name}", "bytes", "llama", of(name))
case("refused code", "bytes", "llama", of("SomeTokenizer", auto_map={"AutoTokenizer": ["code.Tok", None]}))

results = []
for case in cases:
    with tempfile.TemporaryDirectory() as folder:
        json.dump(files[case["file"]], open(f"{folder}/tokenizer.json", "w"))
        for file, content in case["files"].items():
            json.dump(content, open(f"{folder}/{file}", "w"))
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
            special = {k: v for k, v in tokenizer.special_tokens_map.items() if k in tokenizer.SPECIAL_TOKENS_ATTRIBUTES}
            flags = [[id, token.content, token.lstrip, token.rstrip, token.normalized, token.special] for id, token in sorted(tokenizer.added_tokens_decoder.items())]
            texts = []
            for text in TEXTS:
                ids = tokenizer(text)["input_ids"]
                texts.append([text, ids, tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.decode(ids), tokenizer.decode(ids, skip_special_tokens=True)])
            result = {"size": len(tokenizer), "special": special, "flags": flags, "texts": texts}
            if result not in results:
                results.append(result)
            case |= {"class": type(tokenizer).__name__, "result": results.index(result)}
        except Exception as error:
            case["error"] = f"{type(error).__name__}: {error}".replace(folder, "FOLDER").strip().splitlines()[0][:120]
lines = {name: ",\n".join(json.dumps(row) for row in rows) for name, rows in {"cases": cases, "results": results}.items()}
with open(os.path.join(fixtures, "classes.json"), "w") as out:
    out.write(f'{{"files": {json.dumps(files)},\n"cases": [\n{lines["cases"]}\n],\n"results": [\n{lines["results"]}\n]}}\n')
for case in cases:
    print(case["name"], "->", case.get("class") or case["error"])

"""What we write as GGUF, in llama.cpp: models of every family and adapters on them, and real models.

Usage, from the repository's root, with node, npm, gcc, torch 2.12.1, transformers 5.23, peft 0.21.2 and gguf 0.19:
    cargo build --release
    python tests/clients/llama-cpp/check.py FOLDER [MODEL.gguf ...]

FOLDER lies outside of the repository: llama.cpp (from npm's node-llama-cpp) and what is written go there. Logits are compared
with Transformers' and PEFT's, files that are quantised with llama.cpp's own quantisation of the same model. PEFT=PATH names
another binary than target/release/peft.
"""
import os, subprocess, sys

os.environ["HF_HUB_OFFLINE"] = "1"
import gguf
import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

PACKAGE = "node-llama-cpp@3.21.1"
PEFT = os.environ.get("PEFT", "target/release/peft")
HERE = os.path.dirname(os.path.abspath(__file__))
FAMILIES = "tests/fixtures/families"
# What llama.cpp knows no word for is refused, and tested elsewhere; of a window that it passes over, only rows within it agree.
WINDOWS = {"mistral": 5, "phi3": 5}
NAMES = ["mistral", "mistral_yarn", "qwen3", "gemma", "phi3", "phi3_longrope", "smollm3", "olmo2", "granite"]
# Of f32: llama.cpp's own operations differ from Transformers' by as much.
MOST = 0.02

torch.set_num_threads(2)
folder = os.path.abspath(sys.argv[1])
failures = []


def run(*command, **options):
    return subprocess.run([str(part) for part in command], check=True, **options)


def prepare():
    """llama.cpp's libraries, and the program that asks them."""
    os.makedirs(folder, exist_ok=True)
    modules = f"{folder}/node_modules"
    libraries = f"{modules}/@node-llama-cpp/linux-x64/bins/linux-x64"
    if not os.path.isdir(libraries):
        run("npm", "install", "--silent", "--ignore-scripts", "--prefix", folder, PACKAGE)
    if not os.path.isdir(f"{folder}/llama.cpp"):
        run("git", "clone", "-q", f"{modules}/node-llama-cpp/llama/gitRelease.bundle", f"{folder}/llama.cpp")
    found = {name.split(".")[0]: f"{libraries}/{name}" for name in os.listdir(libraries)}
    run("gcc", "-O2", "-Wall", "-o", f"{folder}/probe", f"{HERE}/probe.c", f"-I{folder}/llama.cpp/include",
        f"-I{folder}/llama.cpp/ggml/include", found["libllama"], found["libggml"], found["libggml-base"],
        f"-Wl,-rpath,{libraries}")
    os.environ["LLAMA_LIBRARIES"] = libraries


def logits(model, ids, adapter=None):
    out = f"{folder}/logits.f32"
    run(f"{folder}/probe", "logits", model, out, ",".join(map(str, ids)), *([adapter] if adapter else []))
    return torch.from_numpy(np.fromfile(out, dtype=np.float32)).reshape(len(ids), -1)


def ours(*arguments):
    output = arguments[arguments.index("--output") + 1]
    if os.path.exists(output):
        os.remove(output)
    run(PEFT, *arguments, stdout=subprocess.DEVNULL)
    return output


def say(name, what, value, good):
    print(f"| {name} | {what} | {value} |" + ("" if good else " <- wrong"), flush=True)
    if not good:
        failures.append(f"{name}: {what}")


def families():
    """A LoRA on all layers, merged and beside the model, against PEFT's logits."""
    for name in NAMES:
        case, base = load_file(f"{FAMILIES}/{name}/case.safetensors"), f"{FAMILIES}/{name}"
        merged = ours("merge", "--model", base, "--adapter", f"{base}/lora", "--gguf", "f32", "--output", f"{folder}/merged.gguf")
        plain = ours("merge", "--model", base, "--gguf", "f32", "--output", f"{folder}/plain.gguf")
        lora = ours("convert", f"{base}/lora", "--model", base, "--to", "gguf", "--output", f"{folder}/lora.gguf")
        worst = dict.fromkeys(["merged", "adapter", "base"], 0.0)
        for row, ids in enumerate(case["input_ids"].tolist()):
            ids = ids[:WINDOWS.get(name)]
            for what, found, key in [("merged", logits(merged, ids), "lora.merged"), ("base", logits(plain, ids), "logits"),
                                     ("adapter", logits(plain, ids, lora), "lora.logits")]:
                # The frequencies of LongRoPE depend on the whole text, which is the same in both.
                expected = case[key][row, :len(ids)]
                worst[what] = max(worst[what], (found - expected).abs().max().item())
        for what, value in worst.items():
            say(name, f"{what}, f32: largest difference of a logit", f"{value:.5f}", value <= MOST)


TEXT = open("README.md", encoding="utf-8").read()


def adapter_on(model, path):
    """A LoRA with random values that change what the model says."""
    torch.manual_seed(5)
    config = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", use_rslora=True,
                        rank_pattern={"v_proj": 5}, task_type="CAUSAL_LM")
    adapted = get_peft_model(model, config).eval()
    with torch.no_grad():
        for key, p in adapted.named_parameters():
            if "lora_B" in key:
                p.copy_(0.004 * torch.randn(p.shape))
    adapted.save_pretrained(path)
    return adapted


def of_probabilities(found, exact):
    p, q = torch.log_softmax(exact.double(), -1), torch.log_softmax(found.double(), -1)
    top = (found.argmax(-1) == exact.argmax(-1)).double().mean().item()
    return top, (p.exp() * (p - q)).sum(-1).mean().item()


def tensors(path):
    return {tensor.name: (tensor.tensor_type.name, tensor.data.tobytes()) for tensor in gguf.GGUFReader(path).tensors}


def real(path):
    where, file = os.path.split(os.path.abspath(path))
    name = file.split(".gguf")[0]
    tokenizer = AutoTokenizer.from_pretrained(where, gguf_file=file)
    ids = tokenizer(TEXT)["input_ids"][:256]
    model = AutoModelForCausalLM.from_pretrained(where, gguf_file=file, dtype=torch.float32).eval()
    adapter = f"{folder}/adapter-{name}"
    with torch.no_grad():
        base = model(input_ids=torch.tensor([ids])).logits[0]
        expected = adapter_on(model, adapter)(input_ids=torch.tensor([ids])).logits[0]
    del model
    changed = of_probabilities(expected, base)
    print(f"| {name} | what the adapter changes: top 1, KL | {changed[0]:.3f}, {changed[1]:.4f} |", flush=True)
    files = {kind: ours("merge", "--model", path, "--adapter", adapter, "--gguf", kind, "--output", f"{folder}/{name}-{kind}.gguf")
             for kind in ["f32", "q8_0", "q4_k_m"]}
    worst = (logits(files["f32"], ids) - expected).abs().max().item()
    say(name, "merged, f32: largest difference of a logit", f"{worst:.5f}", worst <= MOST)
    plain = ours("merge", "--model", path, "--gguf", "f32", "--output", f"{folder}/{name}-plain.gguf")
    lora = ours("convert", adapter, "--model", path, "--to", "gguf", "--output", f"{folder}/{name}-lora.gguf")
    worst = (logits(plain, ids, lora) - expected).abs().max().item()
    say(name, "adapter on f32: largest difference of a logit", f"{worst:.5f}", worst <= MOST)
    for kind in ["q8_0", "q4_k_m"]:
        theirs = f"{folder}/{name}-theirs.gguf"
        run(f"{folder}/probe", "quantize", files["f32"], theirs, kind)
        scores = [of_probabilities(logits(file, ids), expected) for file in (files[kind], theirs)]
        say(name, f"merged, {kind}: top 1, KL; llama.cpp's own", "; ".join(f"{top:.3f}, {kl:.5f}" for top, kl in scores),
            scores[0][0] >= scores[1][0] - 0.01 and scores[0][1] <= scores[1][1] * 1.02 + 1e-6)
        a, b = tensors(files[kind]), tensors(theirs)
        differing = [key for key in a.keys() | b.keys() if a.get(key) != b.get(key)]
        kinds = {}
        for tensor_type, _ in a.values():
            kinds[tensor_type] = kinds.get(tensor_type, 0) + 1
        say(name, f"merged, {kind}: tensors of other bytes than llama.cpp's", f"{len(differing)} of {len(a)} ({kinds})", not differing)


prepare()
print("| model | compared | |\n| --- | --- | --- |")
families()
for path in sys.argv[2:]:
    real(path)
sys.exit("\n".join(["Not equal:", *failures]) if failures else 0)

"""Throughput of requests that each have a LoRA of their own, beside llama.cpp: the same model in f32, the same threads, in turn.

Usage, from the repository's root, with node, npm, git and gcc, and a Python with numpy and safetensors:
    cargo build --release
    python tests/clients/llama-cpp/tenants.py FOLDER MODEL [TENANTS ...]

FOLDER lies outside of the repository: llama.cpp (from npm's node-llama-cpp), the model and the adapter as GGUF go there. MODEL
is a Hugging Face folder. PEFT=PATH names another binary than target/release/peft. The LoRA has rank 16 on q, k, v, o.
"""
import json, os, statistics, subprocess, sys

from library import HERE, prepare, run

sys.path.append(os.path.join(HERE, "..", "..", "..", "benches"))
from made_up_lora import make_adapter

PEFT = os.environ.get("PEFT", "target/release/peft")
THREADS, PROMPT, TOKENS, ROUNDS = 2, 64, 32, 2
folder, model = os.path.abspath(sys.argv[1]), sys.argv[2]
tenants = [int(count) for count in sys.argv[3:]] or [1, 16, 64]


def asked(*command):
    environment = os.environ | {"RAYON_NUM_THREADS": str(THREADS)}
    return subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True, env=environment).stdout


prepare(folder)
gguf, lora = f"{folder}/tenants.gguf", f"{folder}/tenants-lora.gguf"
for file in (gguf, lora):
    if os.path.exists(file):
        os.remove(file)
make_adapter(model, f"{folder}/tenant", 0)
run(PEFT, "merge", "--model", model, "--gguf", "f32", "--output", gguf)
run(PEFT, "convert", "--to", "gguf", f"{folder}/tenant", "--model", model, "--output", lora)

print(f"{model}, f32, {PROMPT} + {TOKENS} tokens a request, {THREADS} threads: new tokens a second, median of {ROUNDS} rounds\n")
print("| requests, each with its LoRA | llama.cpp | ours | ratio |\n| ---: | ---: | ---: | ---: |")
for count in tenants:
    rounds = []
    for _ in range(ROUNDS):
        theirs = float(asked(f"{folder}/probe", "tenants", gguf, THREADS, PROMPT, TOKENS, count, lora))
        # So high a rate has all requests there before the first step.
        ours = asked(PEFT, "bench", "serve", "--model", model, "--methods", "lora", "--adapters", count, "--requests", count, "--rate", 1e6,
                     "--max-batch", count, "--prompt", PROMPT, "--answer", TOKENS, "--json")
        rounds.append((theirs, json.loads(ours)["tokens_per_second"]))
    ratios = [mine / other for other, mine in rounds]
    cells = [statistics.median(one[i] for one in rounds) for i in (0, 1)]
    print(f"| {count} | {cells[0]:.1f} | {cells[1]:.1f} | {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) |", flush=True)

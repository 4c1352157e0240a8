"""A generated token of GGUF files, beside llama.cpp: the same file and threads, in turn.

Usage, from the repository's root, with node, npm and gcc:
    cargo build --release
    python tests/clients/llama-cpp/speed.py FOLDER MODEL.gguf ...

FOLDER lies outside of the repository: llama.cpp (from npm's node-llama-cpp) goes there. PEFT=PATH names another binary than
target/release/peft. Ours is the server's step of one row, in f32 and in bf16.
"""
import json, os, statistics, subprocess, sys

from library import prepare

PEFT = os.environ.get("PEFT", "target/release/peft")
THREADS, PROMPT, TOKENS, ROUNDS = 2, 64, 60, 3
folder = os.path.abspath(sys.argv[1])


def asked(*command):
    environment = os.environ | {"RAYON_NUM_THREADS": str(THREADS)}
    return subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True, env=environment).stdout


def ours(model, dtype):
    report = asked(PEFT, "bench", "serve", "--model", model, "--dtype", dtype, "--rows", 1, "--prompt", PROMPT, "--steps", TOKENS,
                   "--methods", "ia3", "--json")
    return next(step["milliseconds"] for step in json.loads(report)["steps"] if step["method"] == "base")


prepare(folder)
print(f"milliseconds for a token after {PROMPT}, {THREADS} threads; ours over llama.cpp's, median and range of {ROUNDS} rounds\n")
print("| file | llama.cpp | ours, f32 | ratio | ours, bf16 | ratio |\n| --- | ---: | ---: | ---: | ---: | ---: |")
for model in sys.argv[2:]:
    rounds = []
    for _ in range(ROUNDS):
        theirs = float(asked(f"{folder}/probe", "time", os.path.abspath(model), THREADS, PROMPT, TOKENS))
        rounds.append((theirs, ours(model, "f32"), ours(model, "bf16")))
    median = lambda values: statistics.median(values)
    cells = [f"{median([r[0] for r in rounds]):.2f}"]
    for i in (1, 2):
        ratios = [r[i] / r[0] for r in rounds]
        cells += [f"{median([r[i] for r in rounds]):.2f}", f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"]
    print(f"| {os.path.basename(model)} | " + " | ".join(cells) + " |", flush=True)

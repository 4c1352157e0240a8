#!/usr/bin/env python3
"""Fine-tunes models on the film reviews and has Hugging Face PEFT open the adapters.

    cargo build --release
    python3 benches/film_reviews.py --model gemma.gguf --methods lora dora [--steps 150] [--rows 200] [--set model.quantization=nf4]

For each method: `peft eval` before, `peft train` with its examples/movie-sentiment*.toml, `peft eval` after, and then PEFT over
Transformers, which reads the same model, on the same rows: mean loss of the targets and rows answered exactly right. Prints a
line of a Markdown table for each. The loss of PEFT must be ours (to 1e-3 of it); for a quantised base, `--no-peft` leaves PEFT out.

Needs a Python with torch, transformers, peft and gguf, in PEFT_PYTHON or as python3.
"""
import argparse, json, os, pathlib, subprocess, sys, time

ROOT = pathlib.Path(__file__).resolve().parent.parent
DATA = ROOT / "datasets/movie-sentiment"
METHODS = {"lora": ""} | {method: f"-{method}" for method in ("dora", "vera", "adalora", "ia3")}


def arguments():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--model", required=True, help="a Hugging Face folder or a GGUF file")
    p.add_argument("--methods", nargs="+", default=["lora", "dora"], choices=METHODS, metavar="METHOD")
    p.add_argument("--steps", type=int, default=150)
    p.add_argument("--rows", type=int, default=200, help="rows of the validation file, its first")
    p.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="more settings of `peft train`")
    p.add_argument("--eval", action="append", default=[], metavar="FLAG", help="more flags of `peft eval`, for the same base")
    p.add_argument("--output", default=ROOT / "runs/film-reviews", type=pathlib.Path)
    p.add_argument("--peft", default=ROOT / "target/release/peft", help="our binary")
    p.add_argument("--no-peft", action="store_true", help="do not open the adapters by PEFT")
    return p.parse_args()


def run(command):
    """The output of a command, its seconds, and its peak memory in MiB."""
    started = time.time()
    process = subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, text=True)
    out = process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{' '.join(map(str, command))} failed")
    return out, time.time() - started, used.ru_maxrss / 1024


def by_peft(model, adapter, rows):
    """Loss and share of rows answered exactly right, as Transformers and PEFT compute them."""
    python = os.environ.get("PEFT_PYTHON", "python3")
    script = ROOT / "tests/python/completions_by_peft.py"
    done = subprocess.run([python, script, model, adapter, rows], capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def main():
    a = arguments()
    a.output.mkdir(parents=True, exist_ok=True)
    rows = a.output / "valid.jsonl"
    with open(DATA / "valid.jsonl") as whole:
        rows.write_text("".join(line for _, line in zip(range(a.rows), whole)))
    peft_eval = [a.peft, "eval", "--model", a.model, "--data", rows, "--exact-match", "--json", *a.eval]
    before = json.loads(run(peft_eval)[0])
    print("| model | method | loss | exactly right | PEFT's | time of `peft train` | peak |")
    name = pathlib.Path(a.model).stem
    print(f"| {name} | none | {before['loss']:.4f} | {100 * before['exact_match']:.1f}% | | | |", flush=True)
    for method in a.methods:
        folder = a.output / f"{name}-{method}"
        settings = [f"model.path={json.dumps(str(a.model))}", f"output={json.dumps(str(folder))}", f"data.train={json.dumps(str(DATA / 'train.jsonl'))}",
                    f"data.valid={json.dumps(str(rows))}", f"training.max_steps={a.steps}", f"training.eval_steps={a.steps}",
                    f"training.save_steps={a.steps}", *a.set]
        command = [a.peft, "train", ROOT / f"examples/movie-sentiment{METHODS[method]}.toml", "--overwrite", "--no-dashboard"]
        for setting in settings:
            command += ["--set", setting]
        _, seconds, peak = run(command)
        adapter = folder / "adapter"
        after = json.loads(run([*peft_eval, "--adapter", adapter])[0])
        theirs = "" if a.no_peft else by_peft(str(a.model), str(adapter), str(rows))
        if theirs and abs(theirs["loss"] - after["loss"]) > 1e-3 * after["loss"]:
            sys.exit(f"{method}: PEFT finds a loss of {theirs['loss']}, and ours is {after['loss']}")
        said = theirs and f"{theirs['loss']:.4f}, {100 * theirs['exact_match']:.1f}%"
        print(f"| {name} | {method} | {after['loss']:.4f} | {100 * after['exact_match']:.1f}% | {said} | {seconds:.0f} s | {peak:.0f} MiB |", flush=True)


main()

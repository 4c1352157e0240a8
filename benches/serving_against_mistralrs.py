#!/usr/bin/env python3
"""Throughput of requests that each have a LoRA of their own, beside mistral.rs's dynamic LoRA: the same model in f32, in turn.

    cargo build --release
    python3 benches/serving_against_mistralrs.py --model DIR [--tenants 1 16] [--rounds 2]

Ours: `peft bench serve`, the engine without HTTP. Theirs: PyPI's `mistralrs` (0.9.5), a `Runner` with as many adapters and
its cache in f32. It takes one request at a time ("Already borrowed" from a second thread), so they come one after the
other. Each request has about --prompt tokens and is answered by --answer tokens.

Needs a Python with mistralrs, numpy and safetensors, in PEFT_PYTHON or as python3.
"""
import argparse, json, os, pathlib, statistics, subprocess, sys, tempfile, time

HERE = pathlib.Path(__file__).resolve().parent

p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
p.add_argument("--model", required=True, help="a Hugging Face model folder")
p.add_argument("--tenants", type=int, nargs="+", default=[1, 16])
p.add_argument("--prompt", type=int, default=64)
p.add_argument("--answer", type=int, default=32)
p.add_argument("--rounds", type=int, default=2)
p.add_argument("--threads", type=int, default=os.cpu_count())
p.add_argument("--peft", default=HERE.parent / "target/release/peft", help="our binary")
p.add_argument("--folder", help=argparse.SUPPRESS)  # in the process that measures mistral.rs
a = p.parse_args()


def theirs(folder, tenants):
    from mistralrs import CompletionRequest, LoraAdapter, ModelDType, Runner, Which

    names = [f"tenant{i}" for i in range(tenants)]
    which = Which.Lora(model_id=a.model, adapters=[LoraAdapter(name, f"{folder}/{name}") for name in names], max_adapters=tenants, dtype=ModelDType.F32)
    runner = Runner(which, max_seqs=tenants, prefix_cache_n=0)
    counted = []

    def ask(i, answer):
        # A token for each word, or nearly so.
        prompt = " ".join(["the", "of", "and", "to", "in", "is", "it", "for"][(i + at) % 8] for at in range(a.prompt))
        request = CompletionRequest(prompt=prompt, model="default", max_tokens=answer, temperature=0.0, ignore_eos=True, adapter=names[i])
        usage = runner.send_completion_request(request).usage
        counted.append((usage.prompt_tokens, usage.completion_tokens))

    ask(0, 2)
    counted.clear()
    begun = time.perf_counter()
    for i in range(tenants):
        ask(i, a.answer)
    seconds = time.perf_counter() - begun
    print(json.dumps({"tokens_per_second": sum(new for _, new in counted) / seconds, "prompt": counted[0][0], "answered": len(counted)}))


def run(command):
    environment = {**os.environ, "RAYON_NUM_THREADS": str(a.threads), "OMP_NUM_THREADS": str(a.threads), "MISTRALRS_CPU_KV_F32": "1"}
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, env=environment)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{done.stderr}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def main():
    if a.folder:
        return theirs(a.folder, a.tenants[0])
    python = os.environ.get("PEFT_PYTHON") or sys.executable
    same = ["--model", a.model, "--prompt", a.prompt, "--answer", a.answer]
    print(f"{a.model}, f32, {a.prompt} + {a.answer} tokens a request, {a.threads} threads: new tokens a second, median of {a.rounds} rounds\n")
    print("| requests, each with its LoRA | mistral.rs | ours | ratio |\n| ---: | ---: | ---: | ---: |")
    from made_up_lora import make_adapter

    with tempfile.TemporaryDirectory() as folder:
        for i in range(max(a.tenants)):
            make_adapter(a.model, f"{folder}/tenant{i}", i)
        for tenants in a.tenants:
            rounds = []
            for _ in range(a.rounds):
                other = run([python, __file__, *same, "--tenants", tenants, "--folder", folder])
                if other["answered"] != tenants:
                    sys.exit(f"mistral.rs answered {other['answered']} of {tenants} requests")
                # So high a rate has all requests there before the first step.
                mine = run([a.peft, "bench", "serve", *same, "--methods", "lora", "--adapters", tenants, "--requests", tenants, "--rate", 1e6,
                            "--max-batch", tenants, "--json"])
                rounds.append((other["tokens_per_second"], mine["tokens_per_second"]))
            ratios = [mine / other for other, mine in rounds]
            cells = [statistics.median(one[i] for one in rounds) for i in (0, 1)]
            print(f"| {tenants} | {cells[0]:.1f} | {cells[1]:.1f} | {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) |", flush=True)


main()

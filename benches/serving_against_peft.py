#!/usr/bin/env python3
"""Throughput of many tenants: `peft bench serve` beside Hugging Face PEFT on the same cores.

    cargo build --release
    python3 benches/serving_against_peft.py --model DIR [--tenants 64] [--prompt 64] [--answer 32] [--rounds 2]

Every tenant has a LoRA of its own (r 16 on q, k, v, o) and one request of --prompt tokens, answered greedily by --answer
tokens. All requests are there at once. Ours: `peft bench serve`, the engine without HTTP. PEFT's: a loop of `set_adapter`
and `generate`, and one `generate` of all rows with `adapter_names`. In turn, every measurement a process of its own.

Needs a Python with torch, transformers and peft, in PEFT_PYTHON or as python3.
"""
import argparse, json, os, pathlib, statistics, subprocess, sys, time

HERE = pathlib.Path(__file__).resolve().parent
WAYS = ["set_adapter", "adapter_names"]


def arguments():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--model", required=True, help="a Hugging Face model folder")
    p.add_argument("--tenants", type=int, default=64)
    p.add_argument("--prompt", type=int, default=64)
    p.add_argument("--answer", type=int, default=32)
    p.add_argument("--rounds", type=int, default=2)
    p.add_argument("--threads", type=int, default=os.cpu_count())
    p.add_argument("--dtype", default="f32", choices=["f32", "bf16"])
    p.add_argument("--peft", default=HERE.parent / "target/release/peft", help="our binary")
    p.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)  # in the process that measures PEFT
    return p.parse_args()


def theirs(a):
    """New tokens a second by PEFT."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(a.threads)
    torch.manual_seed(0)
    dtype = torch.float32 if a.dtype == "f32" else torch.bfloat16
    model = AutoModelForCausalLM.from_pretrained(a.model, dtype=dtype)
    config = LoraConfig(r=16, lora_alpha=32, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"], init_lora_weights=False)
    names = [f"tenant{i}" for i in range(a.tenants)]
    model = get_peft_model(model, config, adapter_name=names[0])
    for name in names[1:]:
        model.add_adapter(name, config)
    model.eval()
    prompts = torch.randint(100, model.config.vocab_size, (a.tenants, a.prompt))
    ask = dict(max_new_tokens=a.answer, min_new_tokens=a.answer, do_sample=False, pad_token_id=0)

    def loop(tenants, **less):
        for i in range(tenants):
            model.set_adapter(names[i])
            model.generate(input_ids=prompts[i : i + 1], attention_mask=torch.ones(1, a.prompt), **{**ask, **less})

    def mixed(tenants, **less):
        rows = prompts[:tenants]
        model.generate(input_ids=rows, attention_mask=torch.ones_like(rows), adapter_names=names[:tenants], **{**ask, **less})

    work = loop if a.way == "set_adapter" else mixed
    with torch.no_grad():
        work(2, max_new_tokens=2, min_new_tokens=2)  # what is made once
        start = time.perf_counter()
        work(a.tenants)
        print(json.dumps({"tokens_per_second": a.tenants * a.answer / (time.perf_counter() - start)}))


def run(command, threads):
    environment = {**os.environ, "RAYON_NUM_THREADS": str(threads), "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, env=environment)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{done.stderr}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def main():
    a = arguments()
    if a.way:
        return theirs(a)
    python = os.environ.get("PEFT_PYTHON") or "python3"
    same = ["--model", a.model, "--prompt", a.prompt, "--answer", a.answer, "--dtype", a.dtype]
    # So high a rate has all requests there before the first step.
    ours = [a.peft, "bench", "serve", *same, "--methods", "lora", "--adapters", a.tenants, "--requests", a.tenants]
    ours += ["--rate", 1e6, "--max-batch", a.tenants, "--json"]
    found = {"ours": [], **{way: [] for way in WAYS}}
    for i in range(a.rounds):
        report = run(ours, a.threads)
        if report["answered"] != a.tenants:
            sys.exit(f"only {report['answered']} of {a.tenants} requests were answered")
        found["ours"].append(report["tokens_per_second"])
        for way in WAYS:
            command = [python, __file__, *same, "--tenants", a.tenants, "--threads", a.threads, "--way", way]
            found[way].append(run(command, a.threads)["tokens_per_second"])
        print(f"round {i + 1}:", {key: round(values[-1], 1) for key, values in found.items()}, file=sys.stderr, flush=True)
    print(f"{a.model}, {a.dtype}, {a.tenants} tenants x ({a.prompt} + {a.answer}) tokens, {a.threads} threads")
    print("| | new tokens a second | ours over it |\n| --- | ---: | ---: |")
    for key, values in found.items():
        ratios = [mine / other for mine, other in zip(found["ours"], values)]
        spread = "" if key == "ours" else f"{statistics.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f})"
        print(f"| {key} | {statistics.median(values):.1f} | {spread} |")


main()

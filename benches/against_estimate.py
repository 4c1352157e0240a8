#!/usr/bin/env python3
"""Holds `peft bench --dry-run`, which reads no weight, against the peak of resident memory of the same step.

usage: python3 benches/against_estimate.py [--peft PATH] [--model DIR]
DIR needs config.json alone: weights are made up. The figures are in docs/quantised.md.
"""
import argparse, json, subprocess

parser = argparse.ArgumentParser()
parser.add_argument("--peft", default="target/release/peft")
parser.add_argument("--model", required=True)
args = parser.parse_args()
CASES = [
    "--method lora --batch 1 --seq 128",
    "--method lora_all --batch 1 --seq 512",
    "--method lora --batch 4 --seq 128 --dtype bf16",
    "--method dora --batch 1 --seq 512",
    "--method vera --batch 2 --seq 256",
    "--method lora --batch 1 --seq 512 --quantization nf4 --double-quantization",
    "--method lora --batch 1 --seq 512 --dtype bf16 --quantization nf4 --double-quantization",
    "--method lora_all --batch 1 --seq 512 --grad-checkpointing",
    "--method adalora --batch 1 --seq 256",
    "--method ia3 --batch 2 --seq 256",
]
MIB = 1 << 20
print("| step | estimate, MiB | measured, MiB | ratio |\n| --- | ---: | ---: | ---: |")
for case in CASES:
    def run(*more):
        line = [args.peft, "bench", "--model", args.model, *case.split(), "--json", *more]
        return json.loads(subprocess.run(line, check=True, capture_output=True, text=True).stdout)
    told = run("--dry-run")["total"] / MIB
    found = run("--random", "--steps", "1", "--warmup", "1")["peak_rss_mb"]
    print(f"| `{case}` | {told:.0f} | {found:.0f} | {told / found:.2f} |", flush=True)

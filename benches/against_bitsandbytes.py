"""bitsandbytes' times on a CPU, to hold `cargo bench --bench packed` against.

Usage, with bitsandbytes 0.50.2 and torch 2.12.1:
    python benches/against_bitsandbytes.py [--threads 2] [--size 4096]

Best of several runs, in milliseconds: quantising a weight, one row times it (as it is, and packed for inference, which needs
AVX-512 BF16), and 512 rows.
"""
import argparse
import time

import torch

arguments = argparse.ArgumentParser()
arguments.add_argument("--threads", type=int, default=2)
arguments.add_argument("--size", type=int, default=4096)
arguments = arguments.parse_args()
torch.set_num_threads(arguments.threads)

import bitsandbytes as bnb
import bitsandbytes.functional as functional


def best(work, runs):
    """Milliseconds of the fastest run, after one that is not counted."""
    work()
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return 1e3 * min(times)


def layer(weight, dtype, nested):
    new = bnb.nn.Linear4bit(*weight.shape[::-1], bias=False, compute_dtype=dtype, compress_statistics=nested, quant_type="nf4")
    new.weight = bnb.nn.Params4bit(weight, requires_grad=False, compress_statistics=nested, quant_type="nf4")
    return new.to("cpu")


def show(name, milliseconds):
    print(f"{name:48} {milliseconds:9.3f} ms", flush=True)


torch.manual_seed(0)
size = arguments.size
weight = torch.randn(size, size)
with torch.no_grad():
    for kind in ("nf4", "fp4"):
        for nested in (False, True):
            name = f"quantise {kind}" + (", nested scales" if nested else "")
            show(name, best(lambda: functional.quantize_4bit(weight, quant_type=kind, compress_statistics=nested), 5))
    show("quantise int8", best(lambda: functional.int8_vectorwise_quant(weight.half()), 5))
    for dtype in (torch.float32, torch.bfloat16):
        one = torch.randn(1, size).to(dtype)
        many = torch.randn(512, size).to(dtype)
        dense = weight.to(dtype)
        show(f"{dtype}: a row times a dense weight", best(lambda: one @ dense.T, 30))
        show(f"{dtype}: 512 rows times a dense weight", best(lambda: many @ dense.T, 5))
        for nested in (False, True):
            name = f"{dtype}: %s times an NF4 weight" + (", nested scales" if nested else "")
            training = layer(weight.clone(), dtype, nested).train()
            show(name % "512 rows", best(lambda: training(many), 5))
            show(name % "a row", best(lambda: training(one), 10))
            inference = layer(weight.clone(), dtype, nested).eval()
            show(name % "a row, packed for inference,", best(lambda: inference(one), 30))

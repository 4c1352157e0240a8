#!/usr/bin/env python3
"""Training-step cost of Hugging Face PEFT, the reference that `peft bench` is measured against.

One process measures one method, so that peak memory is that method's own:

    python peft_bench.py --model DIR --method lora --batch 4 --seq 128 --steps 8

prints one JSON object on stdout:
    method, device, dtype, batch, seq, trainable, step_ms (median of the timed steps),
    steps_ms (all), tokens_per_s, peak_rss_mb (host), peak_gpu_mb (0 on CPU), load_s, first_loss, last_loss

Work of one step: forward with labels = input_ids (after --prompt tokens), backward, AdamW step, zero_grad (and update_and_allocate for
AdaLoRA). Tokens are the same fixed pseudo-random ids for every method: id[i] = (i * 7919 + 13) % vocab.
Needs: torch, transformers, peft (pip). `--random` builds the model from config.json with random weights.
"""
import argparse, json, os, resource, statistics, sys, time

p = argparse.ArgumentParser()
p.add_argument("--model", required=True)
p.add_argument("--method", required=True, choices=["lora", "lora_all", "dora", "dora_all", "vera", "adalora", "ia3", "full", "base_forward"])
p.add_argument("--batch", type=int, default=4)
p.add_argument("--seq", type=int, default=128)
p.add_argument("--prompt", type=int, default=0, help="leading tokens of a row that are no targets")
p.add_argument("--steps", type=int, default=8)
p.add_argument("--warmup", type=int, default=2)
p.add_argument("--threads", type=int, default=os.cpu_count())
p.add_argument("--device", default="cpu")
p.add_argument("--dtype", default="f32", choices=["f32", "bf16"])
p.add_argument("--attn", default="sdpa")
p.add_argument("--compile", action="store_true")
p.add_argument("--random", action="store_true")
p.add_argument("--grad-checkpointing", action="store_true")
p.add_argument("--quantization", choices=["nf4", "fp4", "int8"], help="by bitsandbytes; not with --random")
a = p.parse_args()

os.environ.setdefault("HF_HUB_OFFLINE", "1")
t0 = time.perf_counter()
import torch
from peft import AdaLoraConfig, IA3Config, LoraConfig, VeraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

torch.set_num_threads(a.threads)
torch.manual_seed(0)
dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[a.dtype]
if a.random:
    cfg = AutoConfig.from_pretrained(a.model)
    model = AutoModelForCausalLM.from_config(cfg, attn_implementation=a.attn, dtype=dtype)
else:
    packed = {}
    if a.quantization:
        from transformers import BitsAndBytesConfig

        four = dict(load_in_4bit=True, bnb_4bit_quant_type=a.quantization, bnb_4bit_compute_dtype=dtype)
        packed = {"quantization_config": BitsAndBytesConfig(**(dict(load_in_8bit=True) if a.quantization == "int8" else four))}
    model = AutoModelForCausalLM.from_pretrained(a.model, attn_implementation=a.attn, dtype=dtype, **packed)
model.config.use_cache = False
if not a.quantization:
    model.to(a.device)

ATTN = ["q_proj", "k_proj", "v_proj", "o_proj"]
ALL = ATTN + ["gate_proj", "up_proj", "down_proj"]
total = a.steps + a.warmup
configs = {
    "lora": lambda: LoraConfig(r=16, lora_alpha=32, target_modules=ATTN, task_type="CAUSAL_LM"),
    "lora_all": lambda: LoraConfig(r=16, lora_alpha=32, target_modules=ALL, task_type="CAUSAL_LM"),
    "dora": lambda: LoraConfig(r=16, lora_alpha=32, target_modules=ATTN, use_dora=True, task_type="CAUSAL_LM"),
    "dora_all": lambda: LoraConfig(r=16, lora_alpha=32, target_modules=ALL, use_dora=True, task_type="CAUSAL_LM"),
    "vera": lambda: VeraConfig(r=256, target_modules=ATTN, projection_prng_key=42, save_projection=False, task_type="CAUSAL_LM"),
    "adalora": lambda: AdaLoraConfig(init_r=24, target_r=8, lora_alpha=32, tinit=1, tfinal=1, deltaT=1, total_step=max(total, 4),
                                     target_modules=ATTN, task_type="CAUSAL_LM"),
    "ia3": lambda: IA3Config(target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"], task_type="CAUSAL_LM"),
}
if a.method in configs:
    model = get_peft_model(model, configs[a.method]())
if a.grad_checkpointing:
    model.gradient_checkpointing_enable(); model.enable_input_require_grads()
model.train()
vocab = model.config.vocab_size
ids = ((torch.arange(a.batch * a.seq) * 7919 + 13) % vocab).reshape(a.batch, a.seq).to(a.device)
labels = ids.clone()
labels[:, : a.prompt] = -100
params = [q for q in model.parameters() if q.requires_grad]
opt = None if a.method == "base_forward" else torch.optim.AdamW(params, lr=1e-4)
run = torch.compile(model) if a.compile else model
load_s = time.perf_counter() - t0

def sync():
    if a.device.startswith("cuda"):
        torch.cuda.synchronize()

times, losses = [], []
for step in range(total):
    sync(); t = time.perf_counter()
    if opt is None:
        with torch.no_grad():
            loss = run(input_ids=ids, labels=labels).loss
    else:
        loss = run(input_ids=ids, labels=labels).loss
        loss.backward()
        opt.step()
        if a.method == "adalora":
            model.base_model.update_and_allocate(step)
        opt.zero_grad(set_to_none=True)
    losses.append(float(loss.detach())); sync()
    times.append((time.perf_counter() - t) * 1e3)
timed = times[a.warmup:]
med = statistics.median(timed)
print(json.dumps({
    "impl": "hf-peft", "method": a.method, "device": a.device, "dtype": a.dtype, "batch": a.batch, "seq": a.seq,
    "trainable": sum(q.numel() for q in params) if opt else 0, "step_ms": med, "steps_ms": timed,
    "tokens_per_s": a.batch * a.seq / med * 1e3,
    "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    "peak_gpu_mb": torch.cuda.max_memory_allocated() / 2**20 if a.device.startswith("cuda") else 0,
    "load_s": load_s, "first_loss": losses[0], "last_loss": losses[-1], "torch": torch.__version__, "threads": a.threads,
}))

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
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from library import prepare, run

PEFT = os.environ.get("PEFT", "target/release/peft")
SIZES = dict(vocab_size=97, hidden_size=64, intermediate_size=96, num_hidden_layers=6, num_attention_heads=4,
             num_key_value_heads=2, head_dim=16, max_position_embeddings=64, bos_token_id=1, eos_token_id=2, pad_token_id=0)
LENGTH, WINDOW = 40, 7
LOCAL = dict(rope_type="default", rope_theta=10000.0)
# What each family has, as llama.cpp has it. Of a window that it does not use none is set.
FAMILIES = {
    "llama": ("llama", dict(attention_bias=True, mlp_bias=True)),
    "llama3": ("llama", dict(tie_word_embeddings=True, rope_parameters=dict(
        rope_type="llama3", rope_theta=500000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
        original_max_position_embeddings=16))),
    "llama_linear": ("llama", dict(head_dim=24, rope_parameters=dict(rope_type="linear", rope_theta=10000.0, factor=4.0))),
    "mistral_yarn": ("mistral", dict(sliding_window=None, rope_parameters=dict(
        rope_type="yarn", rope_theta=10000.0, factor=4.0, original_max_position_embeddings=16))),
    "qwen2": ("qwen2", dict(tie_word_embeddings=True)),
    "qwen3": ("qwen3", dict(head_dim=24)),
    "gemma": ("gemma", dict(head_dim=24)),
    "gemma2": ("gemma2", dict(sliding_window=WINDOW, query_pre_attn_scalar=16, attn_logit_softcapping=3.0,
                              final_logit_softcapping=5.0)),
    "gemma3": ("gemma3_text", dict(sliding_window=WINDOW, sliding_window_pattern=6, query_pre_attn_scalar=16,
        rope_parameters=dict(full_attention=dict(rope_type="linear", factor=8.0, rope_theta=1000000.0), sliding_attention=LOCAL))),
    "gemma3_pattern": ("gemma3_text", dict(sliding_window=WINDOW, sliding_window_pattern=3, query_pre_attn_scalar=16,
        rope_parameters=dict(full_attention=dict(rope_type="default", rope_theta=1000000.0),
                             sliding_attention=dict(LOCAL, rope_theta=500.0)))),
    "phi3": ("phi3", dict(sliding_window=None)),
    "phi3_longrope": ("phi3", dict(sliding_window=None, original_max_position_embeddings=16, rope_parameters=dict(
        rope_type="longrope", rope_theta=10000.0, short_factor=[1.0, 1.1, 1.2, 1.3, 1.5, 1.7, 1.8, 2.0],
        long_factor=[1.2, 1.6, 2.0, 2.8, 4.0, 5.0, 6.0, 6.5], original_max_position_embeddings=16))),
    "smollm3": ("smollm3", dict(tie_word_embeddings=True)),
    "olmo2": ("olmo2", dict()),
    "granite": ("granite", dict(embedding_multiplier=3.0, attention_multiplier=0.2, residual_multiplier=0.6, logits_scaling=2.5,
                                mlp_bias=True, attention_bias=True, tie_word_embeddings=True)),
}
# Of f32: llama.cpp's own operations differ from Transformers' by as much.
MOST = 0.02

torch.set_num_threads(2)
folder = os.path.abspath(sys.argv[1])
failures = []


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


class TheirGelu(torch.nn.Module):
    """GELU as llama.cpp takes it: from a table of halves, at a half."""

    def forward(self, x):
        return torch.nn.functional.gelu(x.half().float(), approximate="tanh").half().float()


def with_their_gelu(model):
    """Gemma's models have it in every layer."""
    for module in model.modules():
        if hasattr(module, "act_fn") and "gelu" in str(getattr(model.config, "hidden_activation", None)):
            module.act_fn = TheirGelu()
    return model


def say(name, what, value, good):
    print(f"| {name} | {what} | {value} |" + ("" if good else " <- wrong"), flush=True)
    if not good:
        failures.append(f"{name}: {what}")


TEXT = open("README.md", encoding="utf-8").read()


def adapter_on(model, path, size):
    """A LoRA with random values that change what the model says."""
    torch.manual_seed(5)
    config = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", use_rslora=True,
                        rank_pattern={"v_proj": 5}, task_type="CAUSAL_LM")
    adapted = get_peft_model(model, config).eval()
    with torch.no_grad():
        for key, p in adapted.named_parameters():
            if "lora_B" in key:
                p.copy_(size * torch.randn(p.shape))
    adapted.save_pretrained(path)
    return adapted


def made_up(model_type, keys):
    """Random weights that leave nothing at rest."""
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **(SIZES | keys)), attn_implementation="eager")
    generator = torch.Generator().manual_seed(1)
    offset = 0.0 if model_type.startswith("gemma") else 1.0
    with torch.no_grad():
        for key, p in sorted(model.float().named_parameters()):
            draw = torch.randn(p.shape, generator=generator)
            p.copy_(offset + 0.2 * draw if key.endswith("norm.weight") else 0.2 * draw)
    return model.eval()


def families():
    """A LoRA on all layers, merged and beside the model, against PEFT's logits."""
    ids = torch.randint(3, SIZES["vocab_size"], (1, LENGTH), generator=torch.Generator().manual_seed(3))
    for name, (model_type, keys) in FAMILIES.items():
        base, adapter = f"{folder}/{name}", f"{folder}/{name}-adapter"
        made_up(model_type, keys).save_pretrained(base)
        load = lambda: with_their_gelu(AutoModelForCausalLM.from_pretrained(base, attn_implementation="eager", dtype=torch.float32).eval())
        with torch.no_grad():
            plain, adapted = load()(ids).logits[0], adapter_on(load(), adapter, 0.05)(ids).logits[0]
        of_model = ours("merge", "--model", base, "--gguf", "f32", "--output", f"{folder}/{name}.gguf")
        merged = ours("merge", "--model", base, "--adapter", adapter, "--gguf", "f32", "--output", f"{folder}/{name}-merged.gguf")
        lora = ours("convert", adapter, "--model", base, "--to", "gguf", "--output", f"{folder}/{name}-lora.gguf")
        found = {"model": logits(of_model, ids[0].tolist()) - plain, "merged": logits(merged, ids[0].tolist()) - adapted,
                 "with adapter": logits(of_model, ids[0].tolist(), lora) - adapted}
        worst = {what: difference.abs().max().item() for what, difference in found.items()}
        changed = (adapted - plain).abs().max().item()
        say(name, f"f32, largest difference of a logit (the adapter changes {changed:.1f})",
            ", ".join(f"{what} {value:.5f}" for what, value in worst.items()), max(worst.values()) <= MOST < changed)


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
    model = with_their_gelu(AutoModelForCausalLM.from_pretrained(where, gguf_file=file, dtype=torch.float32).eval())
    adapter = f"{folder}/adapter-{name}"
    with torch.no_grad():
        base = model(input_ids=torch.tensor([ids])).logits[0]
        expected = adapter_on(model, adapter, 0.004)(input_ids=torch.tensor([ids])).logits[0]
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


prepare(folder)
print("| model | compared | |\n| --- | --- | --- |")
families()
for path in sys.argv[2:]:
    real(path)
sys.exit("\n".join(["Not equal:", *failures]) if failures else 0)

"""Transformers' and PEFT's numbers for a small model of every family, with random weights.

Usage, from the repository's root, with torch 2.12.1, transformers 5.23 and peft 0.21.2:
    python tests/python/families.py                 writes tests/fixtures/families
    python tests/python/families.py check JOBS.json  opens models and adapters, and writes down their logits
    python tests/python/families.py gguf FILE OUT    what Transformers makes of a GGUF file: ids, logits, greedy text
"""
import copy, json, os, shutil, sys

if os.environ.get("PYTHONHASHSEED") != "0":  # PEFT writes sets into adapter_config.json: fix their order
    os.environ["PYTHONHASHSEED"] = "0"
    os.execv(sys.executable, [sys.executable] + sys.argv)
os.environ["HF_HUB_OFFLINE"] = "1"
import torch
from peft import IA3Config, LoHaConfig, LoraConfig, PeftModel, VeraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)
ROOT = "tests/fixtures/families"
SEQ, STEPS = 13, 30

# No size is a power of two but the two heads of keys; the window is shorter than the rows.
SIZES = dict(vocab_size=37, hidden_size=24, intermediate_size=42, num_hidden_layers=3, num_attention_heads=4,
             num_key_value_heads=2, head_dim=10, max_position_embeddings=64, bos_token_id=1, eos_token_id=2, pad_token_id=0)
WINDOW = 5
LONGROPE = dict(rope_type="longrope", short_factor=[1.0, 1.1, 1.3, 1.7], long_factor=[1.2, 2.0, 4.0, 6.5],
                original_max_position_embeddings=8)
LORA = LoraConfig(r=3, lora_alpha=6, target_modules="all-linear", task_type="CAUSAL_LM")
DORA = LoraConfig(r=3, lora_alpha=6, use_dora=True, target_modules=["q_proj", "o_proj", "up_proj"], task_type="CAUSAL_LM")
IA3 = IA3Config(task_type="CAUSAL_LM")
VERA = VeraConfig(r=5, task_type="CAUSAL_LM")
LOHA = LoHaConfig(r=2, alpha=4, target_modules=["v_proj", "down_proj"], task_type="CAUSAL_LM")
FUSED = LoHaConfig(r=2, alpha=4, target_modules=["qkv_proj", "gate_up_proj"], task_type="CAUSAL_LM")
SMOL = IA3Config(task_type="CAUSAL_LM", target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"])

# name: model_type, keys of its config.json, a second method
CASES = {
    "mistral": ("mistral", dict(sliding_window=WINDOW), DORA),
    "mistral_yarn": ("mistral", dict(sliding_window=None, rope_parameters=dict(
        rope_type="yarn", rope_theta=10000.0, factor=4.0, original_max_position_embeddings=16)), IA3),
    "qwen2": ("qwen2", dict(use_sliding_window=True, sliding_window=WINDOW, max_window_layers=1, tie_word_embeddings=True),
              IA3),
    "qwen2_dynamic": ("qwen2", dict(max_position_embeddings=8, rope_parameters=dict(
        rope_type="dynamic", rope_theta=10000.0, factor=2.0)), VERA),
    "qwen3": ("qwen3", dict(attention_bias=True), VERA),
    "gemma": ("gemma", dict(), LOHA),
    "gemma2": ("gemma2", dict(sliding_window=WINDOW, query_pre_attn_scalar=14, attn_logit_softcapping=3.0,
                              final_logit_softcapping=5.0), IA3),
    "gemma3_text": ("gemma3_text", dict(sliding_window=WINDOW, sliding_window_pattern=3, query_pre_attn_scalar=14,
        rope_parameters=dict(full_attention=dict(rope_type="linear", factor=8.0, rope_theta=1000000.0),
                             sliding_attention=dict(rope_type="default", rope_theta=10000.0))), VERA),
    "phi3": ("phi3", dict(sliding_window=WINDOW), FUSED),
    "phi3_longrope": ("phi3", dict(rope_parameters=LONGROPE | dict(rope_theta=10000.0, partial_rotary_factor=0.8),
                                   original_max_position_embeddings=8, hidden_size=40), FUSED),
    "smollm3": ("smollm3", dict(num_hidden_layers=4, tie_word_embeddings=True), SMOL),
    "olmo2": ("olmo2", dict(), LOHA),
    "granite": ("granite", dict(embedding_multiplier=3.0, attention_multiplier=0.2, residual_multiplier=0.6,
                                logits_scaling=2.5, mlp_bias=True, attention_bias=True, tie_word_embeddings=True), DORA),
}


def made_up(name, model_type, keys):
    """Random weights that leave nothing at rest: gains around one, biases that are not zero."""
    config = AutoConfig.for_model(model_type, **(SIZES | keys))
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").float()
    generator = torch.Generator().manual_seed(sorted(CASES).index(name) + 1)
    offset = 0.0 if model_type.startswith("gemma") else 1.0
    with torch.no_grad():
        for key, p in sorted(model.named_parameters()):
            if key.endswith("norm.weight"):
                p.copy_(offset + 0.2 * torch.randn(p.shape, generator=generator))
            else:
                p.copy_(0.3 * torch.randn(p.shape, generator=generator))
    return model.eval()


def base(folder, dtype=torch.float32):
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=dtype)
    model.config._name_or_path = model.name_or_path = "base"
    return model.eval()


def copies(tensors):
    return {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}


def trained(model):
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def stored(name):
    """The name that PEFT gives a parameter in its files."""
    return name.replace(".default", "").replace("lora_magnitude_vector.weight", "lora_magnitude_vector")


def fresh(model):
    """Dynamic and long rotary embeddings remember the longest text: each case has a model of its own."""
    rotary = model.get_base_model().model.rotary_emb if hasattr(model, "get_base_model") else model.model.rotary_emb
    rotary.max_seq_len_cached = rotary.original_max_seq_len
    return model


def adapt(folder, label, config, ids, labels, out):
    torch.manual_seed(11)
    model = get_peft_model(base(folder), config).eval()
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for _, p in sorted(trained(model).items()):
            p.add_(0.1 * torch.randn(p.shape, generator=generator))
    model.save_pretrained(f"{folder}/{label}")
    os.remove(f"{folder}/{label}/README.md")
    result = fresh(model)(input_ids=ids, labels=labels)
    result.loss.backward()
    out[f"{label}.logits"], out[f"{label}.loss"] = result.logits, result.loss.reshape(1)
    for name, p in trained(model).items():
        out[f"{label}.grad.{stored(name)}"] = p.grad
    train(copy.deepcopy(model), ids, out, label)
    with torch.no_grad():
        merged = fresh(model).merge_and_unload()
        out[f"{label}.merged"] = merged(input_ids=ids).logits


def train(model, ids, out, label):
    """Thirty steps from the adapter that was saved: losses, and at the end the sum of each tensor and of its squares, by name."""
    optimizer = torch.optim.AdamW(trained(model).values(), lr=1e-2, eps=1e-8, weight_decay=0.01)
    losses = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = fresh(model).train()(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    out[f"{label}.losses"] = torch.tensor(losses)
    tensors = {stored(name): p.detach().double() for name, p in trained(model).items()}
    out[f"{label}.end"] = torch.stack([torch.stack([p.sum(), p.square().sum()]) for _, p in sorted(tensors.items())])


def write(name):
    model_type, keys, second = CASES[name]
    folder = f"{ROOT}/{name}"
    shutil.rmtree(folder, ignore_errors=True)
    model = made_up(name, model_type, keys)
    model.save_pretrained(folder)
    os.remove(f"{folder}/generation_config.json")
    ids = torch.randint(3, SIZES["vocab_size"], (2, SEQ), generator=torch.Generator().manual_seed(3))
    mask = torch.ones_like(ids)
    mask[1, :4] = 0  # padding on the left
    labels = ids.clone()
    labels[:, :3] = -100
    out = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    with torch.no_grad():
        states = fresh(base(folder))(input_ids=ids, output_hidden_states=True)
        out["logits"], out["embedded"] = states.logits, states.hidden_states[0]
        out["logits_short"] = fresh(base(folder))(input_ids=ids[:, :6]).logits
        # What is padding computes something else in each library, and nobody reads it.
        out["logits_masked"] = fresh(base(folder))(input_ids=ids, attention_mask=mask).logits
        half = base(folder, torch.bfloat16)(input_ids=ids, output_hidden_states=True)
        out["logits_bf16"], out["embedded_bf16"] = half.logits.float(), half.hidden_states[0].float()
        if "dynamic" not in name:
            settings = dict(max_new_tokens=12, do_sample=False, pad_token_id=0)
            model = base(folder)
            model.generation_config.eos_token_id = None  # texts of one length
            made = model.generate(input_ids=ids * mask, attention_mask=mask, **settings)
            out["generated"] = made[:, SEQ:]
    adapt(folder, "lora", LORA, ids, labels, out)
    adapt(folder, "second", second, ids, labels, out)
    save_file(copies(out), f"{folder}/case.safetensors")


def check(path):
    for job in json.load(open(path)):
        model = AutoModelForCausalLM.from_pretrained(job["base"], attn_implementation="eager", dtype=torch.float32)
        if job["adapter"]:
            model = PeftModel.from_pretrained(model, job["adapter"])
        ids = load_file(job["inputs"])["input_ids"]
        with torch.no_grad():
            save_file({"logits": fresh(model.eval())(input_ids=ids).logits.contiguous()}, job["out"])


TEXTS = ["The first snow fell early this year, and", "def add(a, b):\n    return a +  b  # 12345\n\n", "Grüße aus 東京! 🙂 it's they're",
         "  two spaces,\ttabs\r\n and\n\n\nlines"]


def gguf(path, out):
    folder, name = os.path.split(path)
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, attn_implementation="eager", dtype=torch.float32)
    tensors = {}
    for i, text in enumerate(TEXTS):
        tensors[f"ids.{i}"] = torch.tensor(tokenizer(text)["input_ids"])
    ids = tensors["ids.0"][None]
    with torch.no_grad():
        tensors["logits"] = model.eval()(input_ids=ids).logits
        made = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, do_sample=False)
    tensors["generated"] = made[0, ids.shape[1]:]
    save_file(copies(tensors), out)


if __name__ == "__main__":
    if sys.argv[1:2] == ["check"]:
        check(sys.argv[2])
    elif sys.argv[1:2] == ["gguf"]:
        gguf(*sys.argv[2:])
    else:
        for name in sys.argv[1:] or CASES:
            write(name)

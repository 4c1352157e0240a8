"""PEFT's numbers for LoHa: writes tests/fixtures/goldens/loha and x_loha_pattern, from the base and the batch there.

Usage, from the repository's root, with torch 2.12.1, transformers 5.23 and peft 0.21.2:
    python tests/python/loha_goldens.py
"""
import contextlib, io, json, os, shutil, sys

if os.environ.get("PYTHONHASHSEED") != "0":  # PEFT writes sets into adapter_config.json: fix their order
    os.environ["PYTHONHASHSEED"] = "0"
    os.execv(sys.executable, [sys.executable] + sys.argv)
import torch
from peft import LoHaConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)
GOLDENS = "tests/fixtures/goldens"
SEED, STEPS = 1234, 30
inputs = load_file(f"{GOLDENS}/inputs.safetensors")
IDS = {"input_ids": inputs["input_ids"]}
LABELS = {**IDS, "labels": inputs["labels"]}
MASKED = {**IDS, "attention_mask": inputs["attention_mask"]}
# The batches may be stored a step a row, or two rows a step.
TRAIN = inputs["train_ids"].reshape(STEPS, 2, -1)


def base():
    model = LlamaForCausalLM.from_pretrained(f"{GOLDENS}/base", attn_implementation="eager", dtype=torch.float32)
    model.config._name_or_path = model.name_or_path = "base"
    return model.eval()


def saved(name):
    return name.removesuffix(".default")


def copies(tensors):
    return {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}


def trained(model):
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def run(name, config, train):
    folder = f"{GOLDENS}/{name}"
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    torch.manual_seed(SEED + 5)
    model = get_peft_model(base(), config).eval()
    line = io.StringIO()
    with contextlib.redirect_stdout(line):
        model.print_trainable_parameters()
    model.save_pretrained(f"{folder}/adapter_init")
    start = copies(trained(model))
    result = {}
    with torch.no_grad():
        result["logits_init"] = model(**IDS).logits
        generator = torch.Generator().manual_seed(7)
        for _, p in sorted(trained(model).items()):
            p.add_(0.1 * torch.randn(p.shape, generator=generator))
    model.save_pretrained(f"{folder}/adapter")
    out = model(**LABELS)
    out.loss.backward()
    result |= {"logits": out.logits, "loss": out.loss.reshape(1)}
    save_file(copies({saved(n): p.grad for n, p in trained(model).items()}), f"{folder}/grads.safetensors")
    with torch.no_grad():
        result["logits_masked"] = model(**MASKED).logits
        model.merge_adapter(safe_merge=True)
        result["logits_merged"] = model(**IDS).logits
        weights = {n.removeprefix("base_model.model.").replace(".base_layer", ""): p for n, p in model.named_parameters()}
        plain = base().state_dict()
        moved = {n: w for n, w in weights.items() if ".layers.0." in n and n in plain and not torch.equal(w, plain[n])}
        save_file(copies(moved), f"{folder}/merged.safetensors")
        model.unmerge_adapter()
    save_file(copies(result), f"{folder}/forward.safetensors")
    if train:
        with torch.no_grad():
            for n, p in trained(model).items():
                p.copy_(start[n])
        model.train()
        optimizer = torch.optim.AdamW(trained(model).values(), lr=1e-2, eps=1e-8, weight_decay=0.01)
        steps = []
        for ids in TRAIN:
            optimizer.zero_grad()
            loss = model(input_ids=ids, labels=ids).loss
            loss.backward()
            optimizer.step()
            steps.append({"loss": loss.item()})
        model.eval().save_pretrained(f"{folder}/adapter_final")
        with torch.no_grad():
            save_file({"logits": model(**IDS).logits.contiguous()}, f"{folder}/final_forward.safetensors")
        with open(f"{folder}/trajectory.json", "w") as file:
            json.dump({"steps": steps}, file, indent=1)
    with open(f"{folder}/meta.json", "w") as file:
        json.dump({"base": "base", "print_trainable_parameters": line.getvalue().strip()}, file, indent=1)
    for readme in [f"{folder}/{part}/README.md" for part in ("adapter", "adapter_init", "adapter_final")]:
        if os.path.exists(readme):
            os.remove(readme)


# Its factors of rank 16 are cheaper than the update in every projection.
run("loha", LoHaConfig(r=4, alpha=8, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"], task_type="CAUSAL_LM"), True)
# With rank 8 the update itself is cheaper.
pattern = dict(rank_pattern={"layers.0.self_attn.q_proj": 8, "down_proj": 2}, alpha_pattern={"q_proj": 16})
run("x_loha_pattern", LoHaConfig(r=4, alpha=8, target_modules="all-linear", task_type="CAUSAL_LM", **pattern), False)

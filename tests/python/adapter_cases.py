"""Makes tests/fixtures/adapters: adapters as people have them, written by PEFT 0.21.2, and the loss that PEFT computes.

usage: adapter_cases.py OUTPUT, a folder that is made or replaced. Made with torch 2.12.1, transformers 5.23.0, peft 0.21.2.

`base` is a small tied Llama, `base_bin` the same as a `pytorch_model.bin`, `bias` one with biases of its own. Each other folder is an adapter; `expected.json` holds the mean loss over target
tokens of rows.jsonl (`resized`: of rows_resized.jsonl).
"""
import json, os, shutil, sys, warnings
os.environ["HF_HUB_OFFLINE"] = "1"
warnings.simplefilter("ignore")
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from small_llama import into_new_folder, mean_loss, write_rows

into_new_folder(sys.argv[1])
VOCAB, ADDED = 64, 6
prefix = "base_model.model."


def base(name, **more):
    torch.manual_seed(7)
    config = LlamaConfig(vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
                         num_key_value_heads=2, max_position_embeddings=64, initializer_range=0.2, bos_token_id=1,
                         eos_token_id=2, pad_token_id=0, **{"tie_word_embeddings": True, **more})
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for key, value in model.named_parameters():
            if key.endswith("bias"):
                value.normal_(0, 0.1)
    model.save_pretrained(name)
    os.remove(os.path.join(name, "generation_config.json"))


def load(name="base"):
    return AutoModelForCausalLM.from_pretrained(name, attn_implementation="eager", dtype=torch.float32)


def train(model, seed=3):
    """Stands for training: every trained number moves."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for _, value in model.named_parameters():
            if value.requires_grad:
                value += 0.15 * torch.randn_like(value)
    return model


expected = {}


def case(name, of="base", save=None, prepare=None, keep=True, **config):
    settings = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}
    model = load(of)
    if prepare:
        prepare(model)
    torch.manual_seed(1)
    model = train(get_peft_model(model, LoraConfig(**{**settings, **config})))
    model.save_pretrained(name, **(save or {}))
    if os.path.exists(f"{name}/README.md"):
        os.remove(f"{name}/README.md")
    if keep:
        expected[name] = mean_loss(model, "rows_resized.jsonl" if name.startswith("resized") else "rows.jsonl")
    return model


def copy(name, source, change_config=None, rename=None):
    """The adapter `source` under another configuration or with tensors of other names; the loss is the same."""
    shutil.copytree(source, name)
    path = f"{name}/adapter_config.json"
    config = json.load(open(path))
    config.update(change_config or {})
    json.dump(config, open(path, "w"), indent=2, sort_keys=True)
    if rename:
        tensors = load_file(f"{name}/adapter_model.safetensors")
        save_file({rename(key): value for key, value in tensors.items()}, f"{name}/adapter_model.safetensors", {"format": "pt"})
    expected[name] = expected[source]


base("base")
# The same base as `torch.save` writes it.
os.makedirs("base_bin")
shutil.copy("base/config.json", "base_bin")
torch.save(load_file("base/model.safetensors"), "base_bin/pytorch_model.bin")
base("bias", tie_word_embeddings=False, attention_bias=True, mlp_bias=True)
write_rows("rows.jsonl", VOCAB)
write_rows("rows_resized.jsonl", VOCAB + ADDED)
expected["base"] = mean_loss(load(), "rows.jsonl")

# How it was made no longer matters.
case("plain")
case("dora", use_dora=True)
copy("eva", "plain", {"init_lora_weights": "eva", "eva_config": {"rho": 2.0, "tau": 0.99, "use_label_mask": True, "label_mask_value": -100, "whiten": False, "adjust_scaling_factors": True}})
copy("corda", "plain", {"init_lora_weights": "corda", "corda_config": {"corda_method": "ipm"}})
copy("loftq", "plain", {"init_lora_weights": "loftq", "loftq_config": {"loftq_bits": 4, "loftq_iter": 1}})
copy("init_to_come", "plain", {"init_lora_weights": "of_2030"})
case("orthogonal", init_lora_weights="orthogonal")

# Targets of other architectures.
copy("other_targets", "plain", {"target_modules": ["q_proj", "v_proj", "c_attn", "query_key_value"]})
copy("other_modules_to_save", "plain", {"modules_to_save": ["score", "classifier"]})

# What PEFT adds by itself.
case("head_target", target_modules=["lm_head", "q_proj"])
case("embedding_target", target_modules=["embed_tokens", "q_proj"])
case("head_and_embedding_target", target_modules=["embed_tokens", "lm_head", "v_proj"])
case("save_emb", save={"save_embedding_layers": True})
case("save_emb_trained", save={"save_embedding_layers": True}, prepare=lambda model: model.get_input_embeddings().weight.data.mul_(1.3))
case("resized", prepare=lambda model: model.resize_token_embeddings(VOCAB + ADDED, mean_resizing=False))
case("resized_mts", prepare=lambda model: model.resize_token_embeddings(VOCAB + ADDED, mean_resizing=False), modules_to_save=["embed_tokens", "lm_head"])
case("resized_untied", of="bias", prepare=lambda model: model.resize_token_embeddings(VOCAB + ADDED, mean_resizing=False), save={"save_embedding_layers": True})

# Tied pairs.
case("mts_tie", modules_to_save=["embed_tokens"], ensure_weight_tying=True)
case("mts_tie_head", modules_to_save=["lm_head"], ensure_weight_tying=True)
case("tokens_tie", trainable_token_indices=[5, 9], ensure_weight_tying=True)
case("target_tie", target_modules=["embed_tokens", "v_proj"], ensure_weight_tying=True)

# Biases, norms and any other parameter.
case("norms", modules_to_save=["input_layernorm", "post_attention_layernorm", "norm"])
case("norm_and_embedding", modules_to_save=["embed_tokens", "norm"])
case("longlora", modules_to_save=["embed_tokens", "input_layernorm", "post_attention_layernorm", "norm"], target_modules=["q_proj", "k_proj", "v_proj", "o_proj"])
case("projection_with_bias", of="bias", modules_to_save=["o_proj", "up_proj"])
case("all_biases", of="bias", bias="all")

# A part of the base inside the adapter.
for init in ("pissa", "olora", "pissa_niter_4"):
    model = case(init, init_lora_weights=init, keep=init != "pissa_niter_4")
torch.manual_seed(1)
first = get_peft_model(load(), LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", init_lora_weights="pissa_niter_4"))
first.peft_config["default"].init_lora_weights = True
first.save_pretrained("first")
model = train(first)
expected["pissa_niter_4"] = mean_loss(model, "rows.jsonl")
model.save_pretrained("pissa_niter_4_as_lora", path_initial_model_for_weight_conversion="first")
expected["pissa_niter_4_as_lora"] = expected["pissa_niter_4"]
os.remove("pissa_niter_4_as_lora/README.md")
# What the decomposition left of the base, as a base.
residual = {key.removeprefix(prefix).replace(".base_layer", ""): value for key, value in model.state_dict().items() if "lora_" not in key}
os.makedirs("pissa_niter_4_base")
shutil.copy("base/config.json", "pissa_niter_4_base")
save_file({key: value.contiguous() for key, value in residual.items() if key != "lm_head.weight"}, "pissa_niter_4_base/model.safetensors", {"format": "pt"})
shutil.rmtree("first")

# Other files and other spellings.
case("bin", save={"safe_serialization": False})
trained = torch.load("bin/adapter_model.bin")
for name, dtype, zipped in (("bin_legacy", torch.float32, False), ("bin_bf16", torch.bfloat16, True), ("bin_f16_legacy", torch.float16, False)):
    os.makedirs(name)
    shutil.copy("bin/adapter_config.json", name)
    tensors = {key: value.to(dtype) for key, value in trained.items()}
    torch.save(tensors, f"{name}/adapter_model.bin", _use_new_zipfile_serialization=zipped)
    expected[name] = mean_loss(PeftModel.from_pretrained(load(), name), "rows.jsonl")
copy("without_prefix", "plain", rename=lambda key: key.removeprefix(prefix))
copy("with_adapter_name", "plain", rename=lambda key: key.replace(".weight", ".default.weight"))
copy("vllm", "plain", rename=lambda key: key.removeprefix(prefix).replace("lora_A.weight", "lora_A").replace("lora_B.weight", "lora_B"))
copy("dora_older", "dora", rename=lambda key: key.replace("lora_magnitude_vector", "lora_magnitude_vector.weight"))
copy("dora_with_adapter_name", "dora", rename=lambda key: key.replace("lora_magnitude_vector", "lora_magnitude_vector.default.weight").replace("A.weight", "A.default.weight").replace("B.weight", "B.default.weight"))
for name in ("lora", "dora"):
    # As mlx-lm 0.21 writes them: A and B the other way round, `scale` in the place of alpha / r.
    source = load_file(f"{'plain' if name == 'lora' else 'dora'}/adapter_model.safetensors")
    os.makedirs(f"mlx_{name}")
    spelled = {"lora_A.weight": "lora_a", "lora_B.weight": "lora_b", "lora_magnitude_vector": "m"}
    tensors = {}
    for key, value in source.items():
        old = next(old for old in spelled if key.endswith(old))
        tensors[key.removeprefix(prefix).replace(old, spelled[old])] = (value.T if value.dim() == 2 else value).contiguous()
    save_file(tensors, f"mlx_{name}/adapters.safetensors", {"format": "mlx"})
    json.dump({"adapter_path": "adapters", "fine_tune_type": name, "model": "base", "num_layers": 2,
               "lora_parameters": {"rank": 4, "scale": 2.0, "dropout": 0.0, "keys": ["self_attn.q_proj", "self_attn.v_proj"]}},
              open(f"mlx_{name}/adapter_config.json", "w"), indent=2, sort_keys=True)
    expected[f"mlx_{name}"] = expected["plain" if name == "lora" else "dora"]

# Every case as PEFT reads it again from its files, where it can.
again = {}
for name in sorted(os.listdir(".")):
    if not os.path.exists(f"{name}/adapter_config.json") or name.startswith(("mlx", "resized", "corda", "loftq", "init_to")):
        continue
    try:
        of = "bias" if name in ("projection_with_bias", "all_biases") else "base"
        again[name] = mean_loss(PeftModel.from_pretrained(load(of), name), "rows.jsonl")
    except Exception as error:
        again[name] = f"{type(error).__name__}: {error}"[:200]
for name, value in again.items():
    if value != expected[name]:
        print(f"{name}: {expected[name]} in memory, {value} when PEFT reads it again")
json.dump(dict(sorted(expected.items())), open("expected.json", "w"), indent=2)

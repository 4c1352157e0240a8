"""Makes tests/fixtures/variants: further adapters as PEFT 0.21.2 writes them, and the loss that PEFT computes.

usage: variant_cases.py OUTPUT, a folder that is made or replaced. Made with torch 2.12.1, transformers 5.23.0, peft 0.21.2.

`tied`, `untied` and `bias` are small Llamas, each other folder an adapter. `cases.json` lists for each its base, its rows and the mean loss over
target tokens; `trained` is the loss after that many steps of AdamW (`small_llama.train`) on the same rows. Those without a loss are refused.
"""
import json, os, shutil, sys, warnings
os.environ["HF_HUB_OFFLINE"] = "1"
warnings.simplefilter("ignore")
import torch
from peft import AdaLoraConfig, IA3Config, LoHaConfig, LoraConfig, PeftModel, VeraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from small_llama import into_new_folder, mean_loss, train, write_rows

into_new_folder(sys.argv[1])
VOCAB, STEPS, RATE = 48, 4, 1e-2


def base(name, **more):
    torch.manual_seed(7)
    config = LlamaConfig(vocab_size=VOCAB, hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=2,
                         num_key_value_heads=1, max_position_embeddings=64, initializer_range=0.3, bos_token_id=1,
                         eos_token_id=2, pad_token_id=0, **{"tie_word_embeddings": True, **more})
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for key, value in model.named_parameters():
            if key.endswith("bias"):
                value.normal_(0, 0.1)
    model.save_pretrained(name)
    os.remove(os.path.join(name, "generation_config.json"))


def load(name, vocab=VOCAB):
    model = AutoModelForCausalLM.from_pretrained(name, attn_implementation="eager", dtype=torch.float32)
    if vocab != VOCAB:
        model.resize_token_embeddings(vocab, mean_resizing=False)
    return model


cases = []


def case(name, config, of="tied", vocab=VOCAB, save=None, steps=False, loads=True):
    model = load(of, vocab)
    torch.manual_seed(1)
    model = get_peft_model(model, config)
    torch.manual_seed(3)
    with torch.no_grad():
        for _, value in model.named_parameters():
            if value.requires_grad:
                value += 0.2 * torch.randn_like(value)
    rows = f"rows_{vocab}.jsonl"
    model.save_pretrained(name, **(save or {}))
    if os.path.exists(f"{name}/README.md"):
        os.remove(f"{name}/README.md")
    # Sets are written in any order.
    saved = json.load(open(f"{name}/adapter_config.json"))
    for key in ("target_modules", "modules_to_save"):
        saved[key] = sorted(saved[key]) if isinstance(saved.get(key), list) else saved.get(key)
    json.dump(saved, open(f"{name}/adapter_config.json", "w"), indent=2, sort_keys=True)
    entry = {"name": name, "base": of, "rows": rows, "loss": mean_loss(model, rows) if loads else None}
    if steps:
        again = PeftModel.from_pretrained(load(of, vocab), name, is_trainable=True)
        assert abs(mean_loss(again, rows) - entry["loss"]) < 2e-6
        train(again, rows, STEPS, RATE)
        entry["trained"] = mean_loss(again, rows)
    cases.append(entry)


def rewritten(name, source, change):
    shutil.copytree(source, name)
    tensors = change(load_file(f"{name}/adapter_model.safetensors"))
    save_file({key: value.contiguous() for key, value in tensors.items()}, f"{name}/adapter_model.safetensors", {"format": "pt"})
    entry = next(entry for entry in cases if entry["name"] == source)
    model = PeftModel.from_pretrained(load(entry["base"]), source)
    model.load_state_dict({key: value.to(torch.float16).float() if "lora" in key or "modules_to_save" in key else value for key, value in model.state_dict().items()})
    cases.append({**entry, "name": name, "loss": mean_loss(model, entry["rows"]) if name == "f16" else entry["loss"]})


def lora(**more):
    return LoraConfig(**{"r": 3, "lora_alpha": 6, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM", **more})


base("tied")
base("untied", tie_word_embeddings=False)
base("bias", tie_word_embeddings=False, attention_bias=True, mlp_bias=True)
SMALL, LARGE = VOCAB - 4, VOCAB + 8
for vocab in (VOCAB, SMALL, LARGE):
    write_rows(f"rows_{vocab}.jsonl", vocab)
plain = {"task_type": "CAUSAL_LM"}

# Ranks, scales, targets
case("ranks_by_regex", lora(target_modules=["q_proj", "k_proj", "down_proj"], use_rslora=True, alpha_pattern={r"layers\.2\.mlp\.down_proj": 12},
                            rank_pattern={r"^model\.layers\.0\.self_attn\.q_proj$": 2, r"layers\.[12]\..*k_proj": 5, "down_proj": 1}))
case("all_linear_dora", lora(target_modules="all-linear", use_dora=True), of="untied")
case("some_layers", lora(layers_to_transform=[0, 2], layers_pattern=["layers", "h"]))
case("excluded", lora(target_modules="all-linear", exclude_modules=["down_proj", "layers.0.self_attn.q_proj"]))
case("excluded_by_regex", lora(target_modules=r".*\.(q_proj|up_proj)", exclude_modules=r".*layers\.(0|1)\.mlp.*"))
case("lora_bias_everywhere", lora(lora_bias=True, use_rslora=True, target_modules="all-linear"))
case("biases_of_adapted", lora(bias="lora_only", target_modules=["o_proj", "down_proj"]), of="bias")

# What is trained whole
case("dora_and_embedding", lora(use_dora=True, modules_to_save=["embed_tokens"]), steps=True)
case("dora_and_head", lora(use_dora=True, modules_to_save=["lm_head"]), of="untied")
case("dora_on_embedding", lora(use_dora=True, use_rslora=True, target_modules=["embed_tokens", "q_proj"]))
case("one_norm_and_head", lora(modules_to_save=["layers.1.input_layernorm", "lm_head"]), of="untied")
case("whole_block", lora(modules_to_save=["layers.2.self_attn"], target_modules=["up_proj"]))
case("whole_mlp_with_biases", lora(modules_to_save=["mlp"]), of="bias")

# Tokens and vocabularies
case("tokens_by_name", lora(trainable_token_indices={"embed_tokens": [4, 9]}), of="untied", steps=True)
case("tokens_and_embeddings", lora(trainable_token_indices=[3, 5]), save={"save_embedding_layers": True}, steps=True)
case("grown_tokens", lora(trainable_token_indices=[VOCAB, VOCAB + 1, LARGE - 1]), vocab=LARGE, steps=True)
case("grown_tokens_untied", lora(trainable_token_indices=[7, VOCAB + 1]), of="untied", vocab=LARGE)
case("shrunk", lora(), vocab=SMALL, steps=True)
case("shrunk_untied", lora(use_dora=True), of="untied", vocab=SMALL, save={"save_embedding_layers": True}, steps=True)
case("grown", lora(use_dora=True), of="untied", vocab=LARGE, steps=True)
case("grown_and_tied", lora(modules_to_save=["embed_tokens"], ensure_weight_tying=True), vocab=LARGE, steps=True)
case("grown_and_adapted", lora(target_modules=["embed_tokens", "q_proj"]), vocab=LARGE, loads=False)
case("tokens_of_the_head", lora(trainable_token_indices={"embed_tokens": [4, 9], "lm_head": [4, 9, 11]}), of="untied", steps=True)
case("tokens_of_the_head_alone", lora(trainable_token_indices={"lm_head": [11, 3]}, use_dora=True), of="untied", steps=True)
case("tokens_of_a_tied_head", lora(trainable_token_indices={"embed_tokens": [4, 9], "lm_head": [9, 4]}), steps=True)
case("tokens_of_a_tied_head_alone", lora(trainable_token_indices={"lm_head": [7, 5, 6]}), steps=True)
case("same_tokens_of_a_tied_head", lora(trainable_token_indices={"embed_tokens": [4, 9], "lm_head": [4, 9]}), steps=True)
case("grown_tokens_of_both", lora(trainable_token_indices={"embed_tokens": [VOCAB, 7], "lm_head": [VOCAB + 1]}), of="untied", vocab=LARGE, steps=True)
case("tied_copies", lora(modules_to_save=["lm_head"], ensure_weight_tying=True), steps=True)
case("tied_tokens", lora(trainable_token_indices=[3, 7], ensure_weight_tying=True), steps=True)
case("tied_targets", lora(target_modules=["embed_tokens", "v_proj"], ensure_weight_tying=True))

# Other methods
case("adalora_and_head", AdaLoraConfig(init_r=4, target_r=2, total_step=10, target_modules=["q_proj"], modules_to_save=["lm_head", "norm"], **plain), of="untied")
case("vera_and_biases", VeraConfig(r=6, target_modules="all-linear", bias="vera_only", d_initial=0.3, **plain), of="bias")
case("vera_without_projection", VeraConfig(r=6, target_modules=["up_proj"], save_projection=False, projection_prng_key=5, modules_to_save=["embed_tokens"], **plain))
case("ia3_by_regex", IA3Config(target_modules=r".*\.(k_proj|up_proj|down_proj)", feedforward_modules=r".*\.(down_proj)", modules_to_save=["norm"], **plain))
case("loha_and_head", LoHaConfig(r=3, alpha=6, target_modules=["q_proj", "down_proj"], rank_pattern={"down_proj": 2}, modules_to_save=["lm_head"], **plain), of="untied")

# Other files
case("bin_dora", lora(use_dora=True), save={"safe_serialization": False})
rewritten("f16", "dora_and_embedding", lambda tensors: {key: value.half() for key, value in tensors.items()})
rewritten("wrapped", "ranks_by_regex", lambda tensors: {key.replace("base_model.model.", "module.base_model.model._orig_mod."): value for key, value in tensors.items()})
os.makedirs("named")
os.rename("excluded", "named/mine")
os.rename("some_layers", "named/other")
for entry in cases:
    entry["name"] = {"excluded": "named/mine", "some_layers": "named/other"}.get(entry["name"], entry["name"])

json.dump({"steps": STEPS, "lr": RATE, "cases": cases}, open("cases.json", "w"), indent=1)

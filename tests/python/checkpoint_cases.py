"""Makes tests/fixtures/checkpoints: models as people have them, and the loss that Transformers computes.

usage: checkpoint_cases.py OUTPUT, a folder that is made or replaced. Made with torch 2.12.1, transformers 5.23.0.

Each folder is a model; `expected.json` holds the mean loss over target tokens of rows.jsonl. `tuned_bf16` is `tied` with other
weights, of which `peft convert --from-model` makes an adapter.
"""
import json, os, sys, warnings
os.environ["HF_HUB_OFFLINE"] = "1"
warnings.simplefilter("ignore")
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from small_llama import into_new_folder, mean_loss, write_rows

into_new_folder(sys.argv[1])
VOCAB = 64
WEIGHTS = "model.safetensors"


def model(seed=11, **more):
    torch.manual_seed(seed)
    config = LlamaConfig(vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
                         num_key_value_heads=2, max_position_embeddings=64, initializer_range=0.2, bos_token_id=1,
                         eos_token_id=2, pad_token_id=0, **{"tie_word_embeddings": True, **more})
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for key, value in model.named_parameters():
            if "norm" in key:
                value += 0.1 * torch.randn_like(value)
    return model


expected = {}


def write(name, tensors, config, torch_save=None, loads=True):
    """A folder of these tensors, and what Transformers computes with it."""
    os.makedirs(name, exist_ok=True)
    json.dump(config, open(f"{name}/config.json", "w"), indent=2)
    if torch_save is None:
        save_file({key: value.contiguous().clone() for key, value in tensors.items()}, f"{name}/{WEIGHTS}", {"format": "pt"})
    else:
        torch_save(tensors)
    if loads:
        loaded = AutoModelForCausalLM.from_pretrained(name, attn_implementation="eager", dtype=torch.float32)
        expected[name] = mean_loss(loaded, "rows.jsonl")


def legacy(name):
    return lambda tensors: torch.save(tensors, f"{name}/pytorch_model.bin", _use_new_zipfile_serialization=False)


def zipped(name):
    return lambda tensors: torch.save(tensors, f"{name}/pytorch_model.bin")


def sharded(name):
    def save(tensors):
        names = sorted(tensors)
        parts = [names[: len(names) // 2], names[len(names) // 2:]]
        files = [f"pytorch_model-0000{i + 1}-of-00002.bin" for i in range(2)]
        for file, part in zip(files, parts):
            torch.save({key: tensors[key] for key in part}, f"{name}/{file}")
        index = {"metadata": {}, "weight_map": {key: file for file, part in zip(files, parts) for key in part}}
        json.dump(index, open(f"{name}/pytorch_model.bin.index.json", "w"), indent=2)
    return save


write_rows("rows.jsonl", VOCAB)
tied = model()
config = {key: value for key, value in tied.config.to_dict().items() if value is not None}
tensors = {key: value.detach() for key, value in tied.state_dict().items()}
body = {key: value for key, value in tensors.items() if key != "lm_head.weight"}
write("tied", body, config)
write("tied_repeated", tensors, config)
write("tied_head_alone", {key: value for key, value in tensors.items() if "embed_tokens" not in key}, config)

# A stored head that is another than the embedding, though the configuration ties them.
torch.manual_seed(2)
head = {"lm_head.weight": tensors["lm_head.weight"] + 0.2 * torch.randn(VOCAB, 32)}
write("head_differs", {**body, **head}, config)
write("head_differs_bin", {**body, **head}, config, zipped("head_differs_bin"))

# Names and tensors beside the usual ones.
write("without_prefix", {key.removeprefix("model."): value for key, value in body.items()}, config)
# Some names with `model.` and others without: the embedding's says nothing of the layers'.
part = lambda key, bare: key.removeprefix("model.") if bare else key
write("mixed_prefixes", {part(key, "layers.1" in key or "norm" in key): value for key, value in body.items()}, config)
write("mixed_bare_first", {part(key, "embed" in key or "layers.0" in key): value for key, value in body.items()}, config)
write("wrapped", {"module._orig_mod." + key: value for key, value in {**body, **head}.items()}, config, loads=False)
# What Transformers computes with the names as they should be.
expected["wrapped"] = expected["head_differs"]
extra = {"v_head.summary.weight": torch.randn(1, 32), "v_head.summary.bias": torch.randn(1),
         "model.layers.0.self_attn.rotary_emb.inv_freq": torch.randn(4), "model.layers.1.self_attn.masked_bias": torch.tensor(-1e4)}
write("extra_tensors", {**body, **extra}, config)

# Settings that change nothing about the products.
write("settings", body, {**config, "attention_dropout": 0.25, "pretraining_tp": 2, "torch_dtype": "auto", "dtype": "auto"}, loads=False)
expected["settings"] = expected["tied"]

# torch.save: zip, legacy, shards, shared storages, views, two other dtypes.
write("bin", tensors, config, zipped("bin"))
write("bin_legacy", tensors, config, legacy("bin_legacy"))
write("bin_sharded", body, config, sharded("bin_sharded"))
stride = {key: value.T.contiguous().T if value.dim() == 2 else value for key, value in body.items()}
block = torch.zeros(3, 32)
block[1] = body["model.norm.weight"]
stride["model.norm.weight"] = block[1]
write("bin_views", stride, config, zipped("bin_views"))
write("bin_views_legacy", stride, config, legacy("bin_views_legacy"))
for name, dtype in (("bf16", torch.bfloat16), ("f16", torch.float16)):
    halves = {key: value.to(dtype) for key, value in body.items()}
    write(f"bin_{name}", halves, {**config, "dtype": str(dtype).removeprefix("torch.")}, zipped(f"bin_{name}"))
write("state_dict_inside", {"state_dict": body, "epoch": 3}, config, zipped("state_dict_inside"), loads=False)
expected["state_dict_inside"] = expected["tied"]

# A fine-tuned model: a low-rank change of the projections, another embedding, another norm.
torch.manual_seed(3)
tuned = dict(body)
for key, value in body.items():
    if "q_proj" in key or "down_proj" in key:
        tuned[key] = value + 0.1 * torch.randn(value.shape[0], 3) @ torch.randn(3, value.shape[1])
    if "up_proj" in key:
        tuned[key] = value + 0.02 * torch.randn_like(value)
tuned["model.norm.weight"] = body["model.norm.weight"] * 1.1
tuned["model.embed_tokens.weight"] = body["model.embed_tokens.weight"] + 0.05 * torch.randn(VOCAB, 32)
write("tuned", tuned, config)
# What a decomposition cut to rank 4 leaves of each change, as a share of it.
errors = {}
for key in tuned:
    if key.endswith("_proj.weight") and not torch.equal(tuned[key], body[key]):
        delta = (tuned[key] - body[key]).double()
        s = torch.linalg.svdvals(delta)
        errors[key.removesuffix(".weight")] = (s[4:].norm() / s.norm()).item()
json.dump({"losses": dict(sorted(expected.items())), "errors_at_rank_4": errors}, open("expected.json", "w"), indent=2)

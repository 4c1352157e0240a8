"""GGUF files for tests, written with gguf-py as llama.cpp's converter writes them.

Usage, from the repository's root, with gguf 0.19, libgguf 0.2.2 (ggml's encoders), torch 2.12.1 and safetensors:
    python tests/python/gguf_cases.py          writes tests/fixtures/gguf, from tests/fixtures/families
    python tests/python/gguf_cases.py read FILE OUT.safetensors   writes down what gguf-py reads
"""
import json, os, shutil, sys

import numpy as np
import torch
from gguf import GGUFReader, GGUFWriter, RopeScalingType
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType as Type
from gguf.quants import dequantize, quantize
from safetensors.torch import load_file, save_file

ROOT = "tests/fixtures/gguf"
FAMILIES = "tests/fixtures/families"
# Where a block's halves of 16 bits are: the others are codes, and any byte is one.
TYPES = {Type.Q4_0: [0], Type.Q4_1: [0, 2], Type.Q5_0: [0], Type.Q5_1: [0, 2], Type.Q8_0: [0], Type.Q2_K: [80, 82],
         Type.Q3_K: [108], Type.Q4_K: [0, 2], Type.Q5_K: [0, 2], Type.Q6_K: [208], Type.IQ4_NL: [0], Type.IQ4_XS: [0]}
LAYER = {"input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
         "self_attn.v_proj": "attn_v", "self_attn.qkv_proj": "attn_qkv", "self_attn.o_proj": "attn_output",
         "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm", "mlp.gate_proj": "ffn_gate",
         "mlp.up_proj": "ffn_up", "mlp.gate_up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
         "pre_feedforward_layernorm": "ffn_norm", "post_feedforward_layernorm": "post_ffw_norm"}


def write(name, arch, fill):
    """Alignment is another than the usual one in every second file."""
    writer = GGUFWriter(f"{ROOT}/{name}.gguf", arch)
    if len(name) % 2:
        writer.add_custom_alignment(64)
    fill(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def types(writer):
    generator, expected = np.random.default_rng(5), {}
    for kind, halves in TYPES.items():
        block, size = GGML_QUANT_SIZES[kind]
        rows, blocks = 2, 3
        raw = generator.integers(0, 256, (rows, blocks, size), dtype=np.uint8)
        for at in halves:
            scales = generator.normal(0, 0.05, (rows, blocks)).astype(np.float16)
            raw[:, :, at:at + 2] = scales.view(np.uint8).reshape(rows, blocks, 2)
        raw = raw.reshape(rows, blocks * size)
        writer.add_tensor(kind.name, raw, raw_dtype=kind)
        expected[kind.name] = torch.from_numpy(dequantize(raw, kind).reshape(rows, blocks * block).copy())
    plain = generator.normal(0, 1, (3, 5)).astype(np.float32)
    writer.add_tensor("F32", plain)
    writer.add_tensor("F16", plain.astype(np.float16))
    expected["F32"], expected["F16"] = torch.from_numpy(plain), torch.from_numpy(plain).half().float()
    half = torch.from_numpy(plain).bfloat16()
    writer.add_tensor("BF16", half.view(torch.int16).numpy().view(np.uint8).reshape(3, 10), raw_dtype=Type.BF16)
    expected["BF16"] = half.float()
    save_file(expected, f"{ROOT}/types.safetensors")


def encoded():
    """What ggml's encoders make of numbers of every kind: the bytes of each type that is written."""
    from libgguf.libgguf_numpy import quantize as encode

    generator = np.random.default_rng(9)
    draw = lambda *shape: generator.normal(0, 1, shape)
    blocks = [draw(256) * 0.02, draw(256) * 0.02, draw(256) * np.exp(2 * draw(256)), generator.standard_t(2, 256),
              np.abs(draw(256)), -np.abs(draw(256)) - 1, draw(256) * 1e-9, draw(256) * 1e-20, draw(256) * 1e4,
              np.zeros(256), np.full(256, 0.3), np.full(256, -0.3), np.round(draw(256) * 4) / 8,
              draw(256) * np.repeat(np.exp(3 * draw(8)), 32), np.repeat([1.0, 0.0, -1.0, 0.0], 64),
              np.where(np.arange(256) == 77, 50.0, draw(256) * 0.01), np.tile(np.linspace(-1, 1, 32), 8)]
    values = np.stack(blocks).astype(np.float32)
    out = {"values": torch.from_numpy(values)}
    for kind in [Type.Q8_0, Type.Q5_0, Type.Q5_1, Type.Q4_K, Type.Q5_K, Type.Q6_K]:
        out[kind.name] = torch.from_numpy(np.frombuffer(encode(values, kind), np.uint8).reshape(len(blocks), -1).copy())
    save_file(out, f"{ROOT}/encoded.safetensors")


def pairs(weight, heads):
    """What llama.cpp's converter does to q and k: halves of a head become neighbours."""
    rows = weight.shape[0] // heads
    return weight.reshape(heads, 2, rows // 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def model(name, arch):
    folder = f"{FAMILIES}/{name}"
    config, tensors = json.load(open(f"{folder}/config.json")), load_file(f"{folder}/model.safetensors")
    heads, kv_heads, head_dim = config["num_attention_heads"], config["num_key_value_heads"], config["head_dim"]
    rope = config["rope_parameters"]
    rope = rope.get("full_attention", rope)

    def fill(writer):
        writer.add_context_length(config["max_position_embeddings"])
        writer.add_embedding_length(config["hidden_size"])
        writer.add_block_count(config["num_hidden_layers"])
        writer.add_feed_forward_length(config["intermediate_size"])
        writer.add_head_count(heads)
        writer.add_head_count_kv(kv_heads)
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
        writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
        writer.add_rope_freq_base(rope["rope_theta"])
        writer.add_rope_dimension_count(int(head_dim * rope.get("partial_rotary_factor", 1.0)))
        if config.get("sliding_window") and arch != "qwen2":
            writer.add_sliding_window(config["sliding_window"])
        if arch == "gemma2":
            writer.add_attn_logit_softcapping(config["attn_logit_softcapping"])
            writer.add_final_logit_softcapping(config["final_logit_softcapping"])
        if rope["rope_type"] in ("linear", "yarn"):
            writer.add_string(f"{arch}.rope.scaling.type", rope["rope_type"])
            writer.add_rope_scaling_factor(rope["factor"])
        if rope["rope_type"] == "yarn":
            writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
        if rope["rope_type"] == "longrope":
            writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
            factor = config["max_position_embeddings"] / rope["original_max_position_embeddings"]
            writer.add_rope_scaling_attn_factors(
                float(np.sqrt(1 + np.log(factor) / np.log(rope["original_max_position_embeddings"]))))
            for length in ("long", "short"):
                factors = np.array(rope[f"{length}_factor"], dtype=np.float32)
                writer.add_tensor(f"rope_factors_{length}.weight", factors)
        if arch == "granite":
            writer.add_embedding_scale(config["embedding_multiplier"])
            writer.add_attention_scale(config["attention_multiplier"])
            writer.add_residual_scale(config["residual_multiplier"])
            writer.add_logit_scale(config["logits_scaling"])
        for key, tensor in sorted(tensors.items()):
            value = tensor.float().numpy()
            module, end = key.rsplit(".", 1)
            if ".layers." in module:
                number, part = module.removeprefix("model.layers.").split(".", 1)
                after = any(k.endswith("post_feedforward_layernorm.weight") for k in tensors)
                norm = "post_attention_norm" if after else "ffn_norm"
                ours = f"blk.{number}.{norm if part == 'post_attention_layernorm' else LAYER[part]}"
            else:
                ours = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}[module]
            if arch in ("llama", "granite", "smollm3") and ".q_proj" in module:
                value = pairs(value, heads)
            if arch in ("llama", "granite", "smollm3") and ".k_proj" in module:
                value = pairs(value, kv_heads)
            if arch.startswith("gemma") and module.endswith("norm"):
                value = value + 1
            writer.add_tensor(f"{ours}.{end}", np.ascontiguousarray(value))

    write(name, arch, fill)


def tokenizer(writer):
    """Llama 3's tokenizer with fewer tokens, which llama-burn's tests compare with Transformers."""
    data = json.load(open("crates/llama-burn/tests/fixtures/tokenizer/tokenizer.json"))
    vocab = data["model"]["vocab"]
    special = {token["content"]: token["id"] for token in data["added_tokens"]}
    tokens = sorted(vocab | special, key=(vocab | special).get)
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in data["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in special else 1 for token in tokens])
    writer.add_token_merges(merges)
    writer.add_bos_token_id(special["<|begin_of_text|>"])
    writer.add_eos_token_id(special["<|eot_id|>"])
    writer.add_chat_template("{% for m in messages %}{{ m.content }}{% endfor %}")
    writer.add_context_length(16)
    writer.add_embedding_length(4)
    writer.add_block_count(1)
    writer.add_feed_forward_length(4)
    writer.add_head_count(2)
    writer.add_tensor("token_embd.weight", np.zeros((len(tokens), 4), dtype=np.float32))


def small(writer):
    """A whole model in few bytes: what changed files begin with."""
    generator = np.random.default_rng(3)
    hidden, inner, vocab = 32, 32, 16
    draw = lambda *shape: generator.normal(0, 0.3, shape).astype(np.float32)
    writer.add_context_length(16)
    writer.add_embedding_length(hidden)
    writer.add_block_count(1)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(16)
    writer.add_rope_scaling_type(RopeScalingType.YARN)
    writer.add_rope_scaling_factor(2.0)
    writer.add_rope_scaling_orig_ctx_len(8)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(["<s>", "</s>", *"abcdefghijkl", "ab", "cd"])
    writer.add_token_types([3, 3] + [1] * 14)
    writer.add_token_merges(["a b", "c d"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_tensor("token_embd.weight", quantize(draw(vocab, hidden), Type.Q8_0), raw_dtype=Type.Q8_0)
    writer.add_tensor("output_norm.weight", draw(hidden))
    for name, rows, width in [("attn_norm", hidden, 0), ("attn_q", hidden, hidden), ("attn_k", 16, hidden),
                              ("attn_v", 16, hidden), ("attn_output", hidden, hidden), ("ffn_norm", hidden, 0),
                              ("ffn_gate", inner, hidden), ("ffn_up", inner, hidden), ("ffn_down", hidden, inner)]:
        if width:
            writer.add_tensor(f"blk.0.{name}.weight", quantize(draw(rows, width), Type.Q4_0), raw_dtype=Type.Q4_0)
        else:
            writer.add_tensor(f"blk.0.{name}.weight", draw(rows))


def read(path, out):
    tensors = {}
    for tensor in GGUFReader(path).tensors:
        values = dequantize(tensor.data, tensor.tensor_type).reshape(*reversed(tensor.shape.tolist()))
        tensors[tensor.name] = torch.from_numpy(np.ascontiguousarray(values).astype(np.float32).copy())
    save_file(tensors, out)


if sys.argv[1:2] == ["read"]:
    read(*sys.argv[2:])
else:
    shutil.rmtree(ROOT, ignore_errors=True)
    os.makedirs(ROOT)
    write("types", "llama", types)
    encoded()
    write("tokenizer", "llama", tokenizer)
    write("small", "llama", small)
    for name, arch in [("mistral", "llama"), ("qwen3", "qwen3"), ("gemma", "gemma"), ("phi3_longrope", "phi3"),
                       ("smollm3", "smollm3"), ("olmo2", "olmo2"), ("granite", "granite")]:
        model(name, arch)
